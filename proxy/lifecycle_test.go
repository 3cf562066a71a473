package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"atc/fs/errors"
	"atc/proxy"
)

func TestUnknownTenantOpensNothing(t *testing.T) {
	f := newFleet(t, map[string]http.Handler{"acme": says("acme")})
	fr := serve(t, f, proxy.Options{AccessLog: true})
	if status, body := fr.get("http://nobody.example.com/"); status != 404 || strings.Contains(body, "nobody") {
		t.Errorf("unknown tenant: %d %s", status, body)
	}
	if status, _ := fr.get("http://Acme.example.com/"); status != 400 {
		t.Errorf("malformed tenant: %d", status)
	}
	if got := f.wasOpened(); got != "exists nobody" {
		t.Errorf("asked or started: %s", got)
	}
}

func TestDecisionsWithoutTenant(t *testing.T) {
	f := newFleet(t, nil)
	var decision proxy.Decision
	var failure error
	f.decide = func(*http.Request) (proxy.Decision, error) { return decision, failure }
	fr := serve(t, f, proxy.Options{})
	header := func(name, value string) proxy.Decision {
		return proxy.Decision{Tenant: "acme", SetHeader: []proxy.Header{{Name: name, Value: value}}}
	}
	for _, c := range []struct {
		name     string
		decision proxy.Decision
		err      error
		status   int
		location string
		body     string
	}{
		{name: "redirect", decision: proxy.Decision{Status: 302, Location: "https://example.com/login"}, status: 302, location: "https://example.com/login"},
		{name: "body", decision: proxy.Decision{Status: 410, Body: "<b>gone</b>"}, status: 410, body: "<b>gone</b>"},
		{name: "nothing", status: 500},
		{name: "both", decision: proxy.Decision{Tenant: "acme", Status: 200}, status: 500},
		{name: "switching protocols", decision: proxy.Decision{Status: 101}, status: 500},
		{name: "location with a line break", decision: proxy.Decision{Status: 302, Location: "/\r\nSet-Cookie: a=b"}, status: 500},
		{name: "tenant that looks like a path", decision: proxy.Decision{Tenant: "../globex"}, status: 400},
		{name: "path with dot segments", decision: proxy.Decision{Tenant: "acme", Path: "/a/%2e%2e/b"}, status: 500},
		{name: "path with a query", decision: proxy.Decision{Tenant: "acme", Path: "/a?b"}, status: 500},
		{name: "relative path", decision: proxy.Decision{Tenant: "acme", Path: "a"}, status: 500},
		{name: "set Host", decision: header("host", "x"), status: 500},
		{name: "set Content-Length", decision: header("Content-Length", "1"), status: 500},
		{name: "set Connection", decision: header("Connection", "x"), status: 500},
		{name: "set Transfer_Encoding", decision: header("Transfer_Encoding", "chunked"), status: 500},
		{name: "set Atc-Tenant", decision: header("ATC_tenant", "globex"), status: 500},
		{name: "set a broken name", decision: header("a b", "x"), status: 500},
		{name: "set a broken value", decision: header("X-A", "x\r\nAtc-Tenant: globex"), status: 500},
		{name: "resolver failed", err: fmt.Errorf("guest trapped: secret detail"), status: 500},
		{name: "resolver refused", err: errors.E("resolve", "", errors.Permission, nil), status: 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			decision, failure = c.decision, c.err
			res, err := fr.client().Get("http://acme.example.com/?password=hunter2")
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, _ := io.ReadAll(res.Body)
			if res.StatusCode != c.status || res.Header.Get("Location") != c.location {
				t.Errorf("status %d, location %q, want %d, %q", res.StatusCode, res.Header.Get("Location"), c.status, c.location)
			}
			if c.body != "" && (string(body) != c.body || res.Header.Get("Content-Type") != "text/plain; charset=utf-8") {
				t.Errorf("%s %q", res.Header.Get("Content-Type"), body)
			}
			if strings.Contains(string(body), "secret") || strings.Contains(string(body), "acme") {
				t.Errorf("the page gives away internals: %s", body)
			}
		})
	}
	if log := fr.log.String(); !strings.Contains(log, "secret detail") || strings.Contains(log, "hunter2") {
		t.Errorf("the log has to have the cause and not the query:\n%s", log)
	}
	if got := f.wasOpened(); got != "" {
		t.Errorf("asked or started: %s", got)
	}
}

