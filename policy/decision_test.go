package policy

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestDecisionLines(t *testing.T) {
	for _, c := range []struct {
		text string
		want Decision
	}{
		{"tenant: acme\n", Decision{Tenant: "acme"}},
		{"tenant:acme", Decision{Tenant: "acme"}},
		{"tenant: acme\napp: shop\nregion: ams\nprefer: 3d8d9014b32468\npath: /x%2Fy\n",
			Decision{Tenant: "acme", App: "shop", Region: "ams", Prefer: "3d8d9014b32468", Path: "/x%2Fy"}},
		{"machine: m-1\ntenant: 0_-\n", Decision{Tenant: "0_-", Machine: "m-1"}},
		{"tenant: acme\ncache: host header.x-plan 60\n",
			Decision{Tenant: "acme", CacheKey: []string{"host", "header.x-plan"}, CacheFor: time.Minute}},
		{"tenant: acme\npath: /x\ncache: path 86400\n",
			Decision{Tenant: "acme", Path: "/x", CacheKey: []string{"path"}, CacheFor: 24 * time.Hour}},
		{"status: 404\nbody:  two: spaces \n", Decision{Status: 404, Body: " two: spaces "}},
		{"status: 302\nlocation: https://example.com/?a=b\nset-header.cache-control: no-store\nset-header.x: \n",
			Decision{Status: 302, Location: "https://example.com/?a=b", SetHeader: []Header{{"cache-control", "no-store"}, {"x", ""}}}},
	} {
		got, err := parseDecision([]byte(c.text))
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
		} else if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q:\ngot  %+v\nwant %+v", c.text, got, c.want)
		}
	}
}

