package policy

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"atc/fs/errors"

	"github.com/tetratelabs/wazero/api"
)

// Whatever pointers and lengths a guest hands over, and whatever bytes a client
// sends, the outcome is a decision or an error.

// FuzzPointers calls each function of the ABI with any arguments: the guest
// takes them from globals that the test sets.
func FuzzPointers(f *testing.F) {
	global := func(n int) []byte { return []byte{opGlobalGet, byte(n)} }
	arguments := []int{2, 2, 4, 2, 2, 3}
	var resolvers []*Resolver
	for function, n := range arguments {
		var body []byte
		for i := range n {
			body = append(body, global(i)...)
		}
		body = append(body, invoke(function)...)
		if function != fnDecide && function != fnLog {
			body = append(body, opDrop)
		}
		// g4 is 0 for the probe, which is decided well.
		g := onProbe(nil)
		g.globals = 5
		g.body = ins(global(4), opIf, blockVoid, body, opEnd, num(0), num(12), invoke(fnDecide), num(0))
		resolvers = append(resolvers, mustLoad(f, g.wasm(), Options{
			Config: map[string]string{"domain": "example.com"},
			World:  &town{tenants: map[string]string{"a": "b: c\n"}, machines: []Machine{{ID: "m"}}},
		}))
	}
	request := get("acme.example.com", "/")
	text, err := request.appendLines(nil)
	if err != nil {
		f.Fatal(err)
	}
	for function := range arguments {
		f.Add(byte(function), uint32(0), uint32(12), uint32(0), uint32(4096))
		f.Add(byte(function), uint32(0xffffffff), uint32(0xffffffff), uint32(0xffffffff), uint32(0xffffffff))
		f.Add(byte(function), uint32(2*65536-1), uint32(1), uint32(2*65536), uint32(0))
		f.Add(byte(function), uint32(1), uint32(0xffffffff), uint32(1), uint32(1<<31))
	}
	f.Fuzz(func(t *testing.T, function byte, a, b, c, d uint32) {
		r := resolvers[int(function)%len(resolvers)]
		in, err := r.backend.(*pool).host.newInstance()
		if err != nil {
			t.Fatal(err)
		}
		defer in.close()
		for i, v := range []uint32{a, b, c, d, 1} {
			in.mod.ExportedGlobal("g" + string(rune('0'+i))).(api.MutableGlobal).Set(uint64(v))
		}
		_, healthy, err := in.run(t.Context(), nil, r.world, text)
		if err != nil && (healthy || strings.Contains(err.Error(), "runtime error")) {
			t.Fatalf("healthy %v after %v", healthy, err)
		}
	})
}

// FuzzRequests shows requests of any bytes to all built-in resolvers. A tenant
// that does not exist is never decided, and nothing a client sends makes them
// fail.
func FuzzRequests(f *testing.F) {
	w := &town{tenants: map[string]string{"acme": ""}, machines: []Machine{{ID: "m1", Region: "ams", State: "started"}}}
	var resolvers []*Resolver
	for name, config := range map[string]map[string]string{
		"subdomain": {"domain": "localhost"}, "path-prefix": {"prefix": "/t/"}, "header": nil,
		"domains": {"shop.example.org": "acme"}, "region": {"home.acme": "ams"}, "rendezvous": nil,
		"canary": {"canary": "v2", "percent": "50"}, "maintenance": {"from": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"},
	} {
		wasm, _ := Builtin(name)
		resolvers = append(resolvers, mustLoad(f, wasm, Options{World: w, Config: config, CacheDir: compiled}))
	}
	f.Add("acme.localhost:80", "/t/acme/x", "q=1", "X-A", "b")
	f.Add("[::1]:80", "/t/..%2facme", "", "a b", "\r\n")
	f.Add("\xff.localhost.", "*", "\x00", "", "")
	f.Fuzz(func(t *testing.T, host, path, query, name, value string) {
		req := get(host, path)
		req.Query, req.Header[name] = query, []string{value}
		for _, r := range resolvers {
			d, err := r.Resolve(t.Context(), req)
			if err != nil && !errors.Is(errors.Invalid, err) {
				t.Fatalf("%q %q: %v", host, path, err)
			}
			if err == nil && d.Tenant != "acme" && d.Status != 404 {
				t.Fatalf("%q %q: %+v", host, path, d)
			}
		}
		w.mu.Lock()
		w.asked = nil
		w.mu.Unlock()
	})
}

// FuzzWorker lets a worker send any bytes: what comes out is a decision that is
// fit for its places, or an error.
func FuzzWorker(f *testing.F) {
	framed := func(frames ...frame) []byte {
		var b bytes.Buffer
		for _, one := range frames {
			_ = writeFrame(&b, one.kind, []byte(one.text))
		}
		return b.Bytes()
	}
	f.Add(framed(frame{frameTenant, []byte("acme")}, frame{frameMachines, nil}, frame{frameLog, []byte("1x")}, frame{frameDecision, []byte("tenant: acme\n")}))
	f.Add(framed(frame{frameDecision, []byte("tenant: acme\nset-header.x: a\r\nb\n")}))
	f.Add([]byte{frameDecision, 0xff, 0xff, 0xff, 0xff})
	f.Add(framed(frame{frameFailed, []byte("\x1b[2J\n")}))
	p := &workers{gate: newGate(1, 1), opts: Options{Deadline: time.Minute, Logger: slog.New(slog.DiscardHandler)}.withDefaults()}
	f.Fuzz(func(t *testing.T, sent []byte) {
		ours, theirs := net.Pipe()
		go func() {
			go io.Copy(io.Discard, theirs)
			_, _ = theirs.Write(sent)
			theirs.Close()
		}()
		d, _, err := p.call(&worker{conn: ours, in: bufio.NewReader(ours)}, t.Context(), emptyWorld{}, []byte("method: GET\n"))
		ours.Close()
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r\x1b\x00") {
				t.Errorf("error %q", err)
			}
			return
		}
		if again, err := ParseDecision(d.decision.String()); err != nil || !reflect.DeepEqual(again, d.decision) && len(d.decision.SetHeader) < 2 {
			t.Errorf("%+v reads as %+v, %v", d.decision, again, err)
		}
	})
}
