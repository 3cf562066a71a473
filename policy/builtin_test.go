package policy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"atc/fs/errors"
)

// The built-in resolvers, as a client and an operator meet them.

func builtinResolver(t *testing.T, name string, w World, config map[string]string) *Resolver {
	t.Helper()
	wasm, ok := Builtin(name)
	if !ok {
		t.Fatalf("no built-in %q", name)
	}
	return mustLoad(t, wasm, Options{Name: name, World: w, Config: config, CacheDir: compiled})
}

// story is one request to a built-in resolver and what becomes of it.
type story struct {
	host, path string
	tenant     string // decided, or "" for an answer
	rewritten  string
	status     int
	body       string   // a part of it
	asked      []string // what the world was asked for
}

func tell(t *testing.T, r *Resolver, w *town, stories []story) {
	t.Helper()
	for _, s := range stories {
		w.mu.Lock()
		w.asked = nil
		w.mu.Unlock()
		d, err := r.Resolve(t.Context(), get(s.host, s.path))
		if err != nil {
			t.Errorf("%q %q: %v", s.host, s.path, err)
			continue
		}
		if d.Tenant != s.tenant || d.Path != s.rewritten || d.Status != s.status || !strings.Contains(d.Body, s.body) || d.Status != 0 && d.Body == "" {
			t.Errorf("%q %q: got %+v, want %+v", s.host, s.path, d, s)
		}
		if got := w.questions(); !slices.Equal(got, s.asked) {
			t.Errorf("%q %q: asked for %q, want %q", s.host, s.path, got, s.asked)
		}
	}
}

func TestSubdomain(t *testing.T) {
	w := &town{tenants: map[string]string{"acme": "", "a": "", "0": "", "a_b-c": "", strings.Repeat("x", 63): "", "eu": ""}}
	r := builtinResolver(t, "subdomain", w, map[string]string{"domain": "localhost, Example.com. ,eu.example.com"})
	ask := func(ids ...string) []string { return ids }
	tell(t, r, w, []story{
		{host: "acme.localhost", path: "/", tenant: "acme", asked: ask("acme")},
		{host: "acme.localhost:8080", path: "/x", tenant: "acme", asked: ask("acme")},
		{host: "ACME.LocalHost:8080", path: "/", tenant: "acme", asked: ask("acme")},
		{host: "acme.example.com", path: "/", tenant: "acme", asked: ask("acme")},
		{host: "acme.example.com.", path: "/", tenant: "acme", asked: ask("acme")},
		{host: "acme.example.com.:443", path: "/", tenant: "acme", asked: ask("acme")},
		{host: "acme.eu.example.com", path: "/", tenant: "acme", asked: ask("acme")},
		{host: "a_b-c.localhost", path: "/", tenant: "a_b-c", asked: ask("a_b-c")},
		{host: "0.localhost", path: "/", tenant: "0", asked: ask("0")},
		{host: strings.Repeat("x", 63) + ".localhost", path: "/", tenant: strings.Repeat("x", 63), asked: ask(strings.Repeat("x", 63))},

		{host: "globex.localhost", path: "/", status: 404, body: "no such tenant", asked: ask("globex")},
		{host: "localhost", path: "/", status: 404, body: "<tenant>.localhost"},
		{host: "localhost:8080", path: "/", status: 404, body: "<tenant>.localhost"},
		{host: "example.com", path: "/", status: 404, body: "<tenant>.example.com"},
		{host: "eu.example.com", path: "/", status: 404, body: "<tenant>.eu.example.com"},
		{host: "a.b.example.com", path: "/", status: 404, body: "<tenant>.example.com"},
		{host: "acme.example.org", path: "/", status: 404, body: "not served here"},
		{host: "acmelocalhost", path: "/", status: 404, body: "not served here"},
		{host: "", path: "/", status: 404, body: "not served here"},
		{host: ".", path: "/", status: 404, body: "not served here"},
		{host: ":8080", path: "/", status: 404, body: "not served here"},
		{host: "127.0.0.1:8080", path: "/", status: 404, body: "not served here"},
		{host: "[::1]:8080", path: "/", status: 404, body: "not served here"},
		{host: "[::1]", path: "/", status: 404, body: "not served here"},
		{host: "::1", path: "/", status: 404, body: "not served here"},

		{host: ".localhost", path: "/", status: 404},
		{host: "..localhost", path: "/", status: 404, body: "<tenant>.localhost"},
		{host: "acme..localhost", path: "/", status: 404, body: "<tenant>.localhost"},
		{host: "../acme.localhost", path: "/", status: 404},
		{host: "..%2facme.localhost", path: "/", status: 404},
		{host: "a/../acme.localhost", path: "/", status: 404},
		{host: "a%2fb.localhost", path: "/", status: 404, body: "cannot be a tenant"},
		{host: "a b.localhost", path: "/", status: 404, body: "cannot be a tenant"},
		{host: "-acme.localhost", path: "/", status: 404, body: "cannot be a tenant"},
		{host: "münchen.localhost", path: "/", status: 404, body: "cannot be a tenant"},
		{host: "\u212acme.localhost", path: "/", status: 404, body: "cannot be a tenant"}, // the Kelvin sign, whose lower case is k
		{host: "\xff\xfe.localhost", path: "/", status: 404, body: "cannot be a tenant"},
		{host: strings.Repeat("x", 64) + ".localhost", path: "/", status: 404, body: "cannot be a tenant"},
		{host: strings.Repeat("x", 300) + ".localhost", path: "/", status: 404, body: "cannot be a tenant"},
		{host: strings.Repeat("x.", 20000) + "localhost", path: "/", status: 404, body: "<tenant>.localhost"},
	})
	for _, host := range []string{"ac\x00me.localhost", "acme.localhost\r\nHost: globex.localhost", "\n.localhost"} {
		if _, err := r.Resolve(t.Context(), get(host, "/")); !errors.Is(errors.Invalid, err) {
			t.Errorf("%q: %v", host, err)
		}
	}
}

