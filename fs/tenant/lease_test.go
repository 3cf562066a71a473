package tenant_test

import (
	"context"
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"atc/fs/bucket"
	"atc/fs/bucket/faulty"
	"atc/fs/errors"
	"atc/fs/tenant"
)

// The tests of the lease run in a bubble of testing/synctest, whose time stands
// still while anything runs. What is measured there is exact.

// clock is CLOCK_BOOTTIME of one machine: time goes on, and jumps at a suspend.
type clock struct {
	start time.Time
	jumps atomic.Int64
}

func newClock() *clock { return &clock{start: time.Now()} }

func (c *clock) now() time.Duration {
	return time.Hour + time.Since(c.start) + time.Duration(c.jumps.Load())
}

func (c *clock) suspend(d time.Duration) { c.jumps.Add(int64(d)) }

// run is one run of atc, as far as its lease is concerned.
type run struct {
	*tenant.Lease
	clock           *clock
	lapsed, renewed atomic.Int32
}

func newRun(t *testing.T, b bucket.Bucket, machine, session string) *run {
	r := &run{clock: newClock()}
	r.Lease = tenant.NewLease(b, tenant.LeaseOptions{
		Machine: machine, Session: session, Address: machine + ":80", Region: "ams",
		Boottime: r.clock.now,
		Lapsed:   func() { r.lapsed.Add(1) },
		Renewed:  func() { r.renewed.Add(1) },
	})
	t.Cleanup(func() { r.Close(context.Background(), false) })
	return r
}

func hold(t *testing.T, l *run) (release func()) {
	t.Helper()
	release, err := l.Hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return release
}

// told checks how often a run heard of lapses and renewals.
func (r *run) told(t *testing.T, lapsed, renewed int32) {
	t.Helper()
	synctest.Wait()
	if l, n := r.lapsed.Load(), r.renewed.Load(); l != lapsed || n != renewed {
		t.Errorf("lapsed %d and renewed %d times, want %d and %d", l, n, lapsed, renewed)
	}
}

func object(t *testing.T, b bucket.Bucket, key string) string {
	t.Helper()
	body, _, err := b.Get(t.Context(), key)
	if errors.Is(errors.NotExist, err) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestLeaseCostsNothingWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked bucket.Counters
		l := newRun(t, bucket.Count(openBucket(t), &asked), "m1", "s1")
		before := runtime.NumGoroutine()
		time.Sleep(time.Hour)
		if n := asked.Snapshot().Requests(); n != 0 || l.Valid() {
			t.Fatalf("%d requests before anybody wanted it, valid: %v", n, l.Valid())
		}
		release := hold(t, l)
		if n := asked.Snapshot().Requests(); n != 1 {
			t.Errorf("%d requests for the first lease on a machine that was left cleanly", n)
		}
		time.Sleep(10 * time.Minute)
		if n := asked.Snapshot().Put; n < 119 || n > 122 || !l.Valid() {
			t.Errorf("%d heartbeats in 10 minutes, valid: %v", n, l.Valid())
		}
		release()
		release()
		time.Sleep(tenant.DefaultLease - time.Second)
		if !l.Valid() {
			t.Error("it ends with its last holder, not one lease later")
		}
		time.Sleep(tenant.DefaultHeartbeat)
		n := asked.Snapshot().Requests()
		time.Sleep(time.Hour)
		if more := asked.Snapshot().Requests() - n; more != 0 {
			t.Errorf("%d requests in an idle hour", more)
		}
		synctest.Wait()
		now := runtime.NumGoroutine()
		for range 100_000 { // the runtime's own, that runs finalizers, counts while it does
			if now <= before {
				break
			}
			runtime.Gosched()
			now = runtime.NumGoroutine()
		}
		if now > before {
			t.Errorf("%d goroutines, %d before", now, before)
		}
		l.told(t, 0, 0) // nobody held it when it ended
		hold(t, l)()
	})
}

