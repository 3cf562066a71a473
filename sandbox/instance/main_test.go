package instance

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"atc/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.Init()
	if len(os.Args) == 2 && os.Args[1] == "application" {
		application()
	}
	os.Exit(m.Run())
}

// application is what the pools of these tests run. Files in its folder tell
// it what to do, so that a test decides when.
func application() {
	exists := func(name string) bool { _, err := os.Stat(name); return err == nil }
	if exists("deaf") {
		signal.Ignore(syscall.SIGTERM)
	}
	if exists("broken") {
		fmt.Fprintln(os.Stderr, "the configuration\nis broken")
		syscall.Exit(7)
	}
	for !exists("listen") {
		time.Sleep(time.Millisecond)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		tenant, err := os.ReadFile("tenant")
		fmt.Fprintf(w, "%s %v", tenant, err)
	})
	http.HandleFunc("/health", func(w http.ResponseWriter, r *http.Request) {
		if !exists("healthy") {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	http.HandleFunc("/crash", func(http.ResponseWriter, *http.Request) {
		fmt.Fprintln(os.Stderr, "out of luck")
		syscall.Exit(3)
	})
	http.HandleFunc("/quit", func(http.ResponseWriter, *http.Request) { syscall.Exit(0) })
	fmt.Fprintln(os.Stderr, http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
	syscall.Exit(1)
}

// house is a pool over tenants' folders, and what its hooks saw.
type house struct {
	*Pool
	t      *testing.T
	dir    string
	opened atomic.Int64
	closed atomic.Int64
	log    *record

	mu   sync.Mutex
	open map[string]bool // tenants that are open now
	now  time.Duration   // on the pool's clock, which stands still by itself
}

// newHouse makes a pool whose Open may be replaced, and closes it at the end,
// when nothing of it may be left.
func newHouse(t *testing.T, change func(*house, *Config)) *house {
	t.Helper()
	goroutines := runtime.NumGoroutine()
	h := &house{t: t, dir: t.TempDir(), log: &record{}, open: map[string]bool{}}
	begin := time.Now()
	config := Config{
		Open:   h.openTenant,
		Logger: slog.New(slog.NewJSONHandler(h.log, nil)),
		Now: func() time.Time {
			h.mu.Lock()
			defer h.mu.Unlock()
			return begin.Add(h.now)
		},
	}
	if change != nil {
		change(h, &config)
	}
	h.Pool = New(config)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := h.Close(ctx); err != nil {
			t.Error(err)
		}
		if h.opened.Load() != h.closed.Load() {
			t.Errorf("%d opened, %d closed", h.opened.Load(), h.closed.Load())
		}
		eventually(t, "the goroutines end", func() bool { return runtime.NumGoroutine() <= goroutines })
		if t.Failed() {
			t.Logf("log:\n%s", h.log)
		}
	})
	return h
}

func (h *house) openTenant(_ context.Context, tenant string) (sandbox.Spec, func(), error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.open[tenant] {
		h.t.Errorf("%s is open twice", tenant)
	}
	h.open[tenant] = true
	h.opened.Add(1)
	exe, err := os.Executable()
	if err != nil {
		return sandbox.Spec{}, nil, err
	}
	spec := sandbox.Spec{Name: tenant, Dir: filepath.Join(h.dir, tenant), Command: []string{exe, "application"}}
	return spec, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.open[tenant] = false
		h.closed.Add(1)
	}, nil
}

// file creates a file in a tenant's folder.
func (h *house) file(tenant, name string) {
	h.t.Helper()
	dir := filepath.Join(h.dir, tenant)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(tenant), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) remove(tenant, name string) {
	h.t.Helper()
	if err := os.Remove(filepath.Join(h.dir, tenant, name)); err != nil {
		h.t.Fatal(err)
	}
}

// tenant makes one whose application listens at once.
func (h *house) tenant(name string) string {
	h.t.Helper()
	h.file(name, "tenant")
	h.file(name, "listen")
	return name
}

func (h *house) advance(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now += d
}

func (h *house) acquire(tenant string) *Lease {
	h.t.Helper()
	l, err := h.Acquire(h.context(), tenant)
	if err != nil {
		h.t.Fatal(err)
	}
	return l
}

func (h *house) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	h.t.Cleanup(cancel)
	return ctx
}

// status is the tenant's, or nil when it is stopped.
func (h *house) status(tenant string) *Status {
	for _, s := range h.Snapshot() {
		if s.Tenant == tenant {
			return &s
		}
	}
	return nil
}

func (h *house) eventually(tenant string, state State) {
	h.t.Helper()
	eventually(h.t, tenant+" is "+state.String(), func() bool {
		s := h.status(tenant)
		return s != nil && s.State == state
	})
}

// get asks the application for a path over the lease.
func get(l *Lease, path string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := l.Dial(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.0\r\n\r\n", path); err != nil {
		return "", err
	}
	b, err := io.ReadAll(conn)
	_, body, _ := strings.Cut(string(b), "\r\n\r\n")
	return body, err
}

func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// record is a log that can be read while it is written.
type record struct {
	mu sync.Mutex // protects b
	b  bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.String()
}
