package bucket

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"atc/fs/bucket/s3test"
	"atc/fs/errors"
)

// What a healthy S3 server never does: it stalls, breaks off, is throttled,
// lies. Those faults come from small servers made for them; what needs none
// runs against the real one.

// against opens a store on a handler.
func against(t *testing.T, h http.HandlerFunc) *s3Store {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	endpoint, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := s3Config{bucket: "tenants", prefix: "p", endpoint: endpoint, region: "auto"}
	return newS3(c, newClient(c, static(), &stallClient{client: http.DefaultClient, timeout: 10 * time.Second}))
}

func static() aws.CredentialsProvider {
	return credentials.NewStaticCredentialsProvider("ak", "sk", "")
}

func wantKind(t *testing.T, kind errors.Kind, err error) {
	t.Helper()
	if !errors.Is(kind, err) {
		t.Errorf("got %v (%v), want %v", err, errors.KindOf(err), kind)
	}
}

func answer(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	if code != "" {
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>m</Message></Error>", code)
	}
}

// Which answers are retried, and what becomes of those that are not, or that
// stay the same.
func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		status   int
		code     string
		attempts int32
		kind     errors.Kind
	}{
		{500, "InternalError", maxAttempts, errors.Unavailable},
		{503, "SlowDown", maxAttempts, errors.Unavailable},
		{429, "", maxAttempts, errors.Unavailable},
		{408, "", maxAttempts, errors.Unavailable},
		{400, "RequestTimeout", maxAttempts, errors.Unavailable},
		{409, "ConditionalRequestConflict", maxAttempts, errors.Unavailable},
		{409, "ExistingObjectIsDirectory", 1, errors.Invalid},
		{412, "PreconditionFailed", 1, errors.Condition},
		{412, "", 1, errors.Condition},
		{404, "NoSuchKey", 1, errors.NotExist},
		{404, "NoSuchBucket", 1, errors.Invalid},
		{403, "AccessDenied", 1, errors.Permission},
		{403, "SignatureDoesNotMatch", 1, errors.Permission},
		{301, "PermanentRedirect", 1, errors.Permission},
		{400, "InvalidArgument", 1, errors.Invalid},
		{507, "", 1, errors.NoSpace},
	} {
		t.Run(fmt.Sprint(c.status, c.code), func(t *testing.T) {
			t.Parallel()
			var attempts atomic.Int32
			s := against(t, func(w http.ResponseWriter, r *http.Request) {
				attempts.Add(1)
				answer(w, c.status, c.code)
			})
			_, _, err := s.Get(t.Context(), "k")
			if !errors.Is(c.kind, err) || attempts.Load() != c.attempts {
				t.Errorf("%d attempts, %v (%v); want %d, %v", attempts.Load(), err, errors.KindOf(err), c.attempts, c.kind)
			}
		})
	}
}

// A retry sends the whole body again, from where it stood.
func TestRetriedPut(t *testing.T) {
	var attempts atomic.Int32
	s := against(t, func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		if err != nil || string(data) != "body" || r.Header.Get("If-None-Match") != "*" || r.ContentLength != 4 {
			t.Errorf("attempt %d: %q, %v, %v", attempts.Load(), data, r.Header, err)
		}
		for name := range r.Header {
			if strings.Contains(name, "Checksum") || strings.Contains(name, "Trailer") || name == "Content-Encoding" {
				t.Errorf("the SDK added %s, which not every server knows", name)
			}
		}
		if attempts.Add(1) < 3 {
			answer(w, 503, "SlowDown")
			return
		}
		w.Header().Set("ETag", `"e"`)
	})
	body := strings.NewReader("not this, body")
	if _, err := body.Seek(10, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	info, err := s.Put(t.Context(), "k", body, PutOptions{IfNoneMatch: true})
	if err != nil || info.ETag != `"e"` || attempts.Load() != 3 {
		t.Fatalf("%+v, %v after %d attempts", info, err, attempts.Load())
	}
}

// The answer to a write that took place is lost: the retry meets its own
// object, and the caller is told Condition.
func TestLostAnswer(t *testing.T) {
	var attempts atomic.Int32
	s := against(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if attempts.Add(1) == 1 {
			panic(http.ErrAbortHandler)
		}
		answer(w, 412, "PreconditionFailed")
	})
	_, err := s.Put(t.Context(), "k", strings.NewReader("body"), PutOptions{IfNoneMatch: true})
	wantKind(t, errors.Condition, err)
	if attempts.Load() != 2 {
		t.Errorf("%d attempts", attempts.Load())
	}
}

