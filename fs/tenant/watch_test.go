package tenant_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"atc/fs/bucket"
	"atc/fs/bucket/faulty"
	"atc/fs/errors"
	"atc/fs/tenant"
)

// The verdict on an owner, by what stands at its machine's heartbeat.

var owner1 = tenant.Owner{Machine: "m1", Session: "s1"}

func judge(t *testing.T, w *tenant.Watcher, o tenant.Owner) tenant.Verdict {
	t.Helper()
	v, err := w.Judge(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// deadAfter asks every second until the owner is dead.
func deadAfter(t *testing.T, w *tenant.Watcher, o tenant.Owner, most time.Duration) time.Duration {
	t.Helper()
	for begun := time.Now(); ; time.Sleep(time.Second) {
		if v := judge(t, w, o); v.Dead {
			t.Logf("machine %s %s", o.Machine, v.Why)
			return time.Since(begun)
		}
		if time.Since(begun) > most {
			t.Fatalf("alive after %s: %s", most, judge(t, w, o).Why)
		}
	}
}

func TestVerdicts(t *testing.T) {
	const lease = tenant.DefaultLease
	beat := func(machine, session string, ms any) string {
		return fmt.Sprintf(`{"machine":%q,"session":%q,"sequence":1,"lease":%v,"address":"a\r\nb","region":"ams"}`, machine, session, ms)
	}
	for _, c := range []struct {
		name     string
		body     string // "" is absent
		old      time.Duration
		from, to time.Duration // when it is found dead
	}{
		{"another session", beat("m1", "s2", 15000), 0, 0, 0},
		{"a dead one", beat("m1", "s1", 15000), 0, lease, lease + 2*time.Second},
		{"a dead one that wants less", beat("m1", "s1", 1), 0, lease, lease + 2*time.Second},
		{"a dead one that wants more", beat("m1", "s1", 30000), 0, 2 * lease, 2*lease + 2*time.Second},
		{"dead for long by the store's clock", beat("m1", "s1", 15000), 32 * time.Second, 0, 0},
		{"not for that long", beat("m1", "s1", 15000), 25 * time.Second, time.Second, lease},
		{"absent", "", 0, lease, lease + 2*time.Second},

		{"no JSON", "{", 0, lease, lease + 2*time.Second},
		{"no object", `["m1"]`, 0, lease, lease + 2*time.Second},
		{"empty session", beat("m1", "", 15000), 0, lease, lease + 2*time.Second},
		{"another machine's", beat("m2", "s2", 15000), 0, lease, lease + 2*time.Second},
		{"a lease of centuries", beat("m1", "s1", int64(1)<<62), 0, tenant.MaxLease, tenant.MaxLease + 4*time.Second},
		{"a negative lease", beat("m1", "s1", int64(-1)<<62), 0, lease, lease + 2*time.Second},
		{"a lease that is no number", beat("m1", "s1", `"x"`), 0, lease, lease + 2*time.Second},
		{"a lease that is too large for one", beat("m1", "s1", "1e300"), 0, lease, lease + 2*time.Second},
		{"huge", beat("m1", "s2", 15000) + strings.Repeat(" ", 1<<20), 0, lease, lease + 2*time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := openBucket(t)
				if c.body != "" {
					put(t.Context(), t, b, "machines/m1.json", c.body)
				}
				time.Sleep(c.old)
				w := tenant.NewWatcher(b, 0, newClock().now)
				v := judge(t, w, owner1)
				if v.Dead != (c.to == 0) || strings.ContainsAny(v.Address, "\r\n") {
					t.Fatalf("at first: %+v", v)
				}
				if want := c.old; c.body == "" && v.Age != -1 || c.body != "" && v.Age != want {
					t.Errorf("age %s, want %s", v.Age, want)
				}
				if at := deadAfter(t, w, owner1, c.to); at < c.from {
					t.Errorf("found dead after %s", at)
				}
			})
		})
	}
}

