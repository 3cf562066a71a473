package policy

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"atc/fs/errors"
)

// A guest for each rule of the ABI and for each way to break it, assembled
// here, loaded and called through the real engine.

// late is a deadline short enough to wait for in a test. Only guests that loop
// forever run under it.
const late = 250 * time.Millisecond

// onProbe makes a guest that decides 404 for the probe and does body for any
// other request: it looks at the first letter of the method, which is 'P' only
// in the requests that the tests send. The request is read to 4096.
func onProbe(body []byte, more ...[]byte) guestModule {
	const ok = "status: 404\n"
	return guestModule{
		pages: 2, data: ok, more: more,
		body: ins(
			num(4096), num(4096), invoke(fnRequest), opDrop,
			num(4096+8), []byte{opLoad8, 0, 0}, num('P'), opI32Eq, // behind "method: "
			opIf, blockVoid, body, opEnd,
			num(0), num(int64(len(ok))), invoke(fnDecide), num(0)),
	}
}

func post() Request {
	r := get("acme.example.com", "/")
	r.Method = "POST"
	return r
}

// wasiGuest is onProbe with one function of WASI at index 6 and text at 32.
func wasiGuest(function string, typ int, text string, body []byte) guestModule {
	g := onProbe(body)
	g.imports = append(slices.Clone(abiImports), guestImport{wasiName, function, 0, typ})
	g.data += strings.Repeat("\x00", 32-len(g.data)) + text
	return g
}

func TestGuestViolations(t *testing.T) {
	for _, c := range []struct {
		name  string
		guest guestModule
		opts  Options
		words []string
	}{
		{"refuses", onProbe(ins(num(7), 0x0f)), Options{}, []string{"refused", "returned 7"}},
		{"refuses and says why", onProbe(ins(num(3), num(0), num(11), invoke(fnLog), num(1), 0x0f)), Options{},
			[]string{"returned 1", "it logged: status: 404"}},
		{"traps", onProbe(ins(opUnreachable)), Options{}, []string{"unreachable"}},
		{"loops", onProbe(ins(opLoop, blockVoid, opBr, 0, opEnd)), Options{Deadline: late}, []string{"no decision within 250ms, twice"}},
		{"recurses", onProbe(ins(invoke(fnMore)), invoke(fnMore)), Options{}, []string{"stack overflow"}},
		{"decides twice", onProbe(ins(num(0), num(12), invoke(fnDecide))), Options{}, []string{"decide was called twice"}},
		{"decides never", onProbe(ins(num(0), 0x0f)), Options{}, []string{"returned 0 without a call of decide"}},
		{"decides nonsense", onProbe(ins(num(4096), num(20), invoke(fnDecide), num(0), 0x0f)), Options{}, []string{"line 1", "method", "no such key"}},
		{"decides a huge text", onProbe(ins(num(0), num(MaxText+1), invoke(fnDecide))), Options{}, []string{"65537 bytes", "at most 65536"}},
		{"decides from outside", onProbe(ins(num(0xfffffff0), num(12), invoke(fnDecide))), Options{}, []string{"decide(4294967280, 12)", "outside"}},
		{"decides past the end", onProbe(ins(num(2*65536-4), num(8), invoke(fnDecide))), Options{}, []string{"outside"}},
		{"reads past the end", onProbe(ins(num(2*65536-4), num(4096), invoke(fnRequest), opDrop)), Options{}, []string{"request", "outside"}},
		{"asks from outside", onProbe(ins(num(-1), num(-1), num(0), num(0), invoke(fnTenant), opDrop)), Options{}, []string{"tenant(4294967295, 4294967295)"}},
		{"logs from outside", onProbe(ins(num(1), num(0), num(-1), invoke(fnLog))), Options{}, []string{"log(0, 4294967295)"}},
		{"logs at no level", onProbe(ins(num(4), num(0), num(0), invoke(fnLog))), Options{}, []string{"level 4"}},
		{"config to outside", onProbe(ins(num(-1), num(4096), invoke(fnConfig), opDrop)), Options{Config: map[string]string{"a": "b"}}, []string{"config", "outside"}},
		{"machines to outside", onProbe(ins(num(-1), num(4096), invoke(fnMachines), opDrop)),
			Options{World: &town{machines: []Machine{{ID: "m"}}}}, []string{"machines", "outside"}},
		{"tenant to outside", onProbe(ins(num(8), num(3), num(-1), num(4096), invoke(fnTenant), opDrop)), // "404"
			Options{World: &town{tenants: map[string]string{"404": "a: b\n"}}}, []string{"tenant", "outside"}},
		{"exits", wasiGuest("proc_exit", typeNothing, "", ins(num(3), invoke(6))), Options{}, []string{"exited with status 3"}},
		{"prints and traps", wasiGuest("fd_write", typeTenant, "\x28\x00\x00\x00\x0d\x00\x00\x00panic: oh no\n",
			ins(num(2), num(32), num(1), num(4096), invoke(6), opDrop, opUnreachable)), Options{}, []string{"unreachable", "it printed: panic: oh no"}},
		{"asks for too many tenants", onProbe(ins(opLoop, blockVoid,
			num(8), num(4096), []byte{opLoad8, 0, 0}, num(1), opI32Add, []byte{opStore8, 0, 0}, num(4096), num(4096), []byte{opLoad8, 0, 0}, num(1), opI32Add, []byte{opStore8, 0, 0},
			num(4096), num(1), num(0), num(0), invoke(fnTenant), opDrop, opBr, 0, opEnd)),
			Options{}, []string{"more than 16 tenants"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.opts.Name = "bad"
			r := mustLoad(t, c.guest.wasm(), c.opts)
			_, err := r.Resolve(t.Context(), post())
			wantError(t, err, append(c.words, "resolve bad: ")...)
			if kind := errors.KindOf(err); kind != errors.Other {
				t.Errorf("kind %v: a guest's failure is answered 500", kind)
			}
			if _, err := r.Resolve(t.Context(), get("x", "/")); err != nil {
				t.Errorf("the next request: %v", err)
			}
		})
	}
}

