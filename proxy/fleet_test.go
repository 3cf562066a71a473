// This file is the world around the proxy in tests: a resolver that reads the
// subdomain, and one real HTTP server a tenant, on a unix socket or a TCP port,
// that is started, stopped and killed as a process would be.

package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"atc/fs/errors"
	"atc/proxy"
)

// fleet implements proxy.Resolver, proxy.Tenants and proxy.Instances.
type fleet struct {
	t      testing.TB
	dir    string
	runs   atomic.Int64
	leases atomic.Int64
	starts atomic.Int64

	// decide replaces the subdomain resolver.
	decide func(*http.Request) (proxy.Decision, error)
	// sameID gives every tenant's run the same ID, against the contract.
	sameID bool
	// starting, where set, is called before an instance starts.
	starting func(ctx context.Context, tenant string) error

	mu      sync.Mutex // protects what follows
	tenants map[string]http.Handler
	running map[string]*run
	opened  []string // tenants that were asked for or started
}

// run is one life of one tenant's application.
type run struct {
	fleet  *fleet
	id     string
	server *http.Server
	addr   net.Addr
	conns  atomic.Int64 // open connections, as the application sees them
	served atomic.Int64 // connections accepted
}

// newFleet starts nothing; tenants are started when acquired.
func newFleet(t testing.TB, tenants map[string]http.Handler) *fleet {
	f := &fleet{t: t, dir: t.TempDir(), tenants: tenants, running: map[string]*run{}}
	t.Cleanup(func() {
		for name := range tenants {
			f.kill(name)
		}
		eventually(t, "all leases are released", func() bool { return f.leases.Load() == 0 })
	})
	return f
}

func (f *fleet) Resolve(_ context.Context, r *http.Request) (proxy.Decision, error) {
	if f.decide != nil {
		return f.decide(r)
	}
	name, _, _ := strings.Cut(r.Host, ".")
	return proxy.Decision{Tenant: name}, nil
}

func (f *fleet) Exists(_ context.Context, id string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened = append(f.opened, "exists "+id)
	return f.tenants[id] != nil, nil
}

func (f *fleet) Acquire(ctx context.Context, name, _ string) (proxy.Instance, error) {
	if f.starting != nil {
		if err := f.starting(ctx, name); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.running[name]
	if r == nil {
		r = f.start(name)
		f.running[name] = r
	}
	f.leases.Add(1)
	return &lease{run: r}, nil
}

func (f *fleet) start(name string) *run {
	f.starts.Add(1)
	f.opened = append(f.opened, "start "+name)
	n := f.runs.Add(1)
	var l net.Listener
	var err error
	if n%2 == 0 {
		l, err = net.Listen("tcp", "127.0.0.1:0")
	} else {
		l, err = net.Listen("unix", filepath.Join(f.dir, fmt.Sprintf("%d.sock", n)))
	}
	if err != nil {
		panic(err)
	}
	r := &run{fleet: f, id: fmt.Sprintf("run/%d", n), addr: l.Addr()}
	r.server = &http.Server{Handler: f.tenants[name], ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	r.server.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			r.conns.Add(1)
			r.served.Add(1)
		case http.StateClosed, http.StateHijacked:
			r.conns.Add(-1)
		}
	}
	go r.server.Serve(l)
	return r
}

// crash ends a run without anybody noticing: the next Acquire still gives it.
func (f *fleet) crash(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running[name].server.Close()
}

// kill ends a run; the next Acquire starts another.
func (f *fleet) kill(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.running[name]; r != nil {
		r.server.Close()
		delete(f.running, name)
	}
}

func (f *fleet) current(name string) *run {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.running[name]
}

func (f *fleet) wasOpened() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.opened, ", ")
}

type lease struct {
	*run
	released bool
}

func (l *lease) ID() string {
	if l.fleet.sameID {
		return "1"
	}
	return l.id
}

func (l *lease) Dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, l.addr.Network(), l.addr.String())
	if err != nil { // as a supervisor would, notice that the process is gone
		l.fleet.mu.Lock()
		for name, r := range l.fleet.running {
			if r == l.run {
				delete(l.fleet.running, name)
			}
		}
		l.fleet.mu.Unlock()
	}
	return conn, err
}

func (l *lease) Release() {
	if l.released {
		panic("a lease was released twice")
	}
	l.released = true
	l.fleet.leases.Add(-1)
}

// front is a proxy that serves a fleet on a loopback port.
type front struct {
	*fleet
	proxy *proxy.Proxy
	addr  string
	log   *syncBuffer
	stop  context.CancelFunc
	done  chan error
}

func serve(t testing.TB, f *fleet, opt proxy.Options) *front {
	t.Helper()
	fr := &front{fleet: f, log: &syncBuffer{}, done: make(chan error, 1)}
	opt.Resolver, opt.Tenants, opt.Instances = f, f, f
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.NewTextHandler(fr.log, nil))
	}
	fr.proxy = proxy.New(opt)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fr.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	fr.stop = cancel
	go func() { fr.done <- fr.proxy.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		err := <-fr.done
		if err != nil {
			t.Errorf("Serve: %v", err)
		}
		fr.done <- err
		fr.proxy.Close()
	})
	return fr
}

// client sends every request to the proxy, whatever host the URL names.
func (fr *front) client() *http.Client {
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", fr.addr)
		},
		DisableCompression:    true,
		MaxIdleConnsPerHost:   64,
		ExpectContinueTimeout: 5 * time.Second,
	}
	fr.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// get returns status and body.
func (fr *front) get(url string) (int, string) {
	fr.t.Helper()
	res, err := fr.client().Get(url)
	if err != nil {
		fr.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		fr.t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// says answers every request with the same text.
func says(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) })
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never happened that %s", what)
		}
	}
}

type syncBuffer struct {
	mu  sync.Mutex // protects buf
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

var errFull = errors.E("acquire", "acme", errors.Unavailable, fmt.Errorf("the queue is full: secret detail"))