// TestWatchTheLiving watches a machine whose heartbeat goes on, with every
// interval between two looks, and then one that is killed.
func TestWatchTheLiving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBucket(t)
		l := newRun(t, b, "m1", "s1")
		hold(t, l)
		w := tenant.NewWatcher(b, 0, newClock().now)
		for pause := time.Millisecond; pause < 2*time.Minute; pause = pause*4 + 7*time.Millisecond {
			for range 5 {
				if v := judge(t, w, owner1); v.Dead || v.Address != "m1:80" || v.Region != "ams" {
					t.Fatalf("looking every %s: %+v", pause, v)
				}
				time.Sleep(pause)
			}
		}
		if err := l.Close(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if at := deadAfter(t, w, owner1, tenant.DefaultLease+2*time.Second); at < tenant.DefaultLease-tenant.DefaultHeartbeat {
			t.Errorf("found dead after %s", at)
		}
	})
}

// TestWatchIsNotOlderThanTheOwner has somebody look just before a new run starts
// on the machine, or one that was idle goes on: what was seen says nothing of it.
func TestWatchIsNotOlderThanTheOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBucket(t)
		w := tenant.NewWatcher(b, 0, newClock().now)
		first := newRun(t, b, "m1", "s1")
		hold(t, first)()
		time.Sleep(time.Minute)
		deadAfter(t, w, owner1, time.Minute)
		hold(t, first) // goes on
		if v := judge(t, w, owner1); v.Dead {
			t.Errorf("a run that was idle %s", v.Why)
		}
		first.Close(t.Context(), false)
		deadAfter(t, w, owner1, time.Minute)
		second := newRun(t, b, "m1", "s2")
		hold(t, second)
		if v := judge(t, w, tenant.Owner{Machine: "m1", Session: "s2"}); v.Dead {
			t.Errorf("the new run %s", v.Why)
		}
		if v := judge(t, w, owner1); !v.Dead {
			t.Errorf("the run before %s", v.Why)
		}
		// An absence is watched for one session, and without long gaps.
		gone := tenant.Owner{Machine: "m2", Session: "s1"}
		deadAfter(t, w, gone, tenant.DefaultLease+2*time.Second)
		if v := judge(t, w, tenant.Owner{Machine: "m2", Session: "s2"}); v.Dead {
			t.Errorf("another session of it %s", v.Why)
		}
		time.Sleep(time.Second)
		judge(t, w, gone)
		time.Sleep(time.Hour)
		if v := judge(t, w, gone); v.Dead {
			t.Errorf("after an hour without a look it %s", v.Why)
		}
	})
}

func TestLooksAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBucket(t)
		put(t.Context(), t, b, "machines/m1.json", `{"machine":"m1","session":"s1","lease":15000}`)
		var asked bucket.Counters
		w := tenant.NewWatcher(bucket.Count(b, &asked), 0, newClock().now)
		slow := b.Inject(faulty.Fault{Op: faulty.Get, Latency: 100 * time.Millisecond})
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				for range 300 { // for 3 s
					judge(t, w, owner1)
					time.Sleep(10 * time.Millisecond)
				}
			})
		}
		wg.Wait()
		if n := asked.Snapshot().Get; n < 4 || n > 8 {
			t.Errorf("%d requests in 3 s", n)
		}
		slow.Remove()
		time.Sleep(time.Second)
		b.Inject(faulty.Fault{Op: faulty.Get, Before: errors.Unavailable})
		n := asked.Snapshot().Get
		for range 10 {
			if _, err := w.Judge(t.Context(), owner1); !errors.Retryable(err) {
				t.Errorf("a bucket that does not answer: %v", err)
			}
		}
		if n = asked.Snapshot().Get - n; n != 1 {
			t.Errorf("%d requests to a bucket that does not answer", n)
		}
		// A name that is no key is not asked for, and not immortal.
		odd := tenant.Owner{Machine: "../tenants/acme/tenant", Session: "s"}
		n = asked.Snapshot().Get
		deadAfter(t, w, odd, tenant.DefaultLease+2*time.Second)
		if asked.Snapshot().Get != n {
			t.Error("it asked the bucket")
		}
	})
}
