package proxy_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"atc/proxy"
)

// pattern is an endless stream of bytes that never repeats soon.
type pattern struct{ n byte }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		p.n = p.n*5 + 3
		b[i] = p.n
	}
	return len(b), nil
}

// peakHeap runs fn and returns by how much the heap grew at its highest.
func peakHeap(fn func()) uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	base, peak := m.HeapInuse, uint64(0)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				if m.HeapInuse > base {
					peak = max(peak, m.HeapInuse-base)
				}
			}
		}
	}()
	fn()
	close(stop)
	<-stopped
	return peak
}

// 50 MiB each way, with a known length and without: neither side is buffered.
func TestLargeBodiesAreStreamed(t *testing.T) {
	const size, bound = 50 << 20, 24 << 20
	f := newFleet(t, map[string]http.Handler{"acme": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			h := sha256.New()
			n, _ := io.Copy(h, r.Body)
			fmt.Fprintf(w, "%d %x", n, h.Sum(nil))
			return
		}
		if r.URL.Path == "/known" {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		io.CopyN(w, &pattern{}, size)
	})})
	fr := serve(t, f, proxy.Options{})
	want := sha256.New()
	io.CopyN(want, &pattern{}, size)
	sum := fmt.Sprintf("%d %x", size, want.Sum(nil))
	for _, path := range []string{"/known", "/unknown"} {
		t.Run("download"+path, func(t *testing.T) {
			peak := peakHeap(func() {
				res, err := fr.client().Get("http://acme.example.com" + path)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				h := sha256.New()
				n, err := io.Copy(h, res.Body)
				if got := fmt.Sprintf("%d %x", n, h.Sum(nil)); err != nil || got != sum {
					t.Errorf("got %s, %v", got, err)
				}
			})
			if peak > bound {
				t.Errorf("the heap grew by %d MiB", peak>>20)
			}
		})
		t.Run("upload"+path, func(t *testing.T) {
			peak := peakHeap(func() {
				req, _ := http.NewRequest("POST", "http://acme.example.com"+path, io.LimitReader(&pattern{}, size))
				if path == "/known" {
					req.ContentLength = size
				}
				res, err := fr.client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				if got, _ := io.ReadAll(res.Body); string(got) != sum {
					t.Errorf("status %d, got %s", res.StatusCode, got)
				}
			})
			if peak > bound {
				t.Errorf("the heap grew by %d MiB", peak>>20)
			}
		})
	}
}

// Each event arrives before the next one is sent: the application sends one
// only when the test has seen the one before.
func TestEventsAreFlushedOneByOne(t *testing.T) {
	for _, contentType := range []string{"text/event-stream", "application/x-ndjson"} {
		t.Run(contentType, func(t *testing.T) {
			next := make(chan struct{})
			f := newFleet(t, map[string]http.Handler{"acme": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", contentType)
				w.WriteHeader(200)
				w.(http.Flusher).Flush()
				for range next {
					fmt.Fprintf(w, "data: tick\n\n")
					w.(http.Flusher).Flush()
				}
			})})
			fr := serve(t, f, proxy.Options{})
			res, err := fr.client().Get("http://acme.example.com/")
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			lines := bufio.NewReader(res.Body)
			for range 20 {
				began := time.Now()
				next <- struct{}{}
				if line, err := lines.ReadString('\n'); err != nil || line != "data: tick\n" {
					t.Fatalf("%q %v", line, err)
				}
				lines.ReadString('\n')
				if late := time.Since(began); late > 5*time.Second {
					t.Errorf("an event took %v", late)
				}
			}
			close(next)
		})
	}
}

// A slow answer of known length trickles through instead of filling a buffer.
func TestSlowAnswerOfKnownLengthIsFlushed(t *testing.T) {
	next := make(chan struct{})
	f := newFleet(t, map[string]http.Handler{"acme": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "2")
		io.WriteString(w, "a")
		w.(http.Flusher).Flush()
		<-next
		io.WriteString(w, "b")
	})})
	fr := serve(t, f, proxy.Options{})
	res, err := fr.client().Get("http://acme.example.com/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b := make([]byte, 1)
	if _, err := io.ReadFull(res.Body, b); err != nil || b[0] != 'a' {
		t.Fatalf("%q %v", b, err)
	}
	close(next)
	if rest, _ := io.ReadAll(res.Body); string(rest) != "b" {
		t.Errorf("rest %q", rest)
	}
}

