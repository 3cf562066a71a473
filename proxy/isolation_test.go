package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"atc/proxy"
)

// TestTwoTenantsHammer sends the same requests for two tenants through one
// proxy from 32 clients while instances are replaced now and then. Every answer
// and every echoed body must be the own tenant's.
func TestTwoTenantsHammer(t *testing.T) {
	const clients, requests = 32, 5000
	app := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return // the run was ended in the middle of a body
			}
			if r.Header.Get("Atc-Tenant") != name {
				t.Errorf("%s got a request for %q", name, r.Header.Get("Atc-Tenant"))
			}
			w.Header().Set("X-Answered-By", name)
			fmt.Fprintf(w, "%s %s ", name, r.Host)
			w.Write(body)
		})
	}
	f := newFleet(t, map[string]http.Handler{"acme": app("acme"), "globex": app("globex")})
	fr := serve(t, f, proxy.Options{})
	client := fr.client() // shared, so that a client connection carries both tenants
	var next, failed atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for n := next.Add(1); n <= requests; n = next.Add(1) {
				name := [2]string{"acme", "globex"}[n%2]
				if n%500 == 0 {
					f.kill(name)
				}
				url := fmt.Sprintf("http://%s.example.com/same", name)
				sent := fmt.Sprintf("%d %s", n, strings.Repeat("x", int(n%3000)))
				method, body := http.MethodGet, []byte(nil)
				if n%4 < 2 {
					method, body = http.MethodPost, []byte(sent)
				}
				req, err := http.NewRequestWithContext(context.Background(), method, url, bytes.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				res, err := client.Do(req)
				if err != nil {
					failed.Add(1) // its run was ended while it was served
					continue
				}
				got, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode == http.StatusBadGateway {
					failed.Add(1)
					continue
				}
				want := fmt.Sprintf("%s %s.example.com %s", name, name, body)
				if string(got) != want || res.Header.Get("X-Answered-By") != name {
					t.Errorf("request %d for %s: status %d, by %s, %.80q", n, name, res.StatusCode, res.Header.Get("X-Answered-By"), got)
				}
			}
		})
	}
	wg.Wait()
	// Only requests in flight at the moment of a kill may fail.
	if n, most := failed.Load(), int64(requests/500*clients); n > most {
		t.Errorf("%d of %d requests failed, at most %d can have been in flight", n, requests, most)
	}
	if n := f.starts.Load(); n < 4 {
		t.Errorf("only %d runs were started: nothing was replaced", n)
	}
}

// Even if a supervisor breaks its contract and names runs alike, no tenant's
// connection serves another.
func TestLikeNamedRunsShareNoPool(t *testing.T) {
	f := newFleet(t, map[string]http.Handler{"a": says("a"), "a-1": says("a-1")})
	f.sameID = true
	fr := serve(t, f, proxy.Options{})
	for range 3 {
		for _, name := range []string{"a", "a-1"} {
			if _, body := fr.get("http://" + name + ".example.com/"); body != name {
				t.Errorf("%s was answered by %s", name, body)
			}
		}
	}
}
