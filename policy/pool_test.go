package policy

import (
	"context"
	stderrors "errors"
	"strings"
	"sync"
	"testing"
	"time"

	"atc/fs/errors"
)

// Which instance serves a call, when it is given up, and what happens around
// the end of a resolver.

// counter is a guest that counts its calls in its memory and shows the count
// as its tenant: a, b, c... A POST makes it trap after counting.
func counter(pages uint32) guestModule {
	const text = "tenant: `\n" // '`' stands before 'a'
	at := int64(len(text) - 2)
	return guestModule{
		pages: pages, data: text,
		body: ins(
			num(at), num(at), []byte{opLoad8, 0, 0}, num(1), opI32Add, []byte{opStore8, 0, 0},
			num(4096), num(4096), invoke(fnRequest), opDrop,
			num(4096+8), []byte{opLoad8, 0, 0}, num('P'), opI32Eq, opIf, blockVoid, opUnreachable, opEnd,
			num(0), num(int64(len(text))), invoke(fnDecide), num(0)),
	}
}

func tenants(t *testing.T, r *Resolver, methods string) string {
	t.Helper()
	var got strings.Builder
	for _, m := range methods {
		req := get("x", "/")
		if m == 'P' {
			req.Method = "POST"
		}
		d, err := r.Resolve(t.Context(), req)
		if err != nil {
			d.Tenant = "!"
		}
		got.WriteString(d.Tenant)
	}
	return got.String()
}

func TestSmallGuestIsFreshEachTime(t *testing.T) {
	r := mustLoad(t, counter(freshPages).wasm(), Options{})
	if got := tenants(t, r, "GGPG"); got != "aa!a" {
		t.Errorf("tenants %q", got)
	}
}

func TestLargeGuestIsUsedAgainButNotAfterAnError(t *testing.T) {
	r := mustLoad(t, counter(freshPages+1).wasm(), Options{})
	// The probe was the first call of the first instance.
	if got := tenants(t, r, "GGGPGG"); got != "bcd!ab" {
		t.Errorf("tenants %q", got)
	}
}

func TestGrownInstanceIsRetiredInTime(t *testing.T) {
	// Each call grows the memory by 16 pages of 64 KiB and refuses when it
	// cannot: without retirement the 30th or so would.
	g := guestModule{
		pages: freshPages + 1, data: "status: 404\n",
		body: ins(num(16), []byte{opMemoryGrow, 0}, num(-1), opI32Eq, opIf, blockVoid, num(9), 0x0f, opEnd,
			num(0), num(12), invoke(fnDecide), num(0)),
	}
	r := mustLoad(t, g.wasm(), Options{})
	for i := range 100 {
		if _, err := r.Resolve(t.Context(), get("x", "/")); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
	}
}

func TestLoopingGuestDoesNotHoldUpOthers(t *testing.T) {
	loop := onProbe(ins(opLoop, blockVoid, opBr, 0, opEnd))
	r := mustLoad(t, loop.wasm(), Options{Deadline: time.Second})
	var stuck sync.WaitGroup
	stuck.Go(func() {
		_, err := r.Resolve(t.Context(), post())
		wantError(t, err, "no decision within 1s, twice")
	})
	done := make(chan struct{})
	go func() { stuck.Wait(); close(done) }()
	calls := 0
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
			if _, err := r.Resolve(t.Context(), get("x", "/")); err != nil {
				t.Fatal(err)
			}
			calls++
		}
	}
	if calls < 100 {
		t.Errorf("only %d calls went through while one guest looped", calls)
	}
}

// Once, a guest that was late gets a second chance, on a fresh instance: it
// loops while a byte of its memory says so, and the byte is set by the probe.
func TestLateCallIsRetriedOnAFreshInstance(t *testing.T) {
	g := guestModule{
		pages: freshPages + 1, data: "status: 404\n",
		body: ins(
			num(100), []byte{opLoad8, 0, 0}, opIf, blockVoid, opLoop, blockVoid, opBr, 0, opEnd, opEnd,
			num(100), num(1), []byte{opStore8, 0, 0},
			num(0), num(12), invoke(fnDecide), num(0)),
	}
	r := mustLoad(t, g.wasm(), Options{Deadline: late})
	for range 3 {
		if _, err := r.Resolve(t.Context(), get("x", "/")); err != nil {
			t.Fatal(err)
		}
	}
}

