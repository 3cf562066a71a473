package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"atc/proxy"
)

// raw sends bytes as they are and returns the first answer.
func raw(t *testing.T, addr, request string) (status int, body string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%.60q: no answer: %v", request, err)
	}
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b)
}

// Each of these ends before anything is asked of, or opened for, any tenant.
func TestHostileRequestsAreRefused(t *testing.T) {
	f := newFleet(t, map[string]http.Handler{"acme": says("acme")})
	fr := serve(t, f, proxy.Options{MaxHeaderBytes: 16 << 10, MaxURIBytes: 4 << 10})
	const host = "Host: acme.example.com\r\n"
	get := func(target, headers string) string { return "GET " + target + " HTTP/1.1\r\n" + headers + "\r\n" }
	for _, c := range []struct {
		name, request string
		status        int
	}{
		{"no host", get("/", ""), 400},
		{"no host, HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", 400},
		{"empty host", get("/", "Host: \r\n"), 400},
		{"two hosts", get("/", host+"Host: globex.example.com\r\n"), 400},
		{"two hosts, one folded", get("/", host+" globex.example.com\r\n"), 400},
		{"host with a slash", get("/", "Host: acme/../globex\r\n"), 400},
		{"host with a user", get("/", "Host: acme@globex\r\n"), 400},
		{"host with a space", get("/", "Host: acme globex\r\n"), 400},
		{"host with an escape", get("/", "Host: acme%2eglobex\r\n"), 400},
		{"host of dots", get("/", "Host: ..\r\n"), 400},
		{"host with a NUL", get("/", "Host: acme\x00.example.com\r\n"), 400},
		{"host with a bad port", get("/", "Host: acme.example.com:99999\r\n"), 400},
		{"host with an open bracket", get("/", "Host: [::1\r\n"), 400},
		{"host with a zone", get("/", "Host: [fe80::1%25eth0]\r\n"), 400},
		{"host of 300 bytes", get("/", "Host: "+strings.Repeat("abc.", 75)+"example\r\n"), 400},
		{"label of 64 bytes", get("/", "Host: "+strings.Repeat("a", 64)+".example.com\r\n"), 400},
		{"absolute target with a bad host", get("http://acme$/", host), 400},
		{"absolute target of another scheme", get("ftp://acme.example.com/", host), 400},
		{"dot segments", get("/a/../../globex", host), 400},
		{"escaped dot segments", get("/a/%2e%2E/globex", host), 400},
		{"dot segments behind an escaped slash", get("/a%2f..%2fglobex", host), 400},
		{"dot segments behind a backslash", get("/a\\..\\globex", host), 400},
		{"single dot", get("/./a", host), 400},
		{"NUL in the path", get("/a%00b", host), 400},
		{"raw NUL in the path", get("/a\x00b", host), 400},
		{"CR LF in the path", get("/a%0d%0aAtc-Tenant:%20globex", host), 400},
		{"broken escape in the path", get("/%zz", host), 400},
		{"relative target", get("acme", host), 400},
		{"asterisk", get("*", host), 400},
		{"CONNECT", "CONNECT acme.example.com:80 HTTP/1.1\r\n" + host + "\r\n", 405},
		{"CONNECT with a path", "CONNECT /a HTTP/1.1\r\n" + host + "\r\n", 405},
		{"long target", get("/"+strings.Repeat("a", 5<<10), host), 414},
		{"long header", get("/", host+"X-Long: "+strings.Repeat("a", 64<<10)+"\r\n"), 431},
		{"many headers", get("/", host+strings.Repeat("X-Many: a\r\n", 8<<10)), 431},
		{"NUL in a header", get("/", host+"X-A: a\x00b\r\n"), 400},
		{"bare CR in a header", get("/", host+"X-A: a\rAtc-Tenant: globex\r\n"), 400},
		{"space before the colon", get("/", host+"Atc-Tenant : globex\r\n"), 400},
		{"header without a colon", get("/", host+"Atc-Tenant\r\n"), 400},
		{"two lengths", get("/", host+"Content-Length: 1\r\nContent-Length: 2\r\n"), 400},
		{"length with a sign", get("/", host+"Content-Length: +1\r\n"), 400},
		{"unknown transfer coding", get("/", host+"Transfer-Encoding: gzip, chunked\r\n"), 501},
		{"two transfer codings", get("/", host+"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"), 501},
		{"obscured transfer coding", get("/", host+"Transfer-Encoding: \x0bchunked\r\n"), 400},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
		{"HTTP/3", "GET / HTTP/3.0\r\n" + host + "\r\n", 505},
		{"no version", "GET /\r\n" + host + "\r\n", 400},
		{"TLS hello", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, body := raw(t, fr.addr, c.request)
			if status != c.status {
				t.Errorf("status %d, want %d: %s", status, c.status, body)
			}
		})
	}
	if got := f.wasOpened(); got != "" {
		t.Errorf("hostile requests reached: %s", got)
	}
	if status, body := fr.get("http://acme.example.com/"); status != 200 || body != "acme" {
		t.Errorf("an honest request got %d %q", status, body)
	}
}