// The answer may begin before the body ends, and each may wait for the other.
func TestBothDirectionsStreamAtOnce(t *testing.T) {
	f := newFleet(t, map[string]http.Handler{"acme": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		if r.URL.Path == "/early" {
			io.WriteString(w, "no, thanks")
			return
		}
		for lines := bufio.NewScanner(r.Body); lines.Scan(); {
			fmt.Fprintln(w, lines.Text())
			w.(http.Flusher).Flush()
		}
	})})
	fr := serve(t, f, proxy.Options{})
	t.Run("echo", func(t *testing.T) {
		r, w := io.Pipe()
		req, _ := http.NewRequest("POST", "http://acme.example.com/", r)
		res, err := fr.client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		lines := bufio.NewScanner(res.Body)
		for n := range 200 {
			line := fmt.Sprint(n, strings.Repeat("x", 2000))
			fmt.Fprintln(w, line)
			if !lines.Scan() || lines.Text() != line {
				t.Fatalf("line %d: %.20q %v", n, lines.Text(), lines.Err())
			}
		}
		w.Close()
		if lines.Scan() {
			t.Errorf("and then %q", lines.Text())
		}
	})
	t.Run("answer to half a body", func(t *testing.T) {
		status, body := raw(t, fr.addr, "POST /early HTTP/1.1\r\nHost: acme.example.com\r\nContent-Length: 100000\r\n\r\nonly the beginning")
		if status != 200 || body != "no, thanks" {
			t.Errorf("%d %q", status, body)
		}
	})
}

func TestContinueIsAskedOfTheApplication(t *testing.T) {
	var read atomic.Int64
	f := newFleet(t, map[string]http.Handler{"acme": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
			return
		}
		n, _ := io.Copy(io.Discard, r.Body)
		read.Add(n)
	})})
	fr := serve(t, f, proxy.Options{})
	for path, want := range map[string]int{"/refuse": 413, "/accept": 200} {
		var sent atomic.Int64
		body := io.TeeReader(strings.NewReader(strings.Repeat("x", 1000)), counter{&sent})
		var continued atomic.Bool
		ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{Got100Continue: func() { continued.Store(true) }})
		req, _ := http.NewRequestWithContext(ctx, "POST", "http://acme.example.com"+path, body)
		req.ContentLength = 1000
		req.Header.Set("Expect", "100-continue")
		res, err := fr.client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want || continued.Load() != (want == 200) || (sent.Load() == 1000) != (want == 200) {
			t.Errorf("%s: status %d, continued %v, %d bytes sent", path, res.StatusCode, continued.Load(), sent.Load())
		}
	}
	if read.Load() != 1000 {
		t.Errorf("the application read %d bytes", read.Load())
	}
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) { c.n.Add(int64(len(p))); return len(p), nil }

func TestTrailersAndInterimResponses(t *testing.T) {
	f := newFleet(t, map[string]http.Handler{"acme": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Trailer", "X-Sum")
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
		w.Header().Set("X-Sum", r.Trailer.Get("X-Client-Sum")+" seen")
		w.Header().Set(http.TrailerPrefix+"X-Unannounced", "too")
	})})
	fr := serve(t, f, proxy.Options{})
	var hints atomic.Int64
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		if code == 103 && h.Get("Link") != "" {
			hints.Add(1)
		}
		return nil
	}})
	req, _ := http.NewRequestWithContext(ctx, "POST", "http://acme.example.com/", struct{ io.Reader }{strings.NewReader("body")})
	req.Trailer = http.Header{"X-Client-Sum": {"42"}}
	res, err := fr.client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	if string(body) != "body" || res.Trailer.Get("X-Sum") != "42 seen" || res.Trailer.Get("X-Unannounced") != "too" || hints.Load() != 1 {
		t.Errorf("body %q, trailers %v, %d hints", body, res.Trailer, hints.Load())
	}
}

