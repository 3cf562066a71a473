package proxy_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"atc/proxy"
)

// seen answers with the request as the application got it.
type seen struct {
	Method, Host, URI string
	Header            http.Header
}

var mirror = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	json.NewEncoder(w).Encode(seen{r.Method, r.Host, r.RequestURI, r.Header})
})

// through sends a request to the proxy and returns what the application saw.
func through(t *testing.T, fr *front, method, url string, header http.Header) seen {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values // as spelled, not canonical
	}
	res, err := fr.client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	var s seen
	if err := json.Unmarshal(body, &s); err != nil {
		t.Fatalf("status %d, body %q", res.StatusCode, body)
	}
	return s
}

func TestClientCannotForgeHeaders(t *testing.T) {
	fr := serve(t, newFleet(t, map[string]http.Handler{"acme": mirror}), proxy.Options{})
	s := through(t, fr, "GET", "http://acme.example.com:8080/", http.Header{
		"Atc-Tenant":         {"globex"},
		"atc_tenant":         {"globex"},
		"ATC_Tenant":         {"globex"},
		"Atc-Anything":       {"globex"},
		"X-Forwarded-For":    {"6.6.6.6"},
		"X_Forwarded_For":    {"6.6.6.6"},
		"x-forwarded_host":   {"6.6.6.6"},
		"X-Forwarded-Host":   {"6.6.6.6"},
		"X-Forwarded-Proto":  {"6.6.6.6"},
		"X-Forwarded-Port":   {"6.6.6.6"},
		"X-Forwarded-User":   {"6.6.6.6"},
		"X-Forwarded-Prefix": {"6.6.6.6"},
		"Forwarded":          {"for=6.6.6.6"},
		"X-Real-Ip":          {"6.6.6.6"},
		"X_Real_IP":          {"6.6.6.6"},
		"Proxy":              {"http://6.6.6.6"},
		"Connection":         {"Atc-Tenant, X-Forwarded-For, X-Hop"},
		"X-Hop":              {"dropped: named by Connection"},
		"Keep-Alive":         {"timeout=5"},
		"X-Custom":           {"kept"},
		"Accept-Encoding":    {"br"},
	})
	want := http.Header{
		"Atc-Tenant":        {"acme"},
		"X-Forwarded-For":   {"127.0.0.1"},
		"X-Forwarded-Host":  {"acme.example.com:8080"},
		"X-Forwarded-Proto": {"http"},
		"X-Forwarded-Port":  {"8080"},
		"X-Real-Ip":         {"127.0.0.1"},
		"X-Custom":          {"kept"},
		"Accept-Encoding":   {"br"},
		"User-Agent":        {"Go-http-client/1.1"},
	}
	if id := s.Header.Get("X-Request-Id"); len(id) != 16 {
		t.Errorf("X-Request-Id is %q", id)
	}
	delete(s.Header, "X-Request-Id")
	for name := range want {
		if got := s.Header[name]; len(got) != 1 || got[0] != want[name][0] {
			t.Errorf("%s is %q, want %q", name, got, want[name])
		}
	}
	for name, got := range s.Header {
		if want[name] == nil {
			t.Errorf("the application got %s: %q", name, got)
		}
	}
	if s.Host != "acme.example.com:8080" {
		t.Errorf("Host is %q", s.Host)
	}
}

