package policy

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"atc/fs/errors"
)

// A resolver is replaced under load, by one that works or not at all.

// module is a file that a Live loads.
type moduleFile struct {
	t    *testing.T
	path string
	opts Options
}

func newModuleFile(t *testing.T, wasm []byte, opts Options) *moduleFile {
	m := &moduleFile{t, filepath.Join(t.TempDir(), "own.wasm"), opts}
	m.write(wasm)
	return m
}

func (m *moduleFile) write(wasm []byte) {
	m.t.Helper()
	next := m.path + ".next"
	if err := os.WriteFile(next, wasm, 0o600); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(next, m.path); err != nil {
		m.t.Fatal(err)
	}
}

func (m *moduleFile) live(logger *slog.Logger) *Live {
	m.t.Helper()
	m.opts.Name, m.opts.Logger = m.path, logger
	l, err := NewLive(m.t.Context(), logger, func(ctx context.Context) (*Resolver, string, error) {
		wasm, err := os.ReadFile(m.path)
		if err != nil {
			return nil, "", err
		}
		r, err := Load(ctx, wasm, m.opts)
		return r, m.path, err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		if err := l.Close(context.Background()); err != nil {
			m.t.Error(err)
		}
	})
	return l
}

func tenantOf(t *testing.T, l *Live) string {
	t.Helper()
	d, err := l.Resolve(t.Context(), get("x", "/"))
	if err != nil {
		t.Fatal(err)
	}
	return d.Tenant
}

func TestReloadUnderLoad(t *testing.T) {
	m := newModuleFile(t, decides("tenant: v0\ncache: host 60\n").wasm(), Options{})
	l := m.live(slog.New(slog.DiscardHandler))
	stop := make(chan struct{})
	var asked, failed atomic.Int64
	var all sync.WaitGroup
	for range 4 { // 4 x 50 requests a second, and as many as there is room for
		all.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if n%10 == 0 {
					time.Sleep(time.Second / 50)
				}
				host := fmt.Sprint("h", n%100)
				asked.Add(1)
				if d, err := l.Resolve(t.Context(), get(host, "/")); err != nil || !strings.HasPrefix(d.Tenant, "v") {
					failed.Add(1)
					t.Errorf("%+v, %v", d, err)
				}
			}
		})
	}
	for i := range 10 {
		if err := l.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			runtime.GC()
		}
	}
	goroutines, memory := runtime.NumGoroutine(), resident(t)
	for i := range 200 {
		m.write(decides(fmt.Sprintf("tenant: v%d\ncache: host 60\n", i)).wasm())
		if err := l.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, want := tenantOf(t, l), fmt.Sprint("v", i); got != want {
			t.Fatalf("after the reload %s decides, not %s", got, want)
		}
	}
	close(stop)
	all.Wait()
	if asked.Load() < 200 {
		t.Errorf("only %d requests", asked.Load())
	}
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > goroutines && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines, %d before", n, goroutines)
	}
	grown := resident(t) - memory
	t.Logf("%d requests, %d failed, %d KiB more after 200 reloads", asked.Load(), failed.Load(), grown>>10)
	if grown > 24<<20 { // a module that stayed would show as 200 x 200 KB
		t.Errorf("the process has grown by %d KiB", grown>>10)
	}
}

// One call begins before the reload and ends after it.
func TestReloadLetsCallsEnd(t *testing.T) {
	w, entered, release := held()
	m := newModuleFile(t, askFirst().wasm(), Options{World: w, LookupDeadline: time.Minute})
	l := m.live(slog.New(slog.DiscardHandler))
	var first sync.WaitGroup
	first.Go(func() {
		if d, err := l.Resolve(t.Context(), get("x", "/")); err != nil || d.Tenant != "acme" {
			t.Error(d, err)
		}
	})
	<-entered
	m.write(decides("tenant: globex\n").wasm())
	if err := l.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := tenantOf(t, l); got != "globex" {
		t.Error(got)
	}
	close(release)
	first.Wait()
}

func TestBrokenModuleIsRefusedAndTheOldOneStays(t *testing.T) {
	log := &testLog{}
	m := newModuleFile(t, decides("tenant: acme\n").wasm(), Options{})
	l := m.live(log.logger())
	for _, c := range []struct {
		wasm []byte
		word string
	}{
		{[]byte("(module)"), "wat2wasm"}, {guestModule{body: ins(opUnreachable)}.wasm(), "probe"}, {nil, "not a WebAssembly module"},
	} {
		m.write(c.wasm)
		err := l.Reload(t.Context())
		wantError(t, err, c.word, m.path)
		if !errors.Is(errors.Invalid, err) {
			t.Errorf("kind %v", errors.KindOf(err))
		}
		if got := tenantOf(t, l); got != "acme" {
			t.Errorf("after %s: %s", c.word, got)
		}
	}
	if got := log.String(); strings.Count(got, "the one before goes on") != 3 {
		t.Errorf("log:\n%s", got)
	}
}

func TestChangedFileIsLoaded(t *testing.T) {
	log := &testLog{}
	m := newModuleFile(t, decides("tenant: acme\n").wasm(), Options{})
	l := m.live(log.logger())
	l.Watch(5 * time.Millisecond)
	wait := func(what string, is func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s does not come; log:\n%s", what, log)
			}
		}
	}
	refused := func(n int) func() bool {
		return func() bool { return strings.Count(log.String(), "the one before goes on") == n }
	}
	m.write(decides("tenant: globex\n").wasm())
	wait("the successor", func() bool { return tenantOf(t, l) == "globex" })
	m.write([]byte("half of a mod"))
	wait("the refusal", refused(1))
	if err := os.Remove(m.path); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	if got := tenantOf(t, l); got != "globex" || !refused(1)() {
		t.Errorf("%s; log:\n%s", got, log)
	}
	m.write(decides("tenant: initech\n").wasm())
	wait("the next successor", func() bool { return tenantOf(t, l) == "initech" })
}

func TestClosedLive(t *testing.T) {
	m := newModuleFile(t, decides("tenant: acme\n").wasm(), Options{})
	l := m.live(slog.New(slog.DiscardHandler))
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Resolve(t.Context(), get("x", "/")); !errors.Is(errors.Unavailable, err) {
		t.Errorf("Resolve: %v", err)
	}
	if err := l.Reload(t.Context()); !errors.Is(errors.Unavailable, err) {
		t.Errorf("Reload: %v", err)
	}
}
