// This file is the way to the instances: one transport for all of them, whose
// pool of kept-alive connections is keyed by the run of an instance, and the
// one repetition that is safe when an instance has gone away.

package proxy

import (
	"context"
	stderrors "errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"atc/fs/errors"
)

// upstream sends requests to the instances their exchanges hold. The URL's host
// is the pool's key and nothing else: a run that has ended is never looked up
// again, and its connections go when their peer closes or after UpstreamIdle.
// So there is no list of instances to keep.
type upstream struct {
	instances    Instances
	startTimeout time.Duration
	transport    *http.Transport
}

const (
	maxIdlePerInstance = 64   // kept-alive connections to one instance
	maxIdle            = 1024 // and to all of them
	upstreamBuffer     = 4 << 10
	maxAnswerHeader    = 256 << 10 // an application is not trusted with our memory
)

func newUpstream(opt *Options) *upstream {
	return &upstream{
		instances:    opt.Instances,
		startTimeout: opt.StartTimeout,
		transport: &http.Transport{
			DialContext:            dial(opt.DialTimeout),
			DisableCompression:     true, // the body is the client's to interpret
			MaxIdleConns:           maxIdle,
			MaxIdleConnsPerHost:    maxIdlePerInstance,
			IdleConnTimeout:        opt.UpstreamIdle,
			ResponseHeaderTimeout:  opt.ResponseTimeout,
			ExpectContinueTimeout:  time.Second,
			MaxResponseHeaderBytes: maxAnswerHeader,
			ReadBufferSize:         upstreamBuffer,
			WriteBufferSize:        upstreamBuffer,
			Protocols:              onlyHTTP1(),
		},
	}
}

func onlyHTTP1() *http.Protocols {
	var p http.Protocols
	p.SetHTTP1(true)
	return &p
}

// leaseKey finds the instance to dial in a request's context.
type leaseKey struct{}

// dial connects to the instance of the request that the transport dials for.
// The transport may do so after that request is over, and may give the
// connection to another one, but only to one with the same key, thus of the
// same run.
func dial(timeout time.Duration) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		conn, err := ctx.Value(leaseKey{}).(Instance).Dial(ctx)
		if err != nil {
			return nil, &dialError{err}
		}
		return conn, nil
	}
}

// dialError means that no byte of the request was sent.
type dialError struct{ error }

func (e *dialError) Unwrap() error { return e.error }

// poolKey makes a URL host of a tenant and a run, such that two runs never
// share one: '.' occurs in neither part.
func poolKey(tenant, run string) string {
	for i := 0; i < len(run); i++ {
		if c := fold(run[i]); !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-') {
			return fmt.Sprintf("%s.x.%x", tenant, run)
		}
	}
	return tenant + "." + run
}

// acquire takes a lease for the exchange, which has to be released.
func (u *upstream) acquire(ctx context.Context, x *exchange) error {
	instance, err := u.instances.Acquire(ctx, x.decision.Tenant, x.decision.App)
	if err != nil {
		return fmt.Errorf("acquiring an instance of %s: %w", x.decision.Tenant, err)
	}
	x.instance, x.held = instance, true
	return nil
}

// RoundTrip sends the request once, and a second time to a newly acquired
// instance when the first could not be connected to: a process that has just
// died is replaced without the client noticing. The transport itself repeats
// GET and the like on a fresh connection when a kept-alive one was stale.
func (u *upstream) RoundTrip(r *http.Request) (*http.Response, error) {
	x := exchangeOf(r.Context())
	res, err := u.send(r, x)
	var unsent *dialError
	if stderrors.As(err, &unsent) && r.Context().Err() == nil {
		x.release()
		ctx, cancel := context.WithTimeout(r.Context(), u.startTimeout)
		defer cancel()
		if err := u.acquire(ctx, x); err != nil {
			return nil, err
		}
		res, err = u.send(r, x)
	}
	if err == nil {
		return res, nil
	}
	if berr := x.body.failed(); berr != nil {
		return nil, errors.E("read request", "body", errors.Invalid, berr)
	}
	status := http.StatusBadGateway
	var timed net.Error
	if stderrors.As(err, &timed) && timed.Timeout() {
		status = http.StatusGatewayTimeout
	}
	return nil, &statusError{status: status, err: fmt.Errorf("forwarding to %s: %w", x.decision.Tenant, err)}
}

func (u *upstream) send(r *http.Request, x *exchange) (*http.Response, error) {
	// The lease goes into the context by itself, because a dial that outlives
	// the request must not look into the exchange.
	out := r.WithContext(context.WithValue(r.Context(), leaseKey{}, x.instance))
	url := *r.URL
	url.Host = poolKey(x.decision.Tenant, x.instance.ID())
	out.URL = &url
	return u.transport.RoundTrip(out)
}

// requestBody keeps the transport from closing a body that may have to be sent
// once more, and remembers how reading it ended. A nil one has never been read.
type requestBody struct {
	rc io.ReadCloser

	mu  sync.Mutex // protects err: the transport reads on a goroutine of its own
	err error      // of the last Read
}

// Read keeps to the end it has seen. The transport reads once more after the
// last byte; net/http's server may have closed the body by then, because the
// application's answer has begun, and that error would cut the answer off.
func (b *requestBody) Read(p []byte) (int, error) {
	if err := b.outcome(); err != nil {
		return 0, err
	}
	n, err := b.rc.Read(p)
	if err != nil {
		b.mu.Lock()
		b.err = err
		b.mu.Unlock()
	}
	return n, err
}

// Close leaves closing to httputil, which does it when the request is over.
func (b *requestBody) Close() error { return nil }

// ended reports whether the body has been read to its end. An application that
// has it all has it after that.
func (b *requestBody) ended() bool { return b.outcome() == io.EOF }

// failed returns why the body could not be read, which is the client's fault.
func (b *requestBody) failed() error {
	if err := b.outcome(); err != io.EOF {
		return err
	}
	return nil
}

func (b *requestBody) outcome() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// upgraded is the client's side of a WebSocket. httputil calls CloseWrite when
// the application has closed its side, and would then wait for the client for
// ever: a client that never closes must not keep an instance awake.
type upgraded struct{ net.Conn }

// upgradeLinger is what a client gets to close after the application has.
const upgradeLinger = 2 * time.Second

func (c upgraded) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return net.ErrClosed // ends the exchange at once
	}
	return stderrors.Join(half.CloseWrite(), c.SetReadDeadline(time.Now().Add(upgradeLinger)))
}

// bufferPool lends the buffers through which answers are copied.
type bufferPool struct{ pool sync.Pool }

type copyBuffer [32 << 10]byte

func newBufferPool() *bufferPool {
	return &bufferPool{sync.Pool{New: func() any { return new(copyBuffer) }}}
}

func (b *bufferPool) Get() []byte { return b.pool.Get().(*copyBuffer)[:] }

func (b *bufferPool) Put(p []byte) { b.pool.Put((*copyBuffer)(p)) }