func TestDecisionRefusals(t *testing.T) {
	many := strings.Builder{}
	many.WriteString("tenant: acme\n")
	for i := range maxSetHeaders + 1 {
		fmt.Fprintf(&many, "set-header.x-%d: 1\n", i)
	}
	for _, c := range []struct {
		text  string
		words []string
	}{
		{"", []string{"neither a tenant nor a status"}},
		{"app: shop\n", []string{"neither a tenant nor a status"}},
		{"tenant\n", []string{"line 1", "key: value"}},
		{"tenant: acme\n\napp: shop\n", []string{"line 2", "key: value"}},
		{"tenannt: acme\n", []string{"line 1", `"tenannt"`, "no such key", "tenant"}},
		{"Tenant: acme\n", []string{"line 1", "no such key"}},
		{"tenant: acme\napp: a\napp: b\n", []string{"line 3", `"app"`, "line 2 already"}},
		{"tenant: acme\nset-header.x: 1\nset-header.y: 1\nset-header.x: 2\n", []string{"line 4", "line 2 already"}},
		{"tenant: acme\r\n", []string{"line 1", `'\r'`}},
		{"tenant: acme\napp: a\x00b\n", []string{"line 2", `'\x00'`}},

		{"tenant: ..\n", []string{"line 1", "'.' at byte 0"}},
		{"tenant: ../etc\n", []string{"line 1", "'.' at byte 0"}},
		{"tenant: a/b\n", []string{"'/' at byte 1"}},
		{"tenant: Acme\n", []string{"lower-case"}},
		{"tenant: " + strings.Repeat("a", 300) + "\n", []string{"300 bytes", "63"}},
		{"tenant: \n", []string{"empty"}},
		{"tenant:  acme\n", []string{"' ' at byte 0"}},

		{"tenant: acme\nmachine: a;b\n", []string{"line 2", "';'"}},
		{"tenant: acme\nregion: a,b\n", []string{"line 2", "','"}},
		{"tenant: acme\napp: \n", []string{"line 2", "empty"}},
		{"tenant: acme\npath: x\n", []string{"line 2", "begins with '/'"}},
		{"tenant: acme\npath: /a b\n", []string{"line 2", "percent-encoded"}},
		{"tenant: acme\npath: /a?b\n", []string{"line 2", "'?'"}},
		{"tenant: acme\npath: /%2\n", []string{"line 2", "hexadecimal"}},
		{"tenant: acme\nset-header.host: x\n", []string{"line 2", "belongs to the proxy"}},
		{"tenant: acme\nset-header.atc-tenant: globex\n", []string{"line 2", "belongs to the proxy"}},
		{"tenant: acme\nset-header.X-A: x\n", []string{"line 2", "lower case"}},
		{"tenant: acme\nset-header.: x\n", []string{"line 2", "name is empty"}},
		{"tenant: acme\nset-header.a b: x\n", []string{"line 2", "' '"}},
		{"tenant: acme\nset-header.x: a\x01b\n", []string{"line 2", `'\x01'`}},
		{many.String(), []string{"at most 32 headers"}},

		{"tenant: acme\nstatus: 404\n", []string{"line 1 (tenant)", "line 2 (status)"}},
		{"body: x\ntenant: acme\n", []string{"line 2 (tenant)", "line 1 (body)"}},
		{"status: 404\npath: /x\n", []string{"line 1 (status)", "line 2 (path)"}},
		{"tenant: acme\nregion: ams\nmachine: m\n", []string{"line 3 (machine)", "line 2 (region)"}},
		{"tenant: acme\npath: /x\ncache: host 60\n", []string{"line 2 (path)", "line 3 (cache)"}},
		{"status: 200\nlocation: /x\n", []string{"line 1 (status)", "line 2 (location)"}},
		{"status: 204\nbody: x\n", []string{"line 1 (status)", "line 2 (body)"}},
		{"status: 101\n", []string{"line 1", "200 to 599"}},
		{"status: +404\n", []string{"line 1", "200 to 599"}},
		{"status: 302\nlocation: /a b\n", []string{"line 2", "percent-encoded"}},

		{"tenant: acme\ncache: 60\n", []string{"line 2", "host 60"}},
		{"tenant: acme\ncache: host 0\n", []string{"line 2", "seconds from 1"}},
		{"tenant: acme\ncache: host 86401\n", []string{"line 2", "to 86400"}},
		{"tenant: acme\ncache: host host 60\n", []string{"line 2", "twice"}},
		{"tenant: acme\ncache: tenant 60\n", []string{"line 2", "no key part"}},
		{"tenant: acme\ncache: host  60\n", []string{"line 2", "no key part"}},
		{"tenant: acme\nx: " + strings.Repeat("a", MaxText), []string{"bytes", "65536"}},
	} {
		_, err := parseDecision([]byte(c.text))
		if err == nil {
			t.Errorf("%.80q is let through", c.text)
			continue
		}
		for _, word := range c.words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%.80q: the error does not say %q: %v", c.text, word, err)
			}
		}
	}
}

// FuzzDecision checks what the rest of atc relies on: whatever a guest says, a
// decision that is let through is safe to put into a header, a path, a key.
func FuzzDecision(f *testing.F) {
	f.Add([]byte("tenant: acme\napp: shop\nregion: ams\nprefer: m\npath: /x\ncache: path 60\nset-header.x: y\n"))
	f.Add([]byte("status: 302\nlocation: /x\nbody: y"))
	f.Add([]byte("tenant: ../x\nset-header.host: a\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := parseDecision(text)
		if err != nil {
			if err.Error() == "" || strings.ContainsAny(err.Error(), "\n\r\x00") {
				t.Fatalf("error is not one line: %q", err)
			}
			return
		}
		if (d.Tenant == "") == (d.Status == 0) {
			t.Fatalf("tenant %q and status %d", d.Tenant, d.Status)
		}
		values := []string{d.Tenant, d.App, d.Machine, d.Region, d.Prefer, d.Path, d.Location, d.Body}
		for _, h := range d.SetHeader {
			values = append(values, h.Name, h.Value)
		}
		for _, v := range values {
			if strings.ContainsAny(v, "\r\n\x00") {
				t.Fatalf("%q got through", v)
			}
		}
		if strings.ContainsAny(d.Tenant+d.App+d.Machine+d.Region+d.Prefer, "/\\;,= \"") {
			t.Fatalf("a name with a separator in %+v", d)
		}
		if d.Path != "" && (d.Path[0] != '/' || strings.ContainsAny(d.Path, " ?#")) {
			t.Fatalf("path %q", d.Path)
		}
	})
}