// A guest that echoes what one function gives: it reads to 4096 and decides
// "status: 200, body: <text>" with the text's line ends replaced, so that the
// test sees exactly what the guest saw.
func echo(read []byte) guestModule {
	const head = "status: 200\nbody: "
	at := int64(len(head))
	// global 0: the length; global 1: the position
	get, set := func(g int) []byte { return []byte{opGlobalGet, byte(g)} }, func(g int) []byte { return []byte{0x24, byte(g)} }
	return guestModule{
		pages: 4, data: head, globals: 2,
		body: ins(
			read, set(0),
			get(0), num(0), 0x48 /* i32.lt_s */, opIf, blockVoid, get(0), num(100), opI32Add, 0x0f, opEnd,
			num(0), set(1),
			opLoop, blockVoid,
			get(1), get(0), 0x48, opIf, blockVoid,
			get(1), num(at), opI32Add,
			get(1), num(at), opI32Add, []byte{opLoad8, 0, 0}, num('\n'), opI32Eq, num('|'-'\n'), 0x6c, /* i32.mul */
			get(1), num(at), opI32Add, []byte{opLoad8, 0, 0}, opI32Add,
			[]byte{opStore8, 0, 0},
			get(1), num(1), opI32Add, set(1), opBr, 1,
			opEnd, opEnd,
			num(0), get(0), num(at), opI32Add, invoke(fnDecide), num(0)),
	}
}

// to is the place and the size of the echo's buffer.
func to(capacity int64) []byte { return ins(num(int64(len("status: 200\nbody: "))), num(capacity)) }

