package policy

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"atc/fs/errors"
)

// A decision that was allowed to be kept holds for the requests that the guest
// named, and for no other, as long as nothing that it rests on changes.

// ask makes a decision through the cache, as Resolve does; the guest decides
// text and asked for the tenants. It reports whether the cache had it.
func (c *decisions) ask(t *testing.T, r Request, text string, o outcome) (Decision, bool) {
	t.Helper()
	d, ok, epoch := c.look(&r)
	if ok {
		return d, true
	}
	var err error
	if o.decision, err = parseDecision([]byte(text)); err != nil {
		t.Fatal(err)
	}
	c.keep(epoch, &r, &o)
	return o.decision, false
}

func TestKeptDecisionsAreKeyedByWhatTheGuestNamed(t *testing.T) {
	base := get("acme.example.com", "/a")
	base.Query = "q"
	base.Header["Cookie"] = []string{"a", "b"}
	for _, c := range []struct {
		parts  string
		change func(*Request)
		same   bool
	}{
		{"host", func(r *Request) { r.Path, r.Query, r.Method, r.Remote, r.Scheme = "/b", "", "PUT", "x", "http" }, true},
		{"host", func(r *Request) { r.Host = "globex.example.com" }, false},
		{"host", func(r *Request) { r.Host = "ACME.example.com" }, false},
		{"method", func(r *Request) { r.Method = "PUT" }, false},
		{"scheme", func(r *Request) { r.Scheme = "http" }, false},
		{"path", func(r *Request) { r.Path = "/a/" }, false},
		{"query", func(r *Request) { r.Query = "" }, false},
		{"remote", func(r *Request) { r.Remote = "192.0.2.7:4712" }, false},
		{"host path", func(r *Request) { r.Host, r.Path = "acme.example.com/", "a" }, false},
		{"host path", func(r *Request) { r.Host, r.Path = "acme.example.co", "m/a" }, false},
		{"path query", func(r *Request) { r.Path, r.Query = "/aq", "" }, false},
		{"header.cookie", func(r *Request) { r.Host = "globex.example.com" }, true},
		{"header.cookie", func(r *Request) { r.Header["Cookie"] = []string{"a,b"} }, false},
		{"header.cookie", func(r *Request) { r.Header["Cookie"] = []string{"b", "a"} }, false},
		{"header.cookie", func(r *Request) { r.Header["Cookie"] = []string{"a", "b", ""} }, false},
		{"header.cookie", func(r *Request) { delete(r.Header, "Cookie") }, false},
		{"header.cookie", func(r *Request) { delete(r.Header, "Cookie"); r.Header["cookie"] = []string{"a", "b"} }, true},
		{"header.cookie", func(r *Request) { r.Header["cookie"] = []string{"c"} }, false}, // two spellings: never kept
		{"header.x-none", func(r *Request) { r.Header["X-None"] = []string{""} }, false},
		{"header.x-a header.x-b", func(r *Request) { r.Header["X-A"] = []string{"b"} }, false},
	} {
		kept := newDecisions()
		text := "tenant: acme\ncache: " + c.parts + " 60\n"
		kept.ask(t, base, text, outcome{})
		if _, ok := kept.ask(t, base, text, outcome{}); !ok {
			t.Fatalf("%s: the same request is decided again", c.parts)
		}
		other := get("acme.example.com", "/a")
		other.Query = "q"
		other.Header["Cookie"] = []string{"a", "b"}
		c.change(&other)
		if _, ok := kept.ask(t, other, text, outcome{}); ok != c.same {
			t.Errorf("%s: %+v is found: %v", c.parts, other, ok)
		}
	}
}

// Two lists of parts whose values join to the same bytes stay apart.
func TestKeptDecisionsOfTwoShapes(t *testing.T) {
	kept := newDecisions()
	kept.ask(t, get("a", "/"), "tenant: by-host\ncache: host 60", outcome{})
	kept.ask(t, Request{Host: "b", Path: "a"}, "tenant: by-path\ncache: path 60", outcome{})
	if d, ok := kept.ask(t, Request{Host: "c", Path: "a"}, "status: 404", outcome{}); !ok || d.Tenant != "by-path" {
		t.Errorf("%+v, %v", d, ok)
	}
	if d, ok := kept.ask(t, Request{Host: "a", Path: "c"}, "status: 404", outcome{}); !ok || d.Tenant != "by-host" {
		t.Errorf("%+v, %v", d, ok)
	}
	if d, ok := kept.ask(t, Request{Host: "c", Path: "c"}, "status: 404", outcome{}); ok {
		t.Errorf("%+v", d)
	}
}

func TestKeptDecisionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := newDecisions()
		kept.ask(t, get("acme", "/"), "tenant: acme\ncache: host 60", outcome{asked: []string{"acme"}})
		kept.ask(t, get("gone", "/"), "status: 404\ncache: host 60", outcome{asked: []string{"gone"}, absent: true})
		kept.ask(t, get("down", "/"), "status: 503\ncache: host 60", outcome{asked: []string{"down"}, unsure: true})
		has := func(hosts ...string) {
			t.Helper()
			for _, host := range []string{"acme", "gone", "down"} {
				r := get(host, "/")
				_, ok, _ := kept.look(&r)
				if want := strings.Contains(strings.Join(hosts, " "), host); ok != want {
					t.Errorf("%s is kept: %v", host, ok)
				}
			}
		}
		has("acme", "gone")
		time.Sleep(absentFor + time.Millisecond) // another machine may have made it
		has("acme")
		time.Sleep(57 * time.Second)
		has("acme")
		time.Sleep(2 * time.Second)
		has()
		if len(kept.byKey)+len(kept.rests)+len(kept.shapes)+kept.bytes+kept.recent.Len() != 0 {
			t.Errorf("something is left: %+v", kept)
		}
	})
}