func TestSubdomainWantsItsDomain(t *testing.T) {
	wasm, _ := Builtin("subdomain")
	_, err := Load(t.Context(), wasm, Options{Name: "subdomain", CacheDir: compiled, Logger: slog.New(slog.DiscardHandler)})
	wantError(t, err, "subdomain", `config domain is missing: domain = "example.com"`)
}

func TestPathPrefix(t *testing.T) {
	w := &town{tenants: map[string]string{"acme": "", "t": ""}}
	ask := func(ids ...string) []string { return ids }
	t.Run("t", func(t *testing.T) {
		r := builtinResolver(t, "path-prefix", w, map[string]string{"prefix": "/t"})
		tell(t, r, w, []story{
			{path: "/t/acme/x", tenant: "acme", rewritten: "/x", asked: ask("acme")},
			{path: "/t/acme/", tenant: "acme", rewritten: "/", asked: ask("acme")},
			{path: "/t/acme", tenant: "acme", rewritten: "/", asked: ask("acme")},
			{path: "/t/acme/t/globex/", tenant: "acme", rewritten: "/t/globex/", asked: ask("acme")},
			{path: "/t/acme/a%2Fb%00//", tenant: "acme", rewritten: "/a%2Fb%00//", asked: ask("acme")},
			{path: "/t/acme/../globex/", tenant: "acme", rewritten: "/../globex/", asked: ask("acme")},
			{path: "/t/globex/x", status: 404, body: "no such tenant", asked: ask("globex")},
			{path: "/", status: 404, body: "/t/<tenant>/"},
			{path: "", status: 404, body: "/t/<tenant>/"},
			{path: "*", status: 404, body: "/t/<tenant>/"},
			{path: "/t", status: 404, body: "/t/<tenant>/"},
			{path: "/t/", status: 404, body: "/t/<tenant>/"},
			{path: "/t//acme/x", status: 404, body: "/t/<tenant>/"},
			{path: "/T/acme/x", status: 404, body: "/t/<tenant>/"},
			{path: "/x/t/acme/x", status: 404, body: "/t/<tenant>/"},
			{path: "/tacme/x", status: 404, body: "/t/<tenant>/"},
			{path: "/t/../acme/x", status: 404, body: "cannot be a tenant"},
			{path: "/t/..%2facme/x", status: 404, body: "cannot be a tenant"},
			{path: "/t/acme%2f..%2fglobex/x", status: 404, body: "cannot be a tenant"},
			{path: "/t/acme%00/x", status: 404, body: "cannot be a tenant"},
			{path: "/t/%61cme/x", status: 404, body: "cannot be a tenant"},
			{path: "/t/Acme/x", status: 404, body: "a-z"},
			{path: "/t/acme;x/y", status: 404, body: "cannot be a tenant"},
			{path: "/t/" + strings.Repeat("x", 300) + "/y", status: 404, body: "cannot be a tenant"},
		})
		d, err := r.Resolve(t.Context(), get("", "/t/acme/x"))
		if want := []Header{{"x-forwarded-prefix", "/t/acme"}}; err != nil || !reflect.DeepEqual(d.SetHeader, want) {
			t.Errorf("headers %v, %v; want %v", d.SetHeader, err, want)
		}
		for _, path := range []string{"/t/ac\x00me/", "/t/acme/\r\n", "t/acme"} {
			if _, err := r.Resolve(t.Context(), get("", path)); !errors.Is(errors.Invalid, err) {
				t.Errorf("%q: %v", path, err)
			}
		}
	})
	t.Run("root", func(t *testing.T) {
		r := builtinResolver(t, "path-prefix", w, nil)
		tell(t, r, w, []story{
			{path: "/acme/x", tenant: "acme", rewritten: "/x", asked: ask("acme")},
			{path: "/t/acme/x", tenant: "t", rewritten: "/acme/x", asked: ask("t")},
			{path: "//acme/x", status: 404, body: "form /<tenant>/"},
		})
	})
}

