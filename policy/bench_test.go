package policy

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/tetratelabs/wazero/api"
)

// What a decision costs, beside the bare engine's call of the same function in
// the same process. Each benchmark alternates the two, so that a noisy machine
// is noisy to both, and reports medians and 99th percentiles.

type timing struct{ ours, bare []time.Duration }

func (m *timing) report(b *testing.B) {
	for _, side := range []struct {
		name  string
		times []time.Duration
	}{{"ours", m.ours}, {"bare", m.bare}} {
		slices.Sort(side.times)
		b.ReportMetric(float64(side.times[len(side.times)/2])/1e3, side.name+"-p50-µs")
		b.ReportMetric(float64(side.times[len(side.times)*99/100])/1e3, side.name+"-p99-µs")
	}
	b.ReportMetric(float64(m.ours[len(m.ours)/2])/float64(m.bare[len(m.bare)/2]), "ratio-p50")
	b.ReportMetric(0, "ns/op")
}

// benchRequest takes about 300 bytes as text.
func benchRequest() Request {
	r := get("acme.example.com", "/notes/4711/edit")
	r.Header = map[string][]string{
		"User-Agent": {"Mozilla/5.0 (X11; Linux x86_64)"}, "Accept": {"text/html"},
		"Accept-Language": {"en"}, "Cookie": {"session=0123456789abcdef"}, "Referer": {"https://acme.example.com/"},
	}
	return r
}

func BenchmarkPooledGoGuest(b *testing.B) {
	wasm, _ := Builtin("subdomain")
	r := mustLoad(b, wasm, Options{
		World:    &quiet{},
		Config:   map[string]string{"domain": "example.com"},
		CacheDir: compiled,
	})
	benchCall(b, r)
}

func BenchmarkPooledSmallestGuest(b *testing.B) {
	g := decides("tenant: acme\n")
	g.pages = freshPages + 1
	benchCall(b, mustLoad(b, g.wasm(), Options{}))
}

// benchCall compares Resolve with a call of resolve on an instance of its own.
func benchCall(b *testing.B, r *Resolver) {
	request := benchRequest()
	text, err := request.appendLines(nil)
	if err != nil {
		b.Fatal(err)
	}
	in, err := r.backend.(*pool).host.newInstance()
	if err != nil {
		b.Fatal(err)
	}
	defer in.close()
	var m timing
	var stack [1]uint64
	for b.Loop() {
		start := time.Now()
		if _, err := r.Resolve(context.Background(), request); err != nil {
			b.Fatal(err)
		}
		m.ours = append(m.ours, time.Since(start))

		in.call = call{ctx: context.Background(), world: r.world, request: text, decision: in.call.decision}
		start = time.Now()
		if err := in.resolve.CallWithStack(in.guard, stack[:]); err != nil || stack[0] != 0 {
			b.Fatal(err, stack[0])
		}
		m.bare = append(m.bare, time.Since(start))
	}
	m.report(b)
}

func BenchmarkFreshSmallGuest(b *testing.B) {
	r := mustLoad(b, decides("tenant: acme\n").wasm(), Options{})
	request := benchRequest()
	var m timing
	for b.Loop() {
		start := time.Now()
		if _, err := r.Resolve(context.Background(), request); err != nil {
			b.Fatal(err)
		}
		m.ours = append(m.ours, time.Since(start))

		in := &instance{host: r.backend.(*pool).host}
		in.guard = newGuard(in, time.Minute)
		start = time.Now()
		mod, err := r.backend.(*pool).host.runtime.InstantiateModule(in.guard, r.backend.(*pool).host.compiled, r.backend.(*pool).host.world)
		if err != nil {
			b.Fatal(err)
		}
		in.call = call{ctx: context.Background()}
		if results, err := mod.ExportedFunction("resolve").Call(in.guard); err != nil || api.DecodeI32(results[0]) != 0 {
			b.Fatal(err)
		}
		if err := mod.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
		m.bare = append(m.bare, time.Since(start))
		in.guard.stop()
	}
	m.report(b)
}

// BenchmarkLoadGoGuest is what a start with a warm compile cache costs.
func BenchmarkLoadGoGuest(b *testing.B) {
	wasm, _ := Builtin("subdomain")
	opts := Options{Config: map[string]string{"domain": "example.com"}, CacheDir: compiled}
	mustLoad(b, wasm, opts)
	for b.Loop() {
		r, err := Load(context.Background(), wasm, opts)
		if err != nil {
			b.Fatal(err)
		}
		if err := r.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

// quiet is a World that knows every tenant and remembers nothing.
type quiet struct{}

func (*quiet) Tenant(context.Context, string) (string, bool, error) { return "", true, nil }

func (*quiet) Recall(string) (string, bool, bool) { return "", true, true }

func (*quiet) Machines(context.Context) []Machine { return nil }