func TestLapse(t *testing.T) {
	for _, c := range []struct {
		name   string
		fault  faulty.Fault
		lapses bool
	}{
		{"requests hang", faulty.Fault{Op: faulty.Put, Block: true}, true},
		{"requests fail", faulty.Fault{Op: faulty.Put, Before: errors.Unavailable}, true},
		{"credentials are refused", faulty.Fault{Op: faulty.Put, Before: errors.Permission}, true},
		{"every answer is lost", faulty.Fault{Op: faulty.Put, After: errors.Unavailable}, true},
		{"an answer is lost", faulty.Fault{Op: faulty.Put, Times: 1, After: errors.Unavailable}, false},
		{"two answers are lost", faulty.Fault{Op: faulty.Put, Times: 2, After: errors.Unavailable}, false},
		{"a retry meets its own object", faulty.Fault{Op: faulty.Put, Times: 1, After: errors.Condition}, false},
		{"two hang", faulty.Fault{Op: faulty.Put, Times: 2, Block: true}, false},
		{"two fail", faulty.Fault{Op: faulty.Put, Times: 2, Before: errors.Unavailable}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := openBucket(t)
				l := newRun(t, b, "m1", "s1")
				leased := tenant.Leased(b, l.Lease)
				hold(t, l)
				begun := l.clock.now() // the first renewal began at the same instant
				fault := b.Inject(c.fault)
				time.Sleep(tenant.DefaultLease - time.Nanosecond)
				if !l.Valid() {
					t.Fatal("it lapsed before its time")
				}
				l.told(t, 0, 0)
				time.Sleep(time.Nanosecond)
				if c.lapses {
					l.told(t, 1, 0) // without anybody asking
				}
				if l.clock.now()-begun != tenant.DefaultLease {
					t.Fatal("the clock of this test")
				}
				if l.Valid() == c.lapses {
					t.Fatalf("after a lease: %v", l.Check())
				}
				if !c.lapses {
					time.Sleep(time.Minute)
					l.told(t, 0, 0)
					return
				}
				l.told(t, 1, 0)
				if err := l.Check(); !errors.Retryable(err) {
					t.Errorf("lapsed: %v", err)
				}
				puts := fault.Hits()
				for op, err := range map[string]error{
					"put":    putErr(t.Context(), leased, "tenants/a"),
					"copy":   leased.Copy(t.Context(), "tenants/a", "tenants/b"),
					"delete": leased.Delete(t.Context(), "tenants/a"),
				} {
					if !errors.Retryable(err) || !strings.Contains(err.Error(), "lapsed") {
						t.Errorf("%s without a lease: %v", op, err)
					}
				}
				if fault.Hits() != puts {
					t.Error("a write without a lease reached the bucket")
				}
				time.Sleep(time.Minute)
				l.told(t, 1, 0)
				fault.Remove()
				time.Sleep(tenant.DefaultHeartbeat)
				l.told(t, 1, 1)
				if err := l.Check(); err != nil {
					t.Error(err)
				}
				if err := putErr(t.Context(), leased, "tenants/a"); err != nil {
					t.Error(err)
				}
				if l.Term() != 1 {
					t.Errorf("term %d after one lapse", l.Term())
				}
			})
		})
	}
}

func putErr(ctx context.Context, b bucket.Bucket, key string) error {
	_, err := b.Put(ctx, key, strings.NewReader("x"), bucket.PutOptions{})
	return err
}

// A renewal that is confirmed late counts from its start: others saw it then.
func TestLeaseCountsFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBucket(t)
		b.Inject(faulty.Fault{Op: faulty.Put, Times: 1, Latency: 3 * time.Second})
		b.Inject(faulty.Fault{Op: faulty.Put, Before: errors.Unavailable})
		l := newRun(t, b, "m1", "s1")
		begun := l.clock.now()
		hold(t, l)
		if at := l.clock.now() - begun; at != 3*time.Second {
			t.Fatalf("confirmed after %s", at)
		}
		time.Sleep(tenant.DefaultLease - 3*time.Second - time.Nanosecond)
		if !l.Valid() {
			t.Error("it lapsed before its time")
		}
		time.Sleep(time.Nanosecond)
		if l.Valid() {
			t.Error("it is counted from the answer")
		}
	})
}

func TestSuspend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBucket(t)
		l := newRun(t, b, "m1", "s1")
		hold(t, l)
		time.Sleep(time.Second)
		l.clock.suspend(time.Minute)
		if l.Valid() {
			t.Error("valid after a suspend of a minute")
		}
		l.told(t, 1, 1) // a renewal was due, and takes no time here
		// Without anybody asking.
		l.clock.suspend(time.Minute)
		time.Sleep(2 * time.Second)
		l.told(t, 2, 2)
		// A short one is none.
		l.clock.suspend(8 * time.Second)
		time.Sleep(2 * time.Second)
		if err := l.Check(); err != nil {
			t.Error(err)
		}
		l.told(t, 2, 2)
	})
}