// object answers range reads of data, as S3 does, but for the bytes that cut
// leaves out.
func object(w http.ResponseWriter, r *http.Request, data []byte, cut int) {
	var from, to int
	w.Header().Set("ETag", `"e"`)
	part := data
	n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to)
	if n == 2 {
		part = data[from : to+1]
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(data)))
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(part)))
	if n == 2 {
		w.WriteHeader(206)
	}
	w.Write(part[:len(part)-cut])
	if cut > 0 {
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

func TestBrokenBodies(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 10_000)
	var broken, attempts atomic.Int32
	s := against(t, func(w http.ResponseWriter, r *http.Request) {
		cut := 0
		if attempts.Add(1) <= broken.Load() {
			cut = 1000
		}
		object(w, r, data, cut)
	})
	broken.Store(2)
	got, info, err := s.GetRange(t.Context(), "k", 5, 50_000, "")
	if err != nil || !bytes.Equal(got, data[5:50_005]) || info.Size != int64(len(data)) || attempts.Load() != 3 {
		t.Fatalf("%d bytes of %d after %d attempts, %v", len(got), info.Size, attempts.Load(), err)
	}
	broken.Store(1000)
	attempts.Store(0)
	_, _, err = s.GetRange(t.Context(), "k", 5, 50_000, "")
	wantKind(t, errors.Unavailable, err)
	if attempts.Load() != maxAttempts {
		t.Errorf("%d attempts", attempts.Load())
	}
	// A whole object is streamed, so its reader gets the error, and never an
	// end that looks like one.
	body, _, err := s.Get(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	n, err := io.Copy(io.Discard, body)
	wantKind(t, errors.Unavailable, err)
	if n >= int64(len(data)) {
		t.Errorf("read %d bytes", n)
	}
}

// Answers that are not what was asked for are refused before anything is
// allocated or believed.
func TestLyingRanges(t *testing.T) {
	for what, c := range map[string]struct {
		contentRange string
		kind         errors.Kind
	}{
		"another place": {"bytes 6-15/100", errors.Corrupt},
		"less":          {"bytes 5-9/100", errors.Corrupt},
		"more":          {"bytes 5-99/100", errors.Corrupt},
		"no size":       {"bytes 5-14/*", errors.Corrupt},
		"garbage":       {"x", errors.Corrupt},
		"negative":      {"bytes -5-14/100", errors.Corrupt},
		"smaller":       {"bytes 5-14/9", errors.Corrupt},
		"ignored":       {"", errors.Unsupported},
	} {
		s := against(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"e"`)
			if c.contentRange != "" {
				w.Header().Set("Content-Range", c.contentRange)
				w.WriteHeader(206)
			}
			w.Write(make([]byte, 100))
		})
		_, _, err := s.GetRange(t.Context(), "k", 5, 10, "")
		if !errors.Is(c.kind, err) {
			t.Errorf("%s: %v (%v), want %v", what, err, errors.KindOf(err), c.kind)
		}
	}
	// Without an etag no write could ever be conditional.
	s := against(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	_, err := s.Put(t.Context(), "k", strings.NewReader("x"), PutOptions{})
	wantKind(t, errors.Unsupported, err)
}

func TestLyingListings(t *testing.T) {
	s := against(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `<ListBucketResult><IsTruncated>false</IsTruncated>
			<Contents><Key>elsewhere/a</Key><Size>1</Size></Contents>
			<Contents><Key>p/../b</Key><Size>1</Size></Contents>
			<Contents><Key>p/folder/</Key><Size>0</Size></Contents>
			<Contents><Key>p/ok</Key><Size>1</Size></Contents>
			<Contents><Key>p/ok</Key><Size>1</Size></Contents>
			<Contents><Key>p/early</Key><Size>1</Size></Contents>
			<Contents><Key>p/z//z</Key><Size>1</Size></Contents></ListBucketResult>`)
	})
	n := 0
	for e, err := range s.List(t.Context(), "", ListOptions{}) {
		if n++; err != nil || e.Key != "ok" {
			t.Errorf("listed %q, %v", e.Key, err)
		}
	}
	if n != 1 {
		t.Errorf("%d entries", n)
	}
	s = against(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>`)
	})
	for _, err := range s.List(t.Context(), "", ListOptions{}) {
		wantKind(t, errors.Corrupt, err)
	}
}

// What moves, however slowly, is waited for; what does not is given up.
func TestStalls(t *testing.T) {
	const (
		limit = 500 * time.Millisecond
		pause = limit / 8 // of what moves, longer than limit in the sum
		steps = 12
	)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/silent":
			<-r.Context().Done()
		case "/half":
			w.Header().Set("Content-Length", "10")
			io.WriteString(w, "12345")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case "/slow":
			for range steps {
				io.WriteString(w, "x")
				w.(http.Flusher).Flush()
				time.Sleep(pause)
			}
		case "/upload":
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n, err)
		}
	}))
	t.Cleanup(server.Close)
	client := &stallClient{client: http.DefaultClient, timeout: limit}
	do := func(ctx context.Context, path string, body io.Reader, late time.Duration) (string, error) {
		req, err := http.NewRequestWithContext(ctx, "PUT", server.URL+path, body)
		if err != nil {
			return "", err
		}
		resp, err := client.Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		time.Sleep(late)
		first := make([]byte, 1)
		if _, err := io.ReadFull(resp.Body, first); err != nil {
			return "", err
		}
		time.Sleep(late)
		rest, err := io.ReadAll(resp.Body)
		return string(first) + string(rest), err
	}
	for _, c := range []struct {
		name, path string
		patience   time.Duration // of the request's own
		cancel     time.Duration // by the caller
		late       time.Duration // before and while the answer is read: no time of the server's
		want       string
		stalled    bool
		after      time.Duration // at the earliest
	}{
		{name: "NoAnswer", path: "/silent", stalled: true, after: limit},
		{name: "HalfAnAnswer", path: "/half", stalled: true, after: limit},
		{name: "SlowAnswer", path: "/slow", want: strings.Repeat("x", steps)},
		{name: "SlowUpload", path: "/upload", want: fmt.Sprint(steps, nil)},
		{name: "LateReader", path: "/slow", late: 2 * limit, want: strings.Repeat("x", steps)},
		{name: "Patience", path: "/silent", patience: 2 * limit, stalled: true, after: 2 * limit},
		{name: "Canceled", path: "/silent", cancel: limit / 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			if c.patience > 0 {
				ctx = context.WithValue(ctx, patience{}, c.patience)
			}
			if c.cancel > 0 {
				limited, cancel := context.WithTimeout(ctx, c.cancel)
				defer cancel()
				ctx = limited
			}
			start := time.Now()
			var body io.Reader
			if c.path == "/upload" {
				body = &slowly{pause, steps}
			}
			got, err := do(ctx, c.path, body, c.late)
			_, stalled := err.(errStalled)
			if stalled != c.stalled || c.want != "" && (err != nil || got != c.want) || c.want == "" && err == nil {
				t.Errorf("got %q, %v", got, err)
			}
			if took := time.Since(start); took < c.after || took > 20*limit {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// slowly gives one byte at a time.
type slowly struct {
	pause time.Duration
	left  int
}

func (s *slowly) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	s.left--
	time.Sleep(s.pause)
	return copy(p, "x"), nil
}

// recorder keeps the last request.
type recorder struct{ last *http.Request }

func (r *recorder) Do(req *http.Request) (*http.Response, error) {
	r.last = req
	return &http.Response{StatusCode: 204, Header: http.Header{}, Body: http.NoBody}, nil
}

func TestHostsAndHeaders(t *testing.T) {
	for _, c := range []struct {
		url, want  string
		consistent bool
	}{
		{"s3://tenants", "https://tenants.s3.us-east-1.amazonaws.com/k", false},
		{"s3://tenants/p?region=eu-west-1", "https://tenants.s3.eu-west-1.amazonaws.com/p/k", false},
		{"s3://tenants?endpoint=https://s3.example:9000", "https://s3.example:9000/tenants/k", false},
		{"s3://tenants?endpoint=https://fly.storage.tigris.dev", "https://tenants.fly.storage.tigris.dev/k", true},
		{"s3://tenants?endpoint=https://t3.storage.dev", "https://tenants.t3.storage.dev/k", true},
	} {
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		config, err := s3ConfigOf(u, u.Query(), func(string) string { return "" })
		if err != nil {
			t.Fatal(err)
		}
		var r recorder
		if err := newS3(config, newClient(config, static(), &r)).Delete(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		got := *r.last.URL
		got.RawQuery = ""
		signed := strings.Contains(r.last.Header.Get("Authorization"), "x-tigris-consistent")
		if got.String() != c.want || (r.last.Header.Get("X-Tigris-Consistent") == "true") != c.consistent || signed != c.consistent {
			t.Errorf("%s: %s %v", c.url, &got, r.last.Header)
		}
	}
}

// A wrong bucket or secret must not look like an empty store.
func TestWrongBucketAndCredentials(t *testing.T) {
	good := s3test.Start(t)
	missing, err := Open(t.Context(), strings.Replace(good, "s3://tenants", "s3://nobodys", 1))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
	stranger, err := Open(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	for kind, b := range map[errors.Kind]Bucket{errors.Invalid: missing, errors.Permission: stranger} {
		_, _, err := b.Get(t.Context(), "k")
		wantKind(t, kind, err)
		_, _, err = b.GetRange(t.Context(), "k", 0, 1, "")
		wantKind(t, kind, err)
		_, err = b.Put(t.Context(), "k", strings.NewReader("x"), PutOptions{})
		wantKind(t, kind, err)
		wantKind(t, kind, b.Copy(t.Context(), "k", "l"))
		wantKind(t, kind, b.Delete(t.Context(), "k"))
		for _, err := range b.List(t.Context(), "", ListOptions{}) {
			wantKind(t, kind, err)
			if strings.Contains(err.Error(), "hunter2") {
				t.Error(err)
			}
		}
	}
}