func TestBuiltinsAnswer503WhenNobodyKnows(t *testing.T) {
	w := &town{lookup: func(context.Context, string) error { return errors.E("get", "x", errors.Unavailable, nil) }}
	for name, r := range map[string]*Resolver{
		"subdomain":   builtinResolver(t, "subdomain", w, map[string]string{"domain": "localhost"}),
		"path-prefix": builtinResolver(t, "path-prefix", w, nil),
	} {
		d, err := r.Resolve(t.Context(), get("acme.localhost", "/acme/"))
		if err != nil || d.Status != 503 || len(d.SetHeader) != 1 || d.SetHeader[0].Name != "retry-after" {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
}

func TestBuiltinNames(t *testing.T) {
	for _, name := range BuiltinNames() {
		if wasm, ok := Builtin(name); !ok || len(wasm) > 3<<20 {
			t.Errorf("%s: %v, %d bytes", name, ok, len(wasm))
		}
	}
	if _, ok := Builtin("../doc.go"); ok {
		t.Error("a path is taken for a name")
	}
}

// The modules in the repository are what their sources give.
func TestBuiltinsAreUpToDate(t *testing.T) {
	recorded, err := os.ReadFile("builtin/go-version.txt")
	if err != nil {
		t.Fatal(err)
	}
	version, err := exec.Command("go", "env", "GOVERSION").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(version, recorded) {
		t.Skipf("the modules were built with %s, here is %s: bytes cannot be compared",
			bytes.TrimSpace(recorded), bytes.TrimSpace(version))
	}
	dir := t.TempDir()
	if out, err := exec.Command("sh", "../wasm-examples/build.sh", dir, "go").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{"path-prefix", "subdomain"} {
		built, err := os.ReadFile(filepath.Join(dir, name+".wasm"))
		if err != nil {
			t.Fatal(err)
		}
		if kept, _ := Builtin(name); !bytes.Equal(built, kept) {
			t.Errorf("builtin/%s.wasm is stale: run make generate", name)
		}
	}
}

// The others, whose compilers not every machine has, were built from the sources
// that are there.
func TestOtherBuiltinsAreUpToDate(t *testing.T) {
	recorded, err := os.ReadFile("builtin/sources.txt")
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"path-prefix", "subdomain"}
	for line := range strings.Lines(string(recorded)) {
		fields := strings.Fields(line)
		names = append(names, fields[0])
		hash := sha256.New()
		for _, source := range fields[2:] {
			text, err := os.ReadFile(filepath.Join("../wasm-examples", source))
			if err != nil {
				t.Fatal(err)
			}
			hash.Write(text)
		}
		if got := hex.EncodeToString(hash.Sum(nil)); got != fields[1] {
			t.Errorf("builtin/%s.wasm is stale, its sources were changed: run make examples", fields[0])
		}
	}
	if slices.Sort(names); !slices.Equal(names, BuiltinNames()) {
		t.Errorf("build.sh builds %v, embedded are %v", names, BuiltinNames())
	}
}

// The resolver that the specification shows to Go authors builds and works.
func TestSpecificationExample(t *testing.T) {
	spec, err := os.ReadFile("../docs/policy-abi.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(spec), "```go\n")
	source, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("no Go example in the specification")
	}
	dir := t.TempDir()
	file, module := filepath.Join(dir, "main.go"), filepath.Join(dir, "resolver.wasm")
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-buildmode=c-shared", "-o", module, file)
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	wasm, err := os.ReadFile(module)
	if err != nil {
		t.Fatal(err)
	}
	r := mustLoad(t, wasm, Options{CacheDir: compiled})
	req := get("x", "/")
	if d, err := r.Resolve(t.Context(), req); err != nil || d.Status != 404 {
		t.Errorf("%+v, %v", d, err)
	}
	req.Header["X-Tenant"] = []string{"acme", "globex"}
	if d, err := r.Resolve(t.Context(), req); err != nil || d.Tenant != "acme" {
		t.Errorf("%+v, %v", d, err)
	}
	// One instance served the probe and both requests.
	if n := len(r.backend.(*pool).idle); n != 1 {
		t.Errorf("%d idle instances: a Go guest's is to be used again", n)
	}
}
