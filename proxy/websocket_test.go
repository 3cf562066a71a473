package proxy_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"atc/proxy"
)

// echoSocket echoes messages and, on its own, greets first.
var echoSocket = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"echo"}})
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(2 << 20)
	ctx := context.Background() // a hijacked request's own is no use
	c.Write(ctx, websocket.MessageText, []byte("hello "+r.Header.Get("Atc-Tenant")))
	for {
		kind, msg, err := c.Read(ctx)
		if err != nil {
			return
		}
		if string(msg) == "bye" {
			c.Close(websocket.StatusNormalClosure, "as asked")
			return
		}
		if c.Write(ctx, kind, msg) != nil {
			return
		}
	}
})

func dialSocket(t *testing.T, fr *front, tenant string) (*websocket.Conn, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	c, _, err := websocket.Dial(ctx, "ws://"+tenant+".example.com/socket", &websocket.DialOptions{HTTPClient: fr.client(), Subprotocols: []string{"echo"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	c.SetReadLimit(2 << 20)
	if _, msg, err := c.Read(ctx); err != nil || string(msg) != "hello "+tenant {
		t.Fatalf("%q %v", msg, err)
	}
	return c, ctx
}

func TestWebSocketEcho(t *testing.T) {
	f := newFleet(t, map[string]http.Handler{"acme": echoSocket})
	fr := serve(t, f, proxy.Options{AccessLog: true})
	c, ctx := dialSocket(t, fr, "acme")
	if c.Subprotocol() != "echo" {
		t.Errorf("subprotocol %q", c.Subprotocol())
	}
	for _, size := range []int{0, 1, 126, 70 << 10, 1 << 20} {
		sent := strings.Repeat("w", size)
		if err := c.Write(ctx, websocket.MessageBinary, []byte(sent)); err != nil {
			t.Fatal(err)
		}
		if kind, msg, err := c.Read(ctx); err != nil || string(msg) != sent || kind != websocket.MessageBinary {
			t.Fatalf("%d bytes: got %d, %v", size, len(msg), err)
		}
	}
	if n := f.leases.Load(); n != 1 {
		t.Errorf("%d leases while the WebSocket is open, want 1", n)
	}
	c.Write(ctx, websocket.MessageText, []byte("bye"))
	if _, _, err := c.Read(ctx); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("closed with %v", err)
	}
	eventually(t, "the lease is released", func() bool { return f.leases.Load() == 0 })
	eventually(t, "it is logged", func() bool { return strings.Contains(fr.log.String(), "status=101") })
}

func TestWebSocketEndsWithEitherSide(t *testing.T) {
	f := newFleet(t, map[string]http.Handler{"acme": echoSocket})
	fr := serve(t, f, proxy.Options{})
	c, _ := dialSocket(t, fr, "acme")
	c.CloseNow() // the client's connection breaks
	eventually(t, "the lease is released", func() bool { return f.leases.Load() == 0 })

	g := newFleet(t, map[string]http.Handler{"acme": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, _ := w.(http.Hijacker).Hijack()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		rw.ReadByte()
		conn.Close() // the application's connection breaks
	})})
	gr := serve(t, g, proxy.Options{})
	req, _ := http.NewRequest("GET", "http://acme.example.com/", nil)
	req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}
	res, err := gr.client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	res.Body.(io.Writer).Write([]byte("x"))
	if rest, _ := io.ReadAll(res.Body); len(rest) != 0 {
		t.Errorf("read %q", rest)
	}
	eventually(t, "the lease is released", func() bool { return g.leases.Load() == 0 })
}

func TestWebSocketRefusedByTheApplication(t *testing.T) {
	fr := serve(t, newFleet(t, map[string]http.Handler{"acme": says("not a socket")}), proxy.Options{})
	_, res, err := websocket.Dial(context.Background(), "ws://acme.example.com/", &websocket.DialOptions{HTTPClient: fr.client()})
	if err == nil || res.StatusCode != 200 {
		t.Errorf("%v, %v", res, err)
	}
}