// askFirst is a guest that asks for the tenant acme and decides it.
func askFirst() guestModule {
	const text = "tenant: acme\n"
	return guestModule{data: text, body: ins(
		num(8), num(4), num(1000), num(1000), invoke(fnTenant), opDrop,
		num(0), num(int64(len(text))), invoke(fnDecide), num(0))}
}

func TestLookupsAreNotCountedAsTheGuestsTime(t *testing.T) {
	w := &town{lookup: func(ctx context.Context, _ string) error {
		select { // far longer than the guest's own deadline
		case <-time.After(2 * late):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	r := mustLoad(t, askFirst().wasm(), Options{World: w, Deadline: late})
	if _, err := r.Resolve(t.Context(), get("x", "/")); err != nil {
		t.Error(err)
	}
	if n := len(w.questions()); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestSlowLookupEnds(t *testing.T) {
	ended := make(chan error, 1)
	w := &town{lookup: func(ctx context.Context, _ string) error {
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}}
	r := mustLoad(t, askFirst().wasm(), Options{World: w, LookupDeadline: 10 * time.Millisecond})
	if _, err := r.Resolve(t.Context(), get("x", "/")); err != nil { // this guest decides all the same
		t.Error(err)
	}
	if err := <-ended; !stderrors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the lookup ended with %v", err)
	}
}

// held is a world whose lookups wait until the test lets them go.
func held() (w *town, entered chan struct{}, release chan struct{}) {
	entered, release = make(chan struct{}, 100), make(chan struct{})
	return &town{lookup: func(ctx context.Context, _ string) error {
		entered <- struct{}{}
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}, entered, release
}

func TestWaitForAnInstanceIsBoundByTheContext(t *testing.T) {
	w, entered, release := held()
	r := mustLoad(t, askFirst().wasm(), Options{World: w, Instances: 1, LookupDeadline: time.Minute})
	var first sync.WaitGroup
	for range waitingLookups + 1 { // one more than may wait without a place
		first.Go(func() {
			if _, err := r.Resolve(t.Context(), get("x", "/")); err != nil {
				t.Error(err)
			}
		})
		<-entered
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := r.Resolve(short, get("x", "/"))
	wantError(t, err, "wait for an instance")
	if !errors.Is(errors.Unavailable, err) {
		t.Errorf("kind %v", errors.KindOf(err))
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = r.Resolve(gone, get("x", "/")); !errors.Is(errors.Canceled, err) {
		t.Errorf("%v has kind %v", err, errors.KindOf(err))
	}
	close(release)
	first.Wait()
}

func TestClientThatLeavesEndsItsLookup(t *testing.T) {
	w, entered, _ := held()
	r := mustLoad(t, askFirst().wasm(), Options{World: w, LookupDeadline: time.Minute})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	if _, err := r.Resolve(ctx, get("x", "/")); err != nil {
		t.Error(err)
	}
}

func TestCloseWaitsForCallsInFlight(t *testing.T) {
	w, entered, release := held()
	r, err := Load(t.Context(), askFirst().wasm(), Options{World: w, LookupDeadline: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	var calls sync.WaitGroup
	calls.Go(func() {
		if _, err := r.Resolve(t.Context(), get("x", "/")); err != nil {
			t.Error(err)
		}
	})
	<-entered
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := r.Close(short); !stderrors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Close did not wait: %v", err)
	}
	_, err = r.Resolve(t.Context(), get("x", "/"))
	wantError(t, err, "closed")
	if !errors.Is(errors.Unavailable, err) {
		t.Errorf("kind %v", errors.KindOf(err))
	}
	close(release)
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	calls.Wait()
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// Calls that wait for the World leave their places to others.
func TestSlowLookupsDoNotHoldUpKnownTenants(t *testing.T) {
	w, entered, release := held()
	r := mustLoad(t, askFirst().wasm(), Options{World: &halfKnown{w}, Instances: 1, LookupDeadline: time.Minute})
	var unknown sync.WaitGroup
	for range waitingLookups {
		unknown.Go(func() {
			if _, err := r.Resolve(t.Context(), get("x", "/")); err != nil {
				t.Error(err)
			}
		})
		<-entered
	}
	w.mu.Lock()
	w.tenants = map[string]string{"acme": ""}
	w.mu.Unlock()
	for range 100 {
		if _, err := r.Resolve(t.Context(), get("x", "/")); err != nil {
			t.Fatal(err)
		}
	}
	close(release)
	unknown.Wait()
}

// halfKnown is a town that recalls the tenants it has.
type halfKnown struct{ *town }

func (w *halfKnown) Recall(id string) (string, bool, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	attributes, ok := w.tenants[id]
	return attributes, ok, ok
}