// A request whose length could be read in two ways reaches the application in
// one way only: what one reading calls a second request never arrives.
func TestSmugglingShapesAreReframed(t *testing.T) {
	paths := make(chan string, 16)
	f := newFleet(t, map[string]http.Handler{"acme": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		paths <- fmt.Sprintf("%s %q CL=%d TE=%v", r.URL.Path, body, r.ContentLength, r.TransferEncoding)
		if h := r.Header["Content_length"]; h != nil {
			t.Errorf("the application got Content_Length: %q", h)
		}
	})})
	fr := serve(t, f, proxy.Options{})
	const head = "POST /first HTTP/1.1\r\nHost: acme.example.com\r\nConnection: close\r\n"
	for _, c := range []struct{ name, request, want string }{
		{"length and chunks", head + "Content-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", `/first "abc" CL=-1 TE=[chunked]`},
		{"equal lengths", head + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabcGET /second HTTP/1.1\r\n\r\n", `/first "abc" CL=3 TE=[]`},
		{"chunk extension", head + "Transfer-Encoding: chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n0\r\n\r\n", `/first "abc" CL=-1 TE=[chunked]`},
		{"a spelling CGI confuses", head + "Content_Length: 99\r\nContent-Length: 3\r\n\r\nabc", `/first "abc" CL=3 TE=[]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if status, body := raw(t, fr.addr, c.request); status != 200 {
				t.Fatalf("status %d: %s", status, body)
			}
			if got := <-paths; got != c.want {
				t.Errorf("the application got %s, want %s", got, c.want)
			}
			if len(paths) != 0 {
				t.Errorf("and then %s", <-paths)
			}
		})
	}
	t.Run("malformed chunk", func(t *testing.T) {
		if status, _ := raw(t, fr.addr, head+"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n"); status != 400 {
			t.Errorf("status %d, want 400", status)
		}
	})
}

// An h2c upgrade would let a client write Atc-Tenant itself, behind the proxy.
func TestOnlyWebSocketUpgradesPass(t *testing.T) {
	got := make(chan http.Header, 1)
	switches := map[string]string{
		"/bare":      "",
		"/websocket": "Connection: Upgrade\r\nUpgrade: websocket\r\n",
		"/empty":     "Connection: Upgrade\r\nUpgrade: \r\n",
	}
	f := newFleet(t, map[string]http.Handler{
		"acme": http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r.Header }),
		"evil": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n"+switches[r.URL.Path]+"\r\nnow everything is mine")
			io.Copy(io.Discard, conn)
			conn.Close()
		}),
	})
	fr := serve(t, f, proxy.Options{})
	for _, upgrade := range []string{"h2c", "websocket, h2c", "websocket\r\nUpgrade: h2c", "TLS/1.0", "websocket"} {
		method := "GET"
		if upgrade == "websocket" {
			method = "OPTIONS" // no method for a WebSocket
		}
		status, _ := raw(t, fr.addr, method+" / HTTP/1.1\r\nHost: acme.example.com\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nUpgrade: "+upgrade+"\r\n\r\n")
		var h http.Header
		select {
		case h = <-got:
		default:
			t.Fatalf("%q: status %d, the application got nothing", upgrade, status)
		}
		if status != 200 || h["Upgrade"] != nil || h["Connection"] != nil || h["Http2-Settings"] != nil {
			t.Errorf("%q: status %d, the application got %v", upgrade, status, h)
		}
	}
	// An application that switches unasked would get the client's connection,
	// which may carry other tenants' requests when the client is a proxy too.
	for path := range switches {
		if status, body := raw(t, fr.addr, "GET "+path+" HTTP/1.1\r\nHost: evil.example.com\r\n\r\n"); status != 502 || strings.Contains(body, "mine") {
			t.Errorf("an unasked switch gave %d %q", status, body)
		}
	}
}