// The client's connection is used again after a body, but not, and then it is
// told so, after an answer that began before the body had ended.
func TestConnectionAfterABody(t *testing.T) {
	f := newFleet(t, map[string]http.Handler{"acme": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/read" {
			io.Copy(io.Discard, r.Body)
		} else {
			http.NewResponseController(w).EnableFullDuplex() // does not wait for the body itself
		}
		io.WriteString(w, "answer")
	})})
	fr := serve(t, f, proxy.Options{})
	conn, err := net.Dial("tcp", fr.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(conn)
	for n, c := range []struct {
		head, body string
		close      bool
	}{
		{"POST /read HTTP/1.1\r\nHost: acme.x\r\nContent-Length: 90000\r\n\r\n", strings.Repeat("b", 90000), false},
		{"POST /read HTTP/1.1\r\nHost: acme.x\r\nTransfer-Encoding: chunked\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", false},
		{"GET /read HTTP/1.1\r\nHost: acme.x\r\n\r\n", "", false},
		{"POST /ignored HTTP/1.1\r\nHost: acme.x\r\nContent-Length: 90000\r\n\r\n", "half", true},
	} {
		io.WriteString(conn, c.head+c.body)
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("request %d: %v", n, err)
		}
		if body, err := io.ReadAll(res.Body); string(body) != "answer" || res.Close != c.close {
			t.Errorf("request %d: %q, %v, close %v", n, body, err, res.Close)
		}
	}
}

// What net/http would add on its own is not added.
func TestAnswerArrivesUntouched(t *testing.T) {
	encoding := map[string]string{"/": "", "/gzip": "Content-Encoding: gzip\r\n"}
	f := newFleet(t, map[string]http.Handler{"acme": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, _ := w.(http.Hijacker).Hijack()
		io.WriteString(conn, "HTTP/1.1 203 Fine\r\nDate: Mon, 02 Jan 2006 15:04:05 GMT\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"+encoding[r.URL.Path]+"Content-Length: 16\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n<html>not really")
		conn.Close()
	})})
	fr := serve(t, f, proxy.Options{})
	for path, want := range map[string]string{
		"/":     "203 map[Date:[Mon, 02 Jan 2006 15:04:05 GMT] Set-Cookie:[a=1 b=2]]<html>not really",
		"/gzip": "203 map[Content-Encoding:[gzip] Date:[Mon, 02 Jan 2006 15:04:05 GMT] Set-Cookie:[a=1 b=2]]<html>not really",
	} {
		res, err := fr.client().Get("http://acme.example.com" + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		res.Header.Del("Content-Length")
		if got := fmt.Sprint(res.StatusCode, res.Header, string(body)); got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
	}
}

func TestClientDisconnectCancelsTheApplication(t *testing.T) {
	for _, how := range []string{"closes", "half-closes"} {
		t.Run(how, func(t *testing.T) {
			began, ended := make(chan struct{}), make(chan struct{})
			f := newFleet(t, map[string]http.Handler{"acme": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				close(began)
				<-r.Context().Done()
				close(ended)
			})})
			fr := serve(t, f, proxy.Options{AccessLog: true})
			conn, err := net.Dial("tcp", fr.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			io.WriteString(conn, "GET /gone?secret HTTP/1.1\r\nHost: acme.example.com\r\n\r\n")
			<-began
			if how == "closes" {
				conn.Close()
			} else {
				conn.(*net.TCPConn).CloseWrite()
				// No answer is better than an empty one with status 200.
				if answer, _ := io.ReadAll(conn); len(answer) != 0 {
					t.Errorf("the client got %q", answer)
				}
			}
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				t.Fatal("the application was not told")
			}
			eventually(t, "the request is logged", func() bool { return strings.Contains(fr.log.String(), "path=/gone status=499") })
		})
	}
}

func TestCrashInTheMiddleOfABody(t *testing.T) {
	sent := make(chan struct{})
	f := newFleet(t, map[string]http.Handler{"acme": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ok" {
			return
		}
		if r.URL.Path == "/known" {
			w.Header().Set("Content-Length", "1000000")
		}
		io.WriteString(w, strings.Repeat("x", 10000))
		w.(http.Flusher).Flush()
		<-sent
		panic(http.ErrAbortHandler)
	})})
	fr := serve(t, f, proxy.Options{AccessLog: true})
	for _, path := range []string{"/known", "/unknown"} {
		res, err := fr.client().Get("http://acme.example.com" + path)
		if err != nil {
			t.Fatal(err)
		}
		io.ReadFull(res.Body, make([]byte, 10000))
		sent <- struct{}{}
		// The client must be able to tell: no clean end.
		if rest, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("%s: the answer ended cleanly after %d more bytes", path, len(rest))
		}
		res.Body.Close()
	}
	if status, _ := fr.get("http://acme.example.com/ok"); status != 200 {
		t.Errorf("the next request got %d", status)
	}
	eventually(t, "it is logged", func() bool { return strings.Count(fr.log.String(), "aborted=true") == 2 })
}
