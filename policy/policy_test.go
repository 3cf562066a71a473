package policy

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// What the tests of this package share: loading, requests, a world and a log
// to look into.

// compiled is one compile cache for the tests of a run: under the race detector
// compiling a Go guest takes seconds. TestMain makes and removes it; the worker
// processes of a fuzz run inherit it.
var compiled string

func TestMain(m *testing.M) {
	Worker()
	const inherited = "ATC_POLICY_TEST_CACHE"
	compiled = os.Getenv(inherited)
	if compiled != "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "atc-policy-test-")
	if err == nil {
		err = os.Setenv(inherited, dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	compiled = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// testLog is a log that a test reads back.
type testLog struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *testLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *testLog) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// town is a World of a fixed list of tenants.
type town struct {
	tenants  map[string]string
	machines []Machine
	lookup   func(ctx context.Context, id string) error // before an answer, if set

	mu    sync.Mutex
	asked []string // guarded by mu
}

func (w *town) Tenant(ctx context.Context, id string) (string, bool, error) {
	w.mu.Lock()
	w.asked = append(w.asked, id)
	w.mu.Unlock()
	if w.lookup != nil {
		if err := w.lookup(ctx, id); err != nil {
			return "", false, err
		}
	}
	attributes, ok := w.tenants[id]
	return attributes, ok, nil
}

// Recall knows nothing, so that every question is seen by Tenant.
func (w *town) Recall(string) (string, bool, bool) { return "", false, false }

func (w *town) Machines(context.Context) []Machine { return w.machines }

func (w *town) questions() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.asked...)
}

// mustLoad loads a module for one test, and closes it with it. A busy machine
// must not fail tests that are not about the deadline: it is long by default.
func mustLoad(t testing.TB, wasm []byte, opts Options) *Resolver {
	t.Helper()
	if opts.Deadline == 0 {
		opts.Deadline = 20 * time.Second
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	r, err := Load(t.Context(), wasm, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return r
}

func get(host, path string) Request {
	return Request{
		Method: "GET", Scheme: "https", Host: host, Path: path, Remote: "192.0.2.7:4711", Region: "ams", Machine: "m1",
		Time:   time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC),
		Header: map[string][]string{"User-Agent": {"test/1"}, "Accept": {"text/html", "*/*"}},
	}
}

// wantError checks that an error says all of the words.
func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one with %q", words)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error does not say %q:\n%v", word, err)
		}
	}
	if strings.ContainsAny(err.Error(), "\n\r\x00") {
		t.Errorf("error is not one line: %q", err)
	}
}
