package proxy_test

import (
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"atc/proxy"
)

// Requests under way finish, new connections are refused, a WebSocket that
// nobody closes is closed.
func TestDrain(t *testing.T) {
	began, finish := make(chan struct{}), make(chan struct{})
	f := newFleet(t, map[string]http.Handler{
		"acme": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(began)
			<-finish
			io.WriteString(w, "finished")
		}),
		"globex": echoSocket,
	})
	fr := serve(t, f, proxy.Options{})
	answered := make(chan string, 1)
	go func() { _, body := fr.get("http://acme.example.com/"); answered <- body }()
	<-began
	socket, ctx := dialSocket(t, fr, "globex")

	fr.stop()
	eventually(t, "new connections are refused", func() bool {
		conn, err := net.Dial("tcp", fr.addr)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	select {
	case err := <-fr.done:
		t.Fatalf("Serve returned %v while a request was under way", err)
	default:
	}
	close(finish)
	if body := <-answered; body != "finished" {
		t.Errorf("got %q", body)
	}
	if _, _, err := socket.Read(ctx); err == nil || ctx.Err() != nil {
		t.Error("the WebSocket was not closed")
	}
	err := <-fr.done
	fr.done <- err
	if n := f.leases.Load(); n != 0 || err != nil {
		t.Errorf("Serve returned %v with %d leases held", err, n)
	}
}

// What is not finished within DrainTimeout is cut off.
func TestDrainIsBounded(t *testing.T) {
	began := make(chan struct{})
	f := newFleet(t, map[string]http.Handler{"acme": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		close(began)
		<-r.Context().Done()
	})})
	fr := serve(t, f, proxy.Options{DrainTimeout: 50 * time.Millisecond})
	res, err := fr.client().Get("http://acme.example.com/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	<-began
	fr.stop()
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("the answer ended cleanly")
	}
	err = <-fr.done
	fr.done <- err
	if n := f.leases.Load(); n != 0 || err != nil {
		t.Errorf("Serve returned %v with %d leases held", err, n)
	}
}

// A proxy that has served and drained leaves no goroutine behind.
func TestNothingIsLeftBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("serve", func(t *testing.T) {
		f := newFleet(t, map[string]http.Handler{"acme": says("acme"), "globex": echoSocket})
		fr := serve(t, f, proxy.Options{})
		for range 20 {
			fr.get("http://acme.example.com/")
		}
		dialSocket(t, fr, "globex")
	})
	var stacks string
	defer func() {
		if t.Failed() {
			t.Log(stacks)
		}
	}()
	eventually(t, "all goroutines have ended", func() bool {
		buf := make([]byte, 64<<10)
		stacks = string(buf[:runtime.Stack(buf, true)])
		return runtime.NumGoroutine() <= before
	})
}

func TestAccessLog(t *testing.T) {
	fr := serve(t, newFleet(t, map[string]http.Handler{"acme": says("twelve bytes")}), proxy.Options{AccessLog: true})
	fr.get("http://acme.example.com/a/b?token=secret")
	fr.get("http://acme.example.com/" + strings.Repeat("long", 1000))
	eventually(t, "both are logged", func() bool { return strings.Count(fr.log.String(), "\n") == 2 })
	log := fr.log.String()
	for _, want := range []string{"level=INFO", "tenant=acme", "method=GET", "path=/a/b ", "status=200", "bytes=12", "duration=", "request="} {
		if !strings.Contains(log, want) {
			t.Errorf("%q is missing in %s", want, log)
		}
	}
	if strings.Contains(log, "secret") || len(log) > 1500 {
		t.Errorf("the log has the query or too much of the path: %s", log)
	}

	quiet := serve(t, newFleet(t, map[string]http.Handler{"acme": says("a")}), proxy.Options{})
	quiet.get("http://acme.example.com/")
	if log := quiet.log.String(); log != "" {
		t.Errorf("logged without being asked: %s", log)
	}
}