func TestRequestWaitsForASlowStart(t *testing.T) {
	f := newFleet(t, map[string]http.Handler{"acme": says("acme")})
	ready, began := make(chan struct{}), make(chan struct{})
	f.starting = func(ctx context.Context, _ string) error {
		close(began)
		select {
		case <-ready:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	fr := serve(t, f, proxy.Options{})
	answered := make(chan string, 1)
	go func() { _, body := fr.get("http://acme.example.com/"); answered <- body }()
	<-began
	select {
	case body := <-answered:
		t.Fatalf("answered %q before the instance was ready", body)
	default:
	}
	close(ready)
	if body := <-answered; body != "acme" {
		t.Errorf("got %q", body)
	}
}

func TestFailuresBecomeStatuses(t *testing.T) {
	stuck := make(chan struct{})
	defer close(stuck)
	abort := func(answer string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			io.WriteString(conn, answer)
			conn.Close()
		})
	}
	f := newFleet(t, map[string]http.Handler{
		"acme":    says("acme"),
		"silent":  http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-stuck }),
		"closes":  abort(""),
		"garbage": abort("hello\r\n\r\n"),
		"endless": abort("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: " + strings.Repeat("a", 1<<20) + "\r\n\r\n"),
		"full":    says(""), "late": says(""), "gone": says(""), "moved": says(""), "broken": says(""), "ending": says(""),
	})
	f.starting = func(ctx context.Context, name string) error {
		switch name {
		case "full":
			return errFull
		case "late":
			<-ctx.Done()
			return ctx.Err()
		case "gone":
			return errors.E("start", name, errors.NotExist, nil)
		case "moved":
			return errors.E("start", name, errors.Busy, nil)
		case "broken":
			return fmt.Errorf("secret detail")
		case "ending":
			return context.Canceled
		}
		return nil
	}
	fr := serve(t, f, proxy.Options{StartTimeout: 300 * time.Millisecond, ResponseTimeout: 300 * time.Millisecond})
	for tenant, want := range map[string]int{
		"acme": 200, "silent": 504, "closes": 502, "garbage": 502, "endless": 502,
		"full": 503, "late": 504, "gone": 404, "moved": 421, "broken": 500, "ending": 503,
	} {
		t.Run(tenant, func(t *testing.T) {
			req, _ := http.NewRequest("GET", "http://"+tenant+".example.com/", nil)
			req.Header.Set("Accept", "text/html,*/*")
			req.Header.Set("X-Request-Id", "id-of-"+tenant)
			res, err := fr.client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, _ := io.ReadAll(res.Body)
			if res.StatusCode != want {
				t.Fatalf("status %d, want %d", res.StatusCode, want)
			}
			if want == 200 {
				return
			}
			if !strings.Contains(string(body), "id-of-"+tenant) || !strings.HasPrefix(string(body), "<!doctype html>") || strings.Contains(string(body), "secret") {
				t.Errorf("page: %s", body)
			}
			if retry := res.Header.Get("Retry-After"); (retry != "") != (want == 503) {
				t.Errorf("Retry-After is %q", retry)
			}
		})
	}
	for _, want := range []string{"secret detail", "request=id-of-closes"} {
		if !strings.Contains(fr.log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, fr.log.String())
		}
	}
}

// A run that was replaced, one that died unseen, and one that closed its
// kept-alive connections: the next request gets an answer, not a 502.
func TestRestartBetweenRequestsIsNotSeen(t *testing.T) {
	for _, method := range []string{"GET", "POST"} {
		for _, how := range []string{"replaced", "died unseen"} {
			t.Run(method+" "+how, func(t *testing.T) {
				f := newFleet(t, map[string]http.Handler{"acme": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					w.Write(append(body, '!'))
				})})
				fr := serve(t, f, proxy.Options{})
				client := fr.client()
				for n := range 20 {
					if n > 0 && how == "replaced" {
						f.kill("acme")
					} else if n > 0 {
						f.crash("acme")
					}
					body := ""
					if method == "POST" {
						body = strings.Repeat("b", 100<<10)
					}
					req, _ := http.NewRequest(method, "http://acme.example.com/", strings.NewReader(body))
					res, err := client.Do(req)
					if err != nil {
						t.Fatalf("request %d: %v\n%s", n, err, fr.log.String())
					}
					got, err := io.ReadAll(res.Body)
					res.Body.Close()
					if res.StatusCode == 502 && method == "POST" && how == "died unseen" {
						continue // sent within microseconds of the death, and not safe to repeat
					}
					if res.StatusCode != 200 || string(got) != body+"!" {
						t.Fatalf("request %d: status %d, %d bytes, %v\n%s", n, res.StatusCode, len(got), err, fr.log.String())
					}
				}
				if n := f.starts.Load(); n < 3 {
					t.Errorf("%d runs: too few restarts to tell", n)
				}
			})
		}
	}
}

func TestConnectionsArePooledAndGo(t *testing.T) {
	f := newFleet(t, map[string]http.Handler{"acme": says("acme"), "globex": says("globex")})
	fr := serve(t, f, proxy.Options{UpstreamIdle: 100 * time.Millisecond})
	client := fr.client()
	for range 50 {
		res, err := client.Get("http://acme.example.com/")
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	r := f.current("acme")
	if n := r.served.Load(); n > 10 {
		t.Errorf("50 requests in a row took %d connections", n)
	}
	if n := f.leases.Load(); n != 0 {
		t.Errorf("%d leases are held by idle connections", n)
	}
	eventually(t, "idle connections are closed", func() bool { return r.conns.Load() == 0 })
}