func TestTrustedProxiesAreBelieved(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
	fr := serve(t, newFleet(t, map[string]http.Handler{"acme": mirror}), proxy.Options{TrustedProxies: trusted})
	for _, c := range []struct {
		name string
		send http.Header
		want map[string]string
	}{
		{"a chain is continued", http.Header{
			"X-Forwarded-For": {"6.6.6.6, 203.0.113.9", "10.1.1.1"}, "X-Forwarded-Proto": {"https"},
			"X-Forwarded-Host": {"acme.com"}, "X-Forwarded-User": {"ann"},
		}, map[string]string{
			"X-Forwarded-For": "6.6.6.6, 203.0.113.9, 10.1.1.1, 127.0.0.1", "X-Real-Ip": "203.0.113.9",
			"X-Forwarded-Proto": "https", "X-Forwarded-Host": "acme.com", "X-Forwarded-Port": "443", "X-Forwarded-User": "ann",
		}},
		{"what it may pass through unseen is dropped", http.Header{
			"Forwarded": {"for=6.6.6.6"}, "X_Forwarded_For": {"6.6.6.6"}, "X-Real-Ip": {"6.6.6.6"}, "Atc-Tenant": {"globex"},
		}, map[string]string{
			"X-Forwarded-For": "127.0.0.1", "X-Real-Ip": "127.0.0.1", "Forwarded": "", "X_forwarded_for": "", "Atc-Tenant": "acme",
			"X-Forwarded-Proto": "http", "X-Forwarded-Port": "80",
		}},
		{"nonsense is not passed on", http.Header{
			"X-Forwarded-For": {"not an address"}, "X-Forwarded-Proto": {"gopher"}, "X-Forwarded-Host": {"a b"}, "X-Forwarded-Port": {"x"},
		}, map[string]string{
			"X-Real-Ip": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "acme.example.com", "X-Forwarded-Port": "80",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := through(t, fr, "GET", "http://acme.example.com/", c.send)
			for name, want := range c.want {
				if got := strings.Join(s.Header[name], "; "); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
		})
	}
}

func TestRequestTargetArrivesUntouched(t *testing.T) {
	fr := serve(t, newFleet(t, map[string]http.Handler{"acme": mirror}), proxy.Options{})
	for _, uri := range []string{
		"/", "/a/b?c=d", "/a%2Fb/@scope%2fname", "/a//b//", "/?a=1;b=2&c=%zz&d=%00", "/a+b%20c", "/%C3%A9", "/?", "/a.b/..c/...",
	} {
		if s := through(t, fr, "GET", "http://acme.example.com"+uri, nil); s.URI != uri {
			t.Errorf("%s arrived as %s", uri, s.URI)
		}
	}
	s := through(t, fr, "PROPFIND", "http://acme.example.com/", http.Header{"X-Request-Id": {"3f2a-1.B_c"}, "User-Agent": nil})
	if s.Method != "PROPFIND" || s.Header.Get("X-Request-Id") != "3f2a-1.B_c" {
		t.Errorf("got %+v", s)
	}
	if s := through(t, fr, "GET", "http://acme.example.com/", http.Header{"X-Request-Id": {"<script>"}}); s.Header.Get("X-Request-Id") == "<script>" {
		t.Error("a request ID that is not fit for a log line was passed on")
	}
}

func TestDecisionRewrites(t *testing.T) {
	f := newFleet(t, map[string]http.Handler{"acme": mirror})
	f.decide = func(r *http.Request) (proxy.Decision, error) {
		return proxy.Decision{
			Tenant: "acme", Path: strings.TrimPrefix(r.URL.EscapedPath(), "/acme"),
			SetHeader: []proxy.Header{{Name: "X-Plan", Value: "gold"}, {Name: "x-custom", Value: "the resolver's"}},
		}, nil
	}
	fr := serve(t, f, proxy.Options{})
	s := through(t, fr, "GET", "http://example.com/acme/a%2Fb?q=1", http.Header{"X-Plan": {"forged"}, "X-Custom": {"forged", "twice"}})
	if s.URI != "/a%2Fb?q=1" || s.Header.Get("X-Forwarded-Prefix") != "/acme" || s.Host != "example.com" {
		t.Errorf("got %s, prefix %q, host %q", s.URI, s.Header.Get("X-Forwarded-Prefix"), s.Host)
	}
	if got := s.Header["X-Custom"]; s.Header.Get("X-Plan") != "gold" || len(got) != 1 || got[0] != "the resolver's" {
		t.Errorf("got %v", s.Header)
	}
}
