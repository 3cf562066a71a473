package instance

import (
	"context"
	stderrors "errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"atc/fs/errors"
	"atc/sandbox"
)

func TestFirstRequestsStartOneInstance(t *testing.T) {
	h := newHouse(t, nil)
	tenants := []string{h.tenant("acme"), h.tenant("globex"), h.tenant("initech")}
	seen := sync.Map{} // tenant → instance
	var all sync.WaitGroup
	for n := range 60 {
		all.Add(1)
		go func() {
			defer all.Done()
			tenant := tenants[n%len(tenants)]
			l, err := h.Acquire(h.context(), tenant)
			if err != nil {
				t.Error(err)
				return
			}
			defer l.Release()
			if first, loaded := seen.LoadOrStore(tenant, l.Instance()); loaded && first != l.Instance() {
				t.Errorf("%s has instances %v and %v", tenant, first, l.Instance())
			}
			if got, err := get(l, "/"); err != nil || got != tenant+" <nil>" {
				t.Errorf("%s answered %q, %v", tenant, got, err)
			}
		}()
	}
	all.Wait()
	if n := h.opened.Load(); n != 3 {
		t.Errorf("%d starts for 3 tenants", n)
	}
	for _, tenant := range tenants {
		if s := h.status(tenant); s == nil || s.State != Idle || s.Pid == 0 || s.InFlight != 0 || s.Waiting != 0 {
			t.Errorf("status %+v", s)
		}
	}
}

func TestTenantsDoNotWaitForEachOther(t *testing.T) {
	hold := make(chan struct{})
	h := newHouse(t, func(h *house, c *Config) {
		c.Open = func(ctx context.Context, tenant string) (sandbox.Spec, func(), error) {
			if tenant == "slow" {
				<-hold
			}
			return h.openTenant(ctx, tenant)
		}
	})
	h.tenant("slow")
	result := make(chan error, 1)
	go func() {
		l, err := h.Acquire(h.context(), "slow")
		if err == nil {
			l.Release()
		}
		result <- err
	}()
	h.eventually("slow", Starting)
	h.acquire(h.tenant("fast")).Release()
	if s := h.status("slow"); s.State != Starting || s.Waiting != 1 {
		t.Errorf("slow is %+v", s)
	}
	close(hold)
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestOneWhoGivesUpDoesNotEndTheStart(t *testing.T) {
	h := newHouse(t, nil)
	h.file("acme", "tenant")
	ctx, cancel := context.WithCancel(context.Background())
	gaveUp, stayed := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := h.Acquire(ctx, "acme")
		gaveUp <- err
	}()
	h.eventually("acme", Starting)
	go func() {
		l, err := h.Acquire(h.context(), "acme")
		if err == nil {
			l.Release()
		}
		stayed <- err
	}()
	eventually(t, "two wait", func() bool { return h.status("acme").Waiting == 2 })
	cancel()
	if err := <-gaveUp; !errors.Is(errors.Canceled, err) {
		t.Errorf("the one who gave up: %v", err)
	}
	h.file("acme", "listen")
	if err := <-stayed; err != nil {
		t.Errorf("the one who stayed: %v", err)
	}
	if n := h.opened.Load(); n != 1 {
		t.Errorf("%d starts", n)
	}
}