// TestTwoSessionsOfOneMachine has a second run start under the same ID: the
// first one loses its lease for good, whatever it held.
func TestTwoSessionsOfOneMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBucket(t)
		one, two := newRun(t, b, "m1", "s1"), newRun(t, b, "m1", "s2")
		release := hold(t, one)
		time.Sleep(12 * time.Second)
		hold(t, two)
		time.Sleep(tenant.DefaultHeartbeat)
		one.told(t, 1, 0)
		if err := one.Check(); !errors.Is(errors.Fenced, err) || !strings.Contains(err.Error(), "s2") {
			t.Errorf("the first run: %v", err)
		}
		if _, err := one.Hold(t.Context()); !errors.Is(errors.Fenced, err) {
			t.Errorf("it holds again: %v", err)
		}
		release()
		if err := one.Close(t.Context(), true); err != nil {
			t.Error(err)
		}
		time.Sleep(5 * time.Minute)
		two.told(t, 0, 0)
		if err := two.Check(); err != nil {
			t.Error(err)
		}
		if !strings.Contains(object(t, b, "machines/m1.json"), `"s2"`) {
			t.Error("the first run removed the heartbeat of the second")
		}
	})
}

// TestHeartbeatOfEarlierRun starts over what may stand in its place.
func TestHeartbeatOfEarlierRun(t *testing.T) {
	for _, there := range []string{"", "{", `{"machine":"m1","session":"s0","sequence":7,"lease":15000}`, `{"machine":"m9","session":"s9"}`, strings.Repeat("x", 1<<20)} {
		synctest.Test(t, func(t *testing.T) {
			b := openBucket(t)
			put(t.Context(), t, b, "machines/m1.json", there)
			time.Sleep(time.Second)
			l := newRun(t, b, "m1", "s1")
			hold(t, l)
			time.Sleep(time.Minute)
			if err := l.Check(); err != nil {
				t.Error(err)
			}
			l.told(t, 0, 0)
		})
	}
}

// TestHeartbeatRemoved deletes the object of a live machine. A run under its ID
// may have come and gone, so what it holds has to be looked at again.
func TestHeartbeatRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBucket(t)
		l := newRun(t, b, "m1", "s1")
		hold(t, l)
		if err := b.Delete(t.Context(), "machines/m1.json"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(tenant.DefaultHeartbeat)
		l.told(t, 1, 1)
		if err := l.Check(); err != nil {
			t.Error(err)
		}
	})
}

func TestCloseLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBucket(t)
		for _, released := range []bool{false, true} {
			l := newRun(t, b, "m1", "s1"+map[bool]string{true: "a", false: "b"}[released])
			hold(t, l)()
			b.Inject(faulty.Fault{Op: faulty.Put, Times: 1, Block: true})
			time.Sleep(tenant.DefaultHeartbeat + time.Second) // a renewal hangs
			if err := l.Close(t.Context(), released); err != nil {
				t.Error(err)
			}
			if there := object(t, b, "machines/m1.json") != ""; there == released {
				t.Errorf("released: %v, the heartbeat is there: %v", released, there)
			}
			if err := l.Close(t.Context(), released); err != nil {
				t.Errorf("again: %v", err)
			}
			if _, err := l.Hold(t.Context()); !errors.Retryable(err) || l.Valid() {
				t.Errorf("held after Close: %v", err)
			}
			l.Want()
			l.told(t, 0, 0)
		}
		var asked bucket.Counters
		unused := newRun(t, bucket.Count(b, &asked), "m2", "s")
		if err := unused.Close(t.Context(), true); err != nil || asked.Snapshot().Requests() != 0 {
			t.Errorf("one that was never used: %v, %d requests", err, asked.Snapshot().Requests())
		}
	})
}

func TestHoldGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBucket(t)
		b.Inject(faulty.Fault{Op: faulty.Put, Before: errors.Unavailable})
		l := newRun(t, b, "m1", "s1")
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if _, err := l.Hold(ctx); !errors.Retryable(err) || !strings.Contains(err.Error(), "injected") {
			t.Errorf("a bucket that does not answer: %v", err)
		}
		if _, err := newRun(t, b, "../m1", "s1").Hold(ctx); !errors.Is(errors.Invalid, err) {
			t.Errorf("an ID that is no key: %v", err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		l.told(t, 0, 0)
	})
}