// Lists of parts that nobody uses any more make room for others.
func TestOldShapesMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := newDecisions()
		for i := range 3 * maxShapes {
			r := get(fmt.Sprint("h", i), "/")
			part := fmt.Sprint("header.x-", i)
			r.Header[part[len("header."):]] = []string{"1"}
			text := "status: 404\ncache: host " + part + " 1"
			kept.ask(t, r, text, outcome{})
			if _, ok := kept.ask(t, r, text, outcome{}); !ok {
				t.Errorf("%d is not kept", i)
			}
			time.Sleep(time.Second / 2)
		}
	})
}

func TestKeptDecisionsAreForgottenWithTheirTenants(t *testing.T) {
	kept := newDecisions()
	fill := func() {
		kept.ask(t, get("acme", "/"), "tenant: acme\ncache: host 60", outcome{}) // decided without a question
		kept.ask(t, get("alias", "/"), "tenant: acme\ncache: host 60", outcome{asked: []string{"alias", "acme"}, absent: true})
		kept.ask(t, get("gone", "/"), "status: 404\ncache: host 60", outcome{asked: []string{"gone"}, absent: true})
	}
	for _, c := range []struct {
		tenant string
		stays  []string
	}{
		{"acme", []string{"gone"}}, {"gone", []string{"acme", "alias"}}, {"alias", []string{"acme", "gone"}},
		{"globex", []string{"acme", "alias", "gone"}},
	} {
		fill()
		kept.forget(c.tenant)
		var stays []string
		for _, host := range []string{"acme", "alias", "gone"} {
			r := get(host, "/")
			if _, ok, _ := kept.look(&r); ok {
				stays = append(stays, host)
			}
		}
		if fmt.Sprint(stays) != fmt.Sprint(c.stays) {
			t.Errorf("after forgetting %s: %v, want %v", c.tenant, stays, c.stays)
		}
	}
}

// A decision that was being made while its tenant went is not kept.
func TestDecisionUnderWayIsForgottenToo(t *testing.T) {
	w := &town{tenants: map[string]string{"acme": ""}}
	const text = "tenant: acme\ncache: host 60\n"
	g := guestModule{data: text, body: ins(
		num(8), num(4), num(1000), num(1000), invoke(fnTenant), opDrop,
		num(0), num(int64(len(text))), invoke(fnDecide), num(0))}
	r := mustLoad(t, g.wasm(), Options{World: w})
	forgotten := false
	w.lookup = func(context.Context, string) error {
		if !forgotten {
			forgotten = true
			r.Forget("acme")
		}
		return nil
	}
	for range 4 {
		if d, err := r.Resolve(t.Context(), get("acme", "/")); err != nil || d.Tenant != "acme" {
			t.Fatal(d, err)
		}
	}
	if n := len(w.questions()); n != 2 {
		t.Errorf("asked %d times: once before it was forgotten, once after", n)
	}
	r.Forget("acme")
	w.lookup = func(context.Context, string) error { return errors.E("get", "x", errors.Unavailable, nil) }
	for range 2 {
		if _, err := r.Resolve(t.Context(), get("acme", "/")); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(w.questions()); n != 4 {
		t.Errorf("asked %d times: what rests on a lookup that failed is not kept", n)
	}
}

func TestKeptDecisionsAreBounded(t *testing.T) {
	t.Run("number", func(t *testing.T) {
		kept := newDecisions()
		first := get("first", "/")
		kept.ask(t, first, "tenant: first\ncache: host 60", outcome{})
		for i := range 2 * maxKept {
			kept.ask(t, get(fmt.Sprint("h", i), "/"), "status: 404\ncache: host 60", outcome{asked: []string{fmt.Sprint("h", i)}})
			if i%1000 == 0 {
				kept.look(&first) // in use
			}
		}
		if len(kept.byKey) != maxKept || kept.recent.Len() != maxKept || len(kept.rests) > maxKept+1 {
			t.Errorf("%d decisions, %d tenants", len(kept.byKey), len(kept.rests))
		}
		if _, ok, _ := kept.look(&first); !ok {
			t.Error("one in use had to go before those that nobody asks for")
		}
	})
	t.Run("bytes", func(t *testing.T) {
		kept := newDecisions()
		body := strings.Repeat("x", MaxText/2)
		for i := range 2000 {
			kept.ask(t, get(fmt.Sprint("h", i), "/"), "status: 404\ncache: host 60\nbody: "+body, outcome{})
		}
		if n := len(kept.byKey); kept.bytes > maxKeptBytes || n < maxKeptBytes/MaxText {
			t.Errorf("%d decisions of %d bytes", n, kept.bytes)
		}
	})
	t.Run("key", func(t *testing.T) {
		kept := newDecisions()
		kept.ask(t, get("h", "/"+strings.Repeat("x", maxKeptKey)), "status: 404\ncache: path 60", outcome{})
		if len(kept.byKey)+len(kept.shapes) != 0 {
			t.Errorf("kept: %d", len(kept.byKey))
		}
	})
	t.Run("shapes", func(t *testing.T) {
		kept := newDecisions()
		for i := range 100 {
			r := get("h", "/")
			for j := range 100 {
				r.Header[fmt.Sprint("X-", j)] = []string{fmt.Sprint(i)}
			}
			kept.ask(t, r, fmt.Sprintf("status: 404\ncache: header.x-%d 60", i), outcome{})
		}
		if len(kept.shapes) != maxShapes || len(kept.byKey) != maxShapes {
			t.Errorf("%d shapes of %d decisions", len(kept.shapes), len(kept.byKey))
		}
	})
}