func TestQueueIsBounded(t *testing.T) {
	h := newHouse(t, func(_ *house, c *Config) { c.MaxWaiting = 2 })
	h.file("acme", "tenant")
	results := make(chan error, 2)
	for range 2 {
		go func() {
			l, err := h.Acquire(h.context(), "acme")
			if err == nil {
				l.Release()
			}
			results <- err
		}()
	}
	eventually(t, "two wait", func() bool { s := h.status("acme"); return s != nil && s.Waiting == 2 })
	_, err := h.Acquire(h.context(), "acme")
	var unready *Unready
	if !errors.Is(errors.Unavailable, err) || !stderrors.As(err, &unready) || unready.After <= 0 {
		t.Errorf("the third: %v", err)
	}
	h.file("acme", "listen")
	for range 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func TestIdleInstanceStops(t *testing.T) {
	h := newHouse(t, func(_ *house, c *Config) { c.IdleTimeout = 60 * time.Millisecond })
	first := h.acquire(h.tenant("acme"))
	second := h.acquire("acme")
	first.Release()
	first.Release() // twice is once
	select {
	case <-second.Done():
		t.Fatal("it stopped although it was in use")
	case <-time.After(300 * time.Millisecond): // five times the idle time
	}
	second.Release()
	released := time.Now()
	<-second.Done()
	if took := time.Since(released); took < 60*time.Millisecond {
		t.Errorf("it stopped %v after the last use", took)
	}
	eventually(t, "acme is forgotten", func() bool { return h.status("acme") == nil })
	third := h.acquire("acme")
	defer third.Release()
	if third.Instance() == first.Instance() || h.opened.Load() != 2 {
		t.Errorf("instances %s, %s; %d starts", first.Instance(), third.Instance(), h.opened.Load())
	}
	if _, err := get(first, "/"); err == nil || !errors.Is(errors.Unavailable, err) {
		t.Errorf("a lease on what has ended: %v", err)
	}
}

func TestStopAndStartAgain(t *testing.T) {
	h := newHouse(t, func(_ *house, c *Config) { c.StopGrace = 100 * time.Millisecond })
	h.file("acme", "deaf") // it takes the whole grace to stop
	l := h.acquire(h.tenant("acme"))
	defer l.Release()
	stopped := make(chan error, 1)
	go func() { stopped <- h.Stop(h.context(), "acme") }()
	h.eventually("acme", Stopping)
	next := h.acquire("acme") // waits for the end of the first
	defer next.Release()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if next.Instance() == l.Instance() {
		t.Error("a lease on the instance that was stopped")
	}
	if err := h.Stop(h.context(), "nobody"); err != nil {
		t.Error(err)
	}
}

func TestStopWhileStarting(t *testing.T) {
	h := newHouse(t, nil)
	h.file("acme", "tenant")
	result := make(chan error, 1)
	go func() {
		_, err := h.Acquire(h.context(), "acme")
		result <- err
	}()
	eventually(t, "it runs", func() bool { s := h.status("acme"); return s != nil && s.Pid != 0 })
	if err := h.Stop(h.context(), "acme"); err != nil {
		t.Error(err)
	}
	if err := <-result; !errors.Is(errors.Unavailable, err) || !strings.Contains(err.Error(), "stopped") {
		t.Errorf("got %v", err)
	}
	if s := h.status("acme"); s != nil {
		t.Errorf("after Stop: %+v", s)
	}
}

func TestCloseKillsWhatDoesNotStop(t *testing.T) {
	h := newHouse(t, func(_ *house, c *Config) { c.StopGrace = time.Hour })
	h.file("acme", "deaf")
	l := h.acquire(h.tenant("acme"))
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := h.Close(ctx); !errors.Is(errors.Unavailable, err) {
		t.Errorf("got %v", err)
	}
	<-l.Done()
	if _, err := h.Acquire(h.context(), "acme"); !errors.Is(errors.Unavailable, err) {
		t.Errorf("after Close: %v", err)
	}
}

func TestCrashIsToldAndBacksOff(t *testing.T) {
	h := newHouse(t, nil)
	l := h.acquire(h.tenant("acme"))
	get(l, "/crash")
	<-l.Done()
	l.Release()
	h.eventually("acme", Crashed)
	_, err := h.Acquire(h.context(), "acme")
	var unready *Unready
	if !stderrors.As(err, &unready) || !errors.Is(errors.Unavailable, err) || unready.After != firstBackoff {
		t.Fatalf("in the backoff: %v", err)
	}
	for _, want := range []string{"exit status 3", "out of luck"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	h.advance(firstBackoff)
	l = h.acquire("acme")
	h.advance(healthyTime) // it has been well for so long
	get(l, "/crash")
	l.Release()
	h.eventually("acme", Crashed)
	if s := h.status("acme"); s.Crashes != 1 {
		t.Errorf("%d crashes in a row after a healthy minute", s.Crashes)
	}
	h.advance(firstBackoff)
	l = h.acquire("acme")
	get(l, "/quit")
	<-l.Done()
	l.Release()
	eventually(t, "acme is forgotten", func() bool { return h.status("acme") == nil })
}

func TestNobodyGetsAnInstanceThatHasCrashed(t *testing.T) {
	hold := make(chan struct{}) // closing takes long
	h := newHouse(t, func(h *house, c *Config) {
		c.Open = func(ctx context.Context, tenant string) (sandbox.Spec, func(), error) {
			spec, closed, err := h.openTenant(ctx, tenant)
			return spec, func() { <-hold; closed() }, err
		}
	})
	l := h.acquire(h.tenant("acme"))
	get(l, "/crash")
	l.Release()
	h.eventually("acme", Stopping)
	result := make(chan error, 1)
	go func() {
		_, err := h.Acquire(h.context(), "acme")
		result <- err
	}()
	eventually(t, "the request waits", func() bool { return h.status("acme").Waiting == 1 })
	close(hold)
	var unready *Unready
	if err := <-result; !stderrors.As(err, &unready) {
		t.Errorf("got %v", err)
	}
}

func TestBrokenApplicationBacksOffLonger(t *testing.T) {
	h := newHouse(t, nil)
	h.tenant("acme")
	h.file("acme", "broken")
	for n, backoff := 0, firstBackoff; n < 9; n, backoff = n+1, min(backoff*2, maxBackoff) {
		_, err := h.Acquire(h.context(), "acme")
		if !errors.Is(errors.Unavailable, err) || !strings.Contains(err.Error(), "exit status 7") || !strings.Contains(err.Error(), "the configuration\nis broken") {
			t.Fatalf("start %d: %v", n, err)
		}
		if h.opened.Load() != int64(n+1) {
			t.Fatalf("start %d was not tried", n)
		}
		var unready *Unready
		_, err = h.Acquire(h.context(), "acme")
		if !stderrors.As(err, &unready) || unready.After != backoff {
			t.Fatalf("after start %d: %v, want to wait for %v", n, err, backoff)
		}
		h.advance(backoff)
	}
	h.remove("acme", "broken")
	h.acquire("acme").Release()
}

func TestHealthPath(t *testing.T) {
	h := newHouse(t, func(_ *house, c *Config) { c.HealthPath, c.StartTimeout = "/health", 2*time.Second })
	h.tenant("acme")
	_, err := h.Acquire(h.context(), "acme")
	if !errors.Is(errors.Unavailable, err) || !strings.Contains(err.Error(), "/health answers 503") {
		t.Errorf("unhealthy: %v", err)
	}
	h.file("globex", "healthy")
	h.acquire(h.tenant("globex")).Release()
}

func TestErrorsOfOpenKeepTheirKind(t *testing.T) {
	h := newHouse(t, func(_ *house, c *Config) {
		c.Open = func(context.Context, string) (sandbox.Spec, func(), error) {
			return sandbox.Spec{}, nil, errors.E("open", "acme", errors.Busy, nil)
		}
	})
	for range 2 { // no backoff: what is elsewhere now may be here next
		if _, err := h.Acquire(h.context(), "acme"); !errors.Is(errors.Busy, err) {
			t.Errorf("got %v", err)
		}
	}
	if all := h.Snapshot(); len(all) != 0 {
		t.Errorf("remembered: %+v", all)
	}
}

// A command that does not exist must not look like a tenant that does not.
func TestMissingCommandIsUnavailable(t *testing.T) {
	h := newHouse(t, func(h *house, c *Config) {
		c.Open = func(ctx context.Context, tenant string) (sandbox.Spec, func(), error) {
			spec, closed, err := h.openTenant(ctx, tenant)
			spec.Command = []string{"nosuch"}
			return spec, closed, err
		}
	})
	h.tenant("acme")
	_, err := h.Acquire(h.context(), "acme")
	if !errors.Is(errors.Unavailable, err) || !strings.Contains(err.Error(), "command not found: nosuch") {
		t.Errorf("got %v", err)
	}
	if err := h.Stop(h.context(), "acme"); err != nil || h.status("acme") != nil {
		t.Errorf("Stop does not forget the crash: %v", err)
	}
}

func TestOutputBecomesLogLines(t *testing.T) {
	h := newHouse(t, func(h *house, c *Config) {
		c.Open = func(ctx context.Context, tenant string) (sandbox.Spec, func(), error) {
			spec, closed, err := h.openTenant(ctx, tenant)
			spec.Command = []string{"sh", "-c", `echo to stdout; printf 'no end\377' >&2; exit 1`}
			return spec, closed, err
		}
	})
	h.tenant("acme")
	if _, err := h.Acquire(h.context(), "acme"); err == nil {
		t.Error("a shell does not listen")
	}
	eventually(t, "it has crashed", func() bool { s := h.status("acme"); return s != nil && s.State == Crashed })
	for _, want := range []string{
		`"msg":"to stdout","tenant":"acme","instance":"`, `"stream":"stdout"`,
		`"msg":"no end` + "\uFFFD" + `","tenant":"acme"`, `"stream":"stderr"`,
	} {
		if !strings.Contains(h.log.String(), want) {
			t.Errorf("%s is not in\n%s", want, h.log)
		}
	}
}

func BenchmarkAcquireReady(b *testing.B) {
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	if err := os.WriteFile(dir+"/listen", nil, 0o644); err != nil {
		b.Fatal(err)
	}
	p := New(Config{Open: func(context.Context, string) (sandbox.Spec, func(), error) {
		return sandbox.Spec{Name: "acme", Dir: dir, Command: []string{exe, "application"}}, nil, nil
	}})
	defer p.Close(context.Background())
	for b.Loop() {
		l, err := p.Acquire(context.Background(), "acme")
		if err != nil {
			b.Fatal(err)
		}
		l.Release()
	}
}