func TestGuestSeesTheRequest(t *testing.T) {
	r := mustLoad(t, echo(ins(to(8192), invoke(fnRequest))).wasm(), Options{})
	req := get("Acme.example.com:8080", "/a%20b/")
	req.Query = "q=1&r"
	req.Header["X-Empty"] = []string{""}
	d, err := r.Resolve(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	want := "method: GET|scheme: https|host: Acme.example.com:8080|path: /a%20b/|query: q=1&r|remote: 192.0.2.7:4711|region: ams|machine: m1|time: 2026-11-21T10:00:00Z|" +
		"header.accept: text/html|header.accept: */*|header.user-agent: test/1|header.x-empty: |"
	if d.Body != want {
		t.Errorf("got  %s\nwant %s", d.Body, want)
	}
}

func TestGuestSeesConfigAndMachines(t *testing.T) {
	w := &town{machines: []Machine{
		{ID: "m1", Region: "ams", Load: 0.256, State: "started"},
		{ID: "m2", Load: -1}, {ID: "evil m3"}, {ID: "m4", State: "a\nb"},
	}}
	for _, c := range []struct {
		read []byte
		want string
	}{
		{ins(to(4096), invoke(fnConfig)), "domain: example.com|retry.after: 1|"},
		{ins(to(4096), invoke(fnMachines)), "m1 ams 0.26 started|m2 - 0.00 -|"},
	} {
		r := mustLoad(t, echo(c.read).wasm(), Options{World: w, Config: map[string]string{"retry.after": "1", "domain": "example.com"}})
		d, err := r.Resolve(t.Context(), get("x", "/"))
		if err != nil || d.Body != c.want {
			t.Errorf("got %q, %v; want %q", d.Body, err, c.want)
		}
	}
}

func TestSmallBufferIsLeftAlone(t *testing.T) {
	// The first call has no room: it must say 20 and write nothing, so that
	// the echo shows the zeros that were there.
	_, err := Load(t.Context(), echo(ins(to(19), invoke(fnConfig))).wasm(), Options{Config: map[string]string{"domain": "example.com"}})
	wantError(t, err, "line 2", `'\x00' at byte 0`)
	if n := len("domain: example.com\n"); n != 20 {
		t.Fatal(n)
	}
}

// unprobed loads a guest that would not pass the probe, such as one that wants
// a tenant to be there.
func unprobed(t *testing.T, wasm []byte, opts Options) *Resolver {
	t.Helper()
	opts = opts.withDefaults()
	h, err := load(t.Context(), wasm, opts)
	if err != nil {
		t.Fatal(err)
	}
	r := newResolver(newPool(h, opts.Instances), opts)
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestGuestAsksForTenants(t *testing.T) {
	ask := func(id string) guestModule {
		g := echo(nil)
		at := int64(len(g.data))
		g.data += strings.Repeat("\x00", 2000) + id
		g.body = echo(ins(num(at+2000), num(int64(len(id))), num(at), num(1000), invoke(fnTenant))).body
		return g
	}
	w := &town{
		tenants: map[string]string{"acme": "region: ams\nplan: pro\n", "bad": "a: b\r\n"},
		lookup: func(_ context.Context, id string) error {
			if id == "broken" {
				return errors.E("get", "tenants/broken/tenant.json", errors.Unavailable, nil)
			}
			return nil
		},
	}
	log := &testLog{}
	for _, c := range []struct{ id, body, refused string }{
		{"acme", "region: ams|plan: pro|", ""},
		{"globex", "", "returned 99"}, // 100 + -1
		{"../acme", "", "returned 99"},
		{"", "", "returned 99"},
		{strings.Repeat("a", 300), "", "returned 99"},
		{"broken", "", "returned 98"}, // 100 + -2
		{"bad", "", "returned 98"},
	} {
		r := unprobed(t, ask(c.id).wasm(), Options{World: w, Logger: log.logger()})
		d, err := r.Resolve(t.Context(), get("x", "/"))
		if c.refused != "" {
			wantError(t, err, c.refused)
		} else if err != nil || d.Body != c.body {
			t.Errorf("%s: %q, %v", c.id, d.Body, err)
		}
	}
	if got, want := w.questions(), []string{"acme", "globex", "broken", "bad"}; !reflect.DeepEqual(got, want) {
		t.Errorf("the world was asked for %q, want %q: an ID that cannot be a tenant's causes no question", got, want)
	}
	if got := log.String(); strings.Count(got, "tenant lookup failed") != 2 || !strings.Contains(got, "tenants/broken/tenant.json") {
		t.Errorf("log:\n%s", got)
	}
}

// The world that WASI shows: no arguments, no environment, no files, a wall
// clock at the epoch, random bytes that nobody knows. The guests refuse with 100
// plus what they saw.
func TestWASIWorldIsEmpty(t *testing.T) {
	wasi := func(name string, typ int) []guestImport {
		return append(slices.Clone(abiImports), guestImport{wasiName, name, 0, typ})
	}
	const fnWASI = fnResolve // the first index behind the ABI
	byteAt := func(at int64) []byte { return ins(num(at), []byte{opLoad8, 0, 0}) }
	for _, c := range []struct {
		name  string
		guest guestModule
		want  string
	}{
		{"arguments", guestModule{imports: wasi("args_sizes_get", typeRead),
			body: ins(num(256), num(260), invoke(fnWASI), byteAt(256), opI32Add, num(100), opI32Add)}, "returned 100"},
		{"environment", guestModule{imports: wasi("environ_sizes_get", typeRead),
			body: ins(num(256), num(260), invoke(fnWASI), byteAt(256), opI32Add, num(100), opI32Add)}, "returned 100"},
		{"files", guestModule{imports: wasi("fd_prestat_get", typeRead), // 8: EBADF, nothing is open beside 0, 1 and 2
			body: ins(num(3), num(256), invoke(fnWASI), num(100), opI32Add)}, "returned 108"},
		{"clock", guestModule{imports: wasi("clock_time_get", typeClock),
			body: ins(num(0), []byte{0x42, 1}, num(256), invoke(fnWASI), opDrop, num(256), []byte{0x29, 0, 0, 0x50}, num(100), opI32Add)}, "returned 101"},
	} {
		r := unprobed(t, c.guest.wasm(), Options{})
		_, err := r.Resolve(t.Context(), get("x", "/"))
		wantError(t, err, c.want)
	}
	random := guestModule{
		imports: wasi("random_get", typeRead),
		body:    ins(num(256), num(1), invoke(fnWASI), opDrop, byteAt(256), num(1000), opI32Add),
	}
	r := unprobed(t, random.wasm(), Options{})
	seen := map[string]bool{}
	for range 64 {
		_, err := r.Resolve(t.Context(), get("x", "/"))
		seen[err.Error()] = true
	}
	if len(seen) < 2 {
		t.Errorf("64 fresh instances saw the same random byte: %v", seen)
	}
}

func TestLogIsBounded(t *testing.T) {
	flood := guestModule{
		pages: 2, data: "status: 404\n", globals: 1,
		body: ins(
			num(0), []byte{0x24, 0},
			opLoop, blockVoid,
			num(1), num(0), num(5000), invoke(fnLog),
			[]byte{opGlobalGet, 0}, num(1), opI32Add, []byte{0x24, 0},
			[]byte{opGlobalGet, 0}, num(1000), 0x48, []byte{0x0d, 0}, // i32.lt_s, br_if
			opEnd,
			num(0), num(12), invoke(fnDecide), num(0)),
	}
	log := &testLog{}
	r := mustLoad(t, flood.wasm(), Options{Name: "flood", Logger: log.logger()})
	before := len(log.String())
	if _, err := r.Resolve(t.Context(), get("x", "/")); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(log.String()[before:]), "\n")
	if len(lines) != maxLogLines+1 || !strings.Contains(lines[maxLogLines], "dropped=984") {
		t.Errorf("%d lines, the last one %q", len(lines), lines[len(lines)-1])
	}
	for _, line := range lines {
		if len(line) > maxLogLine+200 {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
	if got := printable([]byte("a\nb\x00\x1b[31m\xffc")); got != "a b  [31m\ufffdc" {
		t.Errorf("printable: %q", got)
	}
}

func TestMalformedRequests(t *testing.T) {
	r := mustLoad(t, decides("status: 404\n").wasm(), Options{})
	for _, c := range []struct {
		change func(*Request)
		words  []string
	}{
		{func(q *Request) { q.Host = "a\x00b" }, []string{"host", `'\x00'`}},
		{func(q *Request) { q.Method = "GET\r\nx: y" }, []string{"method", `'\r'`}},
		{func(q *Request) { q.Query = "\n" }, []string{"query"}},
		{func(q *Request) { q.Path = "/a\nb" }, []string{"path", `'\n'`}},
		{func(q *Request) { q.Path = "a" }, []string{"path", "begins with"}},
		{func(q *Request) { q.Path = "/%zz" }, []string{"path", "hexadecimal"}},
		{func(q *Request) { q.Header["X"] = []string{"a\nheader.atc-tenant: b"} }, []string{`"X"`, `'\n'`}},
		{func(q *Request) { q.Header["X: y\nz"] = []string{"a"} }, []string{"header", "cannot stand"}},
		{func(q *Request) { q.Header["X"] = []string{strings.Repeat("a", MaxText)} }, []string{"more than 65536 bytes"}},
	} {
		req := get("acme.example.com", "/")
		c.change(&req)
		_, err := r.Resolve(t.Context(), req)
		wantError(t, err, c.words...)
		if !errors.Is(errors.Invalid, err) {
			t.Errorf("kind %v: the client is to blame", errors.KindOf(err))
		}
	}
}

func TestMemoryLimit(t *testing.T) {
	// memory.grow beyond the limit answers -1 and the guest decides by it.
	grow := func(pages int64) []byte {
		return ins(num(pages), []byte{opMemoryGrow, 0}, num(-1), opI32Eq, opIf, blockVoid, num(9), 0x0f, opEnd)
	}
	r := mustLoad(t, onProbe(grow(100)).wasm(), Options{MemoryLimit: 4 << 20})
	_, err := r.Resolve(t.Context(), post())
	wantError(t, err, "returned 9")
	r = mustLoad(t, onProbe(grow(50)).wasm(), Options{MemoryLimit: 4 << 20})
	if _, err := r.Resolve(t.Context(), post()); err != nil {
		t.Error(err)
	}
}

func TestLinesRefuse(t *testing.T) {
	for _, bad := range []map[string]string{{"a b": "c"}, {"": "c"}, {"a": "b\nc"}, {"a": strings.Repeat("b", MaxText)}} {
		if text, err := Lines(bad); err == nil {
			t.Errorf("%.40s: %.40q", fmt.Sprint(bad), text)
		} else if !errors.Is(errors.Invalid, err) {
			t.Errorf("kind of %v", err)
		}
	}
}
