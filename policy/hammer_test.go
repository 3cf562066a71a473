package policy

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// Many calls at once, many loads one after the other.

func TestHammer(t *testing.T) {
	const workers, calls = 16, 2000
	w := &town{tenants: map[string]string{}}
	for i := range workers {
		w.tenants[fmt.Sprintf("t%d", i)] = "plan: pro\n"
	}
	for _, name := range []string{"subdomain", "small"} {
		t.Run(name, func(t *testing.T) {
			wasm := onProbe(ins(opUnreachable)).wasm()
			if name == "subdomain" {
				wasm, _ = Builtin(name)
			}
			r := mustLoad(t, wasm, Options{
				World: w, Config: map[string]string{"domain": "example.com"}, CacheDir: compiled,
				Instances: 4,
			})
			var all sync.WaitGroup
			for i := range workers {
				all.Go(func() {
					id := fmt.Sprintf("t%d", i)
					for n := range calls {
						req := get(id+".example.com", "/")
						if name == "small" && n%50 == 0 {
							req.Method = "POST" // traps
						}
						d, err := r.Resolve(t.Context(), req)
						switch {
						case req.Method == "POST":
							if err == nil {
								t.Errorf("%s: a trap went unnoticed", id)
							}
						case err != nil:
							t.Errorf("%s: %v", id, err)
							return
						case name == "subdomain" && d.Tenant != id || name == "small" && d.Status != 404:
							t.Errorf("%s got %+v", id, d)
							return
						}
					}
				})
			}
			all.Wait()
		})
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	goWasm, _ := Builtin("subdomain")
	for _, c := range []struct {
		name   string
		wasm   []byte
		rounds int
	}{
		{"small", onProbe(ins(opUnreachable)).wasm(), 2000},
		{"go", goWasm, 50},
	} {
		t.Run(c.name, func(t *testing.T) {
			round := func() {
				r, err := Load(t.Context(), c.wasm, Options{Config: map[string]string{"domain": "example.com"}, CacheDir: compiled})
				if err != nil {
					t.Fatal(err)
				}
				for _, method := range []string{"GET", "POST"} {
					req := get("acme.example.com", "/")
					req.Method = method
					_, _ = r.Resolve(t.Context(), req)
				}
				if err := r.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for range c.rounds / 10 {
				round()
			}
			goroutines, memory := runtime.NumGoroutine(), resident(t)
			for range c.rounds {
				round()
			}
			runtime.GC()
			for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > goroutines; {
				if time.Now().After(deadline) {
					t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), goroutines)
				}
				runtime.Gosched()
			}
			// A leaked module would show as 50 x 10 MB or 2,000 x 100 KB.
			if grown := resident(t) - memory; grown > 96<<20 {
				t.Errorf("the process has grown by %d MiB", grown>>20)
			}
		})
	}
}

// resident is the process's anonymous memory in bytes: compiled code is mapped
// outside of what the Go heap counts.
func resident(t *testing.T) int64 {
	t.Helper()
	runtime.GC()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kb int64
		if n, _ := fmt.Sscanf(line, "RssAnon: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	t.Fatal("no RssAnon in /proc/self/status")
	return 0
}
