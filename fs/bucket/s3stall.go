package bucket

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// The time limit of one attempt. net/http limits whole requests or single
// phases; what tells a slow bucket from a dead one is whether bytes still move,
// and a limit on that fits small and large objects alike.

// stallClient gives up requests of which no byte moved for a while. Time in
// which nobody reads the answer does not count.
type stallClient struct {
	client  aws.HTTPClient
	timeout time.Duration
}

// errStalled says so. It is a timeout, which the retryer retries.
type errStalled struct{ after time.Duration }

func (e errStalled) Error() string { return fmt.Sprintf("no byte moved for %v", e.after) }
func (e errStalled) Timeout() bool { return true }
func (e errStalled) Unwrap() error { return os.ErrDeadlineExceeded }

// patience is the context key of a request's own time limit.
type patience struct{}

// Do sends req.
func (s *stallClient) Do(req *http.Request) (*http.Response, error) {
	w := &watch{timeout: s.timeout}
	if d, ok := req.Context().Value(patience{}).(time.Duration); ok {
		w.timeout = d
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	w.ctx, w.cancel = ctx, func() { cancel(context.Canceled) }
	w.timer = time.AfterFunc(w.timeout, func() { cancel(errStalled{w.timeout}) })

	// The original keeps its body: the SDK closes it to take it back.
	sent := req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		sent.Body = &upload{ReadCloser: req.Body, watch: w}
	}
	resp, err := s.client.Do(sent)
	w.timer.Stop()
	if err != nil {
		err = w.explain(err)
		w.cancel()
		return nil, err
	}
	resp.Body = &download{ReadCloser: resp.Body, watch: w}
	return resp, nil
}

// watch is the clock of one attempt.
type watch struct {
	timeout time.Duration
	timer   *time.Timer // cancels ctx when it fires
	ctx     context.Context
	cancel  func()
}

// explain puts the stall in the place of the cancelation that followed from it.
func (w *watch) explain(err error) error {
	if s, ok := context.Cause(w.ctx).(errStalled); ok {
		return s
	}
	return err
}

// upload counts each piece that the transport takes as progress.
type upload struct {
	io.ReadCloser
	watch *watch
}

func (u *upload) Read(p []byte) (int, error) {
	u.watch.timer.Reset(u.watch.timeout)
	return u.ReadCloser.Read(p)
}

// download limits each wait for bytes, and ends the attempt when closed.
type download struct {
	io.ReadCloser
	watch *watch
}

func (d *download) Read(p []byte) (int, error) {
	d.watch.timer.Reset(d.watch.timeout)
	n, err := d.ReadCloser.Read(p)
	d.watch.timer.Stop()
	if err != nil && err != io.EOF {
		err = d.watch.explain(err)
	}
	return n, err
}

func (d *download) Close() error {
	err := d.ReadCloser.Close()
	d.watch.timer.Stop()
	d.watch.cancel()
	return err
}
