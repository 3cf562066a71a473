package cases

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"atc/fs/errors"
	"atc/policy"
)

// What cases tell, and two resolvers whose stories take more than a file of them.

func quietly(name string) policy.Options {
	return policy.Options{Name: name, Deadline: 20 * time.Second, Logger: slog.New(slog.DiscardHandler)}
}

// resolver asks a built-in resolver about a tenant's host name.
func resolver(t *testing.T, name string, f *File) func(tenant string) policy.Decision {
	t.Helper()
	wasm, _ := policy.Builtin(name)
	opts := quietly(name)
	var err error
	if opts.Config, err = f.config(); err != nil {
		t.Fatal(err)
	}
	opts.World = f.World()
	r, err := policy.Load(t.Context(), wasm, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(t.Context()) })
	return func(tenant string) policy.Decision {
		request, err := Request("GET https://" + tenant + ".example.com/")
		if err != nil {
			t.Fatal(err)
		}
		r.ForgetAll()
		d, err := r.Resolve(t.Context(), request)
		if err != nil || d.Tenant != tenant {
			t.Fatalf("%s: %+v, %v", tenant, d, err)
		}
		return d
	}
}

func manyTenants(n int) map[string]map[string]string {
	tenants := map[string]map[string]string{}
	for i := range n {
		tenants[fmt.Sprint("t", i)] = nil
	}
	tenants[strings.Repeat("x", 63)] = nil
	return tenants
}

// Each tenant prefers the machine with the highest xxhash64, and when one goes
// only its own tenants move.
func TestRendezvousMovesOnlyTheTenantsOfWhoWent(t *testing.T) {
	f := &File{Tenants: manyTenants(300)}
	for _, id := range []string{"m1", "m2", "machine-in-amsterdam-with-a-long-name-3", "m4"} {
		f.Machines = append(f.Machines, Machine{ID: id})
	}
	ask := resolver(t, "rendezvous", f)
	before, shares := map[string]string{}, map[string]int{}
	for tenant := range f.Tenants {
		best := ""
		for _, m := range f.Machines {
			if best == "" || xxhash.Sum64String(m.ID+" "+tenant) > xxhash.Sum64String(best+" "+tenant) {
				best = m.ID
			}
		}
		before[tenant] = ask(tenant).Prefer
		shares[before[tenant]]++
		if before[tenant] != best {
			t.Errorf("%s prefers %s, not %s", tenant, before[tenant], best)
		}
	}
	for _, m := range f.Machines {
		if n := shares[m.ID]; n < 40 || n > 120 {
			t.Errorf("%s is preferred by %d of 301", m.ID, n)
		}
	}
	f.Machines = f.Machines[:3]
	for tenant, was := range before {
		if now := ask(tenant).Prefer; now != was && was != "m4" || now == "m4" {
			t.Errorf("%s moved from %s to %s", tenant, was, now)
		}
	}
}

// Percent is what it says, and more includes less.
func TestCanaryShare(t *testing.T) {
	in := map[string]bool{}
	for _, c := range []struct{ percent, least, most int }{{0, 0, 0}, {10, 60, 140}, {50, 420, 580}, {100, 1001, 1001}, {999999999999, 1001, 1001}} {
		f := &File{Tenants: manyTenants(1000), Config: map[string]any{"canary": "v2", "percent": int64(c.percent)}}
		ask := resolver(t, "canary", f)
		n := 0
		for tenant := range f.Tenants {
			switch app := ask(tenant).App; {
			case app == "v2":
				in[tenant] = true
				n++
			case app != "" || in[tenant]:
				t.Fatalf("%s gets %q at %d percent, and was in: %v", tenant, app, c.percent, in[tenant])
			}
		}
		if n < c.least || n > c.most {
			t.Errorf("%d percent are %d of 1001", c.percent, n)
		}
	}
}

func TestRefusedFiles(t *testing.T) {
	const one = "[[case]]\nrequest = \"GET https://x/\"\n"
	for _, c := range []struct{ text, words string }{
		{"", "no [[case]]"},
		{"x = 1", "line 1"},
		{one + "decison = \"\"", "decison"},
		{one, "either decision or error"},
		{one + "decision = \"tenant: acme\"\nerror = \"x\"", "either decision or error"},
		{one + "decision = \"tenant: Acme\"", "line 1"},
		{one + "decision = \"tennant: acme\"", "no such key"},
		{one + "error = \"x\"\ntime = \"noon\"", "noon"},
		{one + "error = \"x\"\nheaders = { a = 1 }", "header A"},
		{"[[case]]\nrequest = \"GET /x\"\nerror = \"x\"", "write a method and a URL"},
		{"[config]\na = [1]\n" + one + "error = \"x\"", "config a"},
		{"[tenants.acme]\na = \"b\\nc\"\n" + one + "error = \"x\"", "tenant acme"},
	} {
		_, err := Parse("cases.toml", []byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.words) || !errors.Is(errors.Invalid, err) {
			t.Errorf("%q: %v", c.text, err)
		}
	}
}

func TestDiff(t *testing.T) {
	f, err := Parse("cases.toml", []byte(`
[tenants.acme]
[[case]]
request = "GET https://example.com/"
headers = { x-tenant = "acme" }
decision = "tenant: acme\nregion: ams\ncache: header.x-tenant 5"
[[case]]
name = "it refuses"
request = "GET https://example.com/"
error = "refused"
[[case]]
request = "GET https://example.com/a%zz"
headers = { x-tenant = "acme" }
decision = "status: 404"
`))
	if err != nil {
		t.Fatal(err)
	}
	wasm, _ := policy.Builtin("header")
	failures, err := f.Run(t.Context(), wasm, quietly("header"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Failure{
		{"GET https://example.com/", "  tenant: acme\n- region: ams\n- cache: header.x-tenant 5\n+ cache: header.x-tenant 60\n"},
		{"it refuses", "- error: ...refused...\n+ status: 404\n+ body: No tenant: send the header x-tenant.\n"},
		{"GET https://example.com/a%zz", "- status: 404\n+ error: resolve header: read request path: invalid: '%' at byte 2 is not followed by two hexadecimal digits\n"},
	}
	if fmt.Sprint(failures) != fmt.Sprint(want) {
		t.Errorf("got\n%v\nwant\n%v", failures, want)
	}
}
