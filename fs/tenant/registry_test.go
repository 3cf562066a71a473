package tenant_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"atc/fs/bucket"
	"atc/fs/bucket/faulty"
	"atc/fs/errors"
	"atc/fs/tenant"
)

func openBucket(t *testing.T) *faulty.Bucket {
	t.Helper()
	b, err := bucket.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return faulty.Wrap(b)
}

// newRegistry returns a registry whose lease is held until the test ends.
func newRegistry(t *testing.T, b bucket.Bucket, machine, session string) (*tenant.Registry, *run) {
	t.Helper()
	l := newRun(t, b, machine, session)
	hold(t, l)
	return tenant.NewRegistry(b, l.Lease, tenant.NewWatcher(b, 0, l.clock.now), time.Now), l
}

// TestOneOwner has sixteen machines want a tenant at once: one gets it, and the
// others learn which.
func TestOneOwner(t *testing.T) {
	b, ctx := openBucket(t), t.Context()
	one := tenant.NewRegistry(b, nil, nil, time.Now)
	if err := one.Create(ctx, "acme"); err != nil {
		t.Fatal(err)
	}
	if err := one.Create(ctx, "acme"); !errors.Is(errors.Exist, err) {
		t.Errorf("created twice: %v", err)
	}
	if _, _, err := one.Acquire(ctx, "acme", nil, nil); !errors.Is(errors.Invalid, err) {
		t.Errorf("acquired without a lease: %v", err)
	}
	var wg sync.WaitGroup
	var won atomic.Int32
	for i := range 16 {
		r, _ := newRegistry(t, b, fmt.Sprintf("m%d", i), "s")
		wg.Go(func() {
			_, before, err := r.Acquire(ctx, "acme", nil, nil)
			switch {
			case err == nil && before.Owner == nil:
				won.Add(1)
			case !errors.Is(errors.Busy, err) || !strings.Contains(err.Error(), "epoch 2") || !strings.Contains(err.Error(), "heartbeat that is 0s old"):
				t.Errorf("%v, owner before: %v", err, before.Owner)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of them have it", won.Load())
	}
}

// TestTakeOver takes a tenant from a machine that is paused, which comes back.
func TestTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, ctx := openBucket(t), t.Context()
		one, first := newRegistry(t, b, "m1", "s1")
		two, _ := newRegistry(t, b, "m2", "s2")
		if err := one.Create(ctx, "acme"); err != nil {
			t.Fatal(err)
		}
		held, _, err := one.Acquire(ctx, "acme", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		paused := b.Inject(faulty.Fault{Op: faulty.Put, Key: "machines/m1.json", Block: true})
		begun := time.Now()
		for {
			taken, before, err := two.Acquire(ctx, "acme", nil, nil)
			if err == nil {
				if taken.Epoch != held.Epoch+1 || before.Owner.Machine != "m1" || taken.Owner.Session != "s2" {
					t.Errorf("taken as %+v, before %+v", taken.Record, before)
				}
				break
			}
			if !errors.Is(errors.Busy, err) {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if took := time.Since(begun); took < tenant.DefaultLease-tenant.DefaultHeartbeat || took > tenant.DefaultLease+2*time.Second {
			t.Errorf("taken over after %s", took)
		}
		if err := one.Check(held); !errors.Retryable(err) {
			t.Errorf("the paused one: %v", err)
		}
		if err := one.Update(ctx, held, func(*tenant.Record) {}); !errors.Retryable(err) {
			t.Errorf("it writes the record: %v", err)
		}
		paused.Remove()
		time.Sleep(tenant.DefaultHeartbeat)
		first.told(t, 1, 1)
		if err := one.Check(held); !errors.Retryable(err) {
			t.Errorf("it serves again unasked: %v", err)
		}
		if err := one.Mine(ctx, held); !errors.Is(errors.Fenced, err) {
			t.Errorf("it asks whether the tenant is its own: %v", err)
		}
		// It may have it again once the other lets go.
		if _, _, err := one.Acquire(ctx, "acme", nil, nil); !errors.Is(errors.Busy, err) {
			t.Errorf("it takes it back: %v", err)
		}
	})
}

// TestResume has a machine lapse and come back before anybody wrote the record,
// while somebody who found it dead is about to.
func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, ctx := openBucket(t), t.Context()
		one, first := newRegistry(t, b, "m1", "s1")
		two, _ := newRegistry(t, b, "m2", "s2")
		if err := one.Create(ctx, "acme"); err != nil {
			t.Fatal(err)
		}
		held, _, err := one.Acquire(ctx, "acme", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := one.Check(held); err != nil {
			t.Fatal(err)
		}
		paused := b.Inject(faulty.Fault{Op: faulty.Put, Key: "machines/m1.json", Block: true})
		two.Acquire(ctx, "acme", nil, nil) // begins to watch
		time.Sleep(tenant.DefaultLease + time.Second)
		late := b.Inject(faulty.Fault{Op: faulty.Put, Key: "tenants/acme/tenant.json", Times: 1, Block: true})
		got := make(chan error)
		go func() {
			_, _, err := two.Acquire(ctx, "acme", nil, nil)
			got <- err
		}()
		<-late.Reached()
		paused.Remove()
		time.Sleep(tenant.DefaultHeartbeat)
		first.told(t, 1, 1)
		if err := one.Mine(ctx, held); err != nil {
			t.Fatal(err)
		}
		late.Release()
		if err := <-got; !errors.Is(errors.Busy, err) {
			t.Errorf("a take-over that was decided before: %v", err)
		}
		if err := one.Check(held); err != nil {
			t.Error(err)
		}
		if err := one.Update(ctx, held, func(r *tenant.Record) { r.Owner = nil }); err != nil {
			t.Error(err)
		}
	})
}

// TestRestart starts a machine again after a kill: it need not wait.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, ctx := openBucket(t), t.Context()
		one, first := newRegistry(t, b, "m1", "s1")
		if err := one.Create(ctx, "acme"); err != nil {
			t.Fatal(err)
		}
		if _, _, err := one.Acquire(ctx, "acme", nil, nil); err != nil {
			t.Fatal(err)
		}
		first.Close(ctx, false)
		time.Sleep(time.Second)
		two, _ := newRegistry(t, b, "m1", "s2")
		if _, before, err := two.Acquire(ctx, "acme", nil, nil); err != nil || before.Owner.Session != "s1" {
			t.Errorf("%v, before %+v", err, before)
		}
	})
}

// TestAcquireLoaded takes a tenant by a record that was read already, fresh or
// not.
func TestAcquireLoaded(t *testing.T) {
	b, ctx := openBucket(t), t.Context()
	var asked bucket.Counters
	r, _ := newRegistry(t, bucket.Count(b, &asked), "m1", "s1")
	if err := r.Create(ctx, "acme"); err != nil {
		t.Fatal(err)
	}
	loaded, err := r.Load(ctx, "acme")
	if err != nil {
		t.Fatal(err)
	}
	before := asked.Snapshot()
	held, _, err := r.Acquire(ctx, "acme", loaded, nil)
	if n := asked.Snapshot().Sub(before); err != nil || n.Get != 0 || n.Put != 1 {
		t.Errorf("%v, %+v", err, n)
	}
	if loaded.Owner != nil {
		t.Error("it changed what was loaded")
	}
	again, was, err := r.Acquire(ctx, "acme", loaded, nil) // stale by now, and ours
	if err != nil || again.Epoch != held.Epoch+1 || was.Epoch != held.Epoch || was.Owner.Session != "s1" {
		t.Errorf("with a stale record: %v, before %+v", err, was)
	}
}

// TestRecordTooLarge must not write what could not be read again.
func TestRecordTooLarge(t *testing.T) {
	b, ctx := openBucket(t), t.Context()
	r, _ := newRegistry(t, b, "m1", "s1")
	if err := r.Create(ctx, "acme"); err != nil {
		t.Fatal(err)
	}
	held, _, err := r.Acquire(ctx, "acme", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = r.Update(ctx, held, func(next *tenant.Record) {
		for i := range 5000 {
			next.Databases[fmt.Sprintf("%04d-%s", i, strings.Repeat("x/", 2000))+"x"] = &tenant.Database{Folder: "x"}
		}
	})
	if !errors.Is(errors.NoSpace, err) || !strings.Contains(err.Error(), "5000 databases") {
		t.Errorf("a record of 20 MB: %v", err)
	}
	if err := r.Update(ctx, held, func(next *tenant.Record) {
		next.Databases["a.db"] = &tenant.Database{Folder: "a", TXID: 7, Head: 4711}
	}); err != nil {
		t.Error(err)
	}
	if h, err := r.Load(ctx, "acme"); err != nil || len(h.Databases) != 1 || h.Databases["a.db"].Head != 4711 {
		t.Errorf("%+v, %v", h, err)
	}
}

// TestLostAnswer loses the answer to each write of a record: its writer is not
// fenced by it.
func TestLostAnswer(t *testing.T) {
	b, ctx := openBucket(t), t.Context()
	r, _ := newRegistry(t, b, "m1", "s1")
	if err := r.Create(ctx, "acme"); err != nil {
		t.Fatal(err)
	}
	held, _, err := r.Acquire(ctx, "acme", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	add := func(next *tenant.Record) {
		next.Databases = map[string]*tenant.Database{"a.db": {Folder: "a.db-1"}}
	}
	b.Inject(faulty.Fault{Op: faulty.Put, Key: "tenants/*", Times: 1, After: errors.Unavailable})
	if err := r.Update(ctx, held, add); !errors.Retryable(err) {
		t.Fatalf("a lost answer: %v", err)
	}
	if err := r.Update(ctx, held, add); err != nil {
		t.Errorf("again: %v", err)
	}
	release := func(next *tenant.Record) { next.Owner, next.Released = nil, time.Now() } // other bytes each time
	b.Inject(faulty.Fault{Op: faulty.Put, Key: "tenants/*", Times: 1, After: errors.Unavailable})
	if err := r.Update(ctx, held, release); !errors.Retryable(err) {
		t.Fatalf("a lost answer: %v", err)
	}
	if err := r.Update(ctx, held, release); err != nil {
		t.Errorf("released again: %v", err)
	}
	if h, err := r.Load(ctx, "acme"); err != nil || h.Databases["a.db"] == nil {
		t.Errorf("the record is %+v, %v", h, err)
	}
}

// TestHostileRecords puts what nobody but an attacker writes.
func TestHostileRecords(t *testing.T) {
	b, ctx := openBucket(t), t.Context()
	r := tenant.NewRegistry(b, nil, nil, time.Now)
	for _, record := range []string{
		"", "{", `{"tenant":"globex"}`, `[]`,
		`{"tenant":"acme","databases":{"../../etc/passwd":{"folder":"x"}}}`,
		`{"tenant":"acme","databases":{"/abs":{"folder":"x"}}}`,
		`{"tenant":"acme","databases":{"a":{"folder":"../../globex/db/main"}}}`,
		`{"tenant":"acme","databases":{"a":null}}`,
		`{"tenant":"acme","databases":{"a":{"folder":"x","head":-1}}}`,
		`{"tenant":"acme","removed":[{"path":"a\u000000","folder":"x"}]}`,
		`{"tenant":"acme","removed":[{"path":"a","folder":"../../globex"}]}`,
		`{"tenant":"acme","epoch":18446744073709551615}`,
		`{"tenant":"acme","databases":{"a\u0000b":{"folder":"x"}}}`,
	} {
		put(ctx, t, b, "tenants/acme/tenant.json", record)
		if _, err := r.Load(ctx, "acme"); !errors.Is(errors.Corrupt, err) {
			t.Errorf("record %s: %v", record, err)
		}
	}
	files := tenant.NewFiles(b, "acme")
	for _, index := range []string{
		"{", `{"entries":[{"path":"../x","kind":"file"}]}`, `{"entries":[{"path":"/x","kind":"file"}]}`,
		`{"entries":[{"path":"x","kind":"file","content":"../../globex/files/1"}]}`,
	} {
		put(ctx, t, b, "tenants/acme/files/index.json", index)
		if _, err := files.Load(ctx); !errors.Is(errors.Corrupt, err) {
			t.Errorf("file index %s: %v", index, err)
		}
	}
}

func put(ctx context.Context, t *testing.T, b bucket.Bucket, key, body string) {
	t.Helper()
	if _, err := b.Put(ctx, key, bytes.NewReader([]byte(body)), bucket.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestFileIndexFences has an owner before write its file index after the next
// one did.
func TestFileIndexFences(t *testing.T) {
	b, ctx := openBucket(t), t.Context()
	old, next := tenant.NewFiles(b, "acme"), tenant.NewFiles(b, "acme")
	x, err := old.Load(ctx)
	if err != nil {
		t.Fatal(err)
	}
	x = x.Next(1)
	if err := old.Save(ctx, x); err != nil {
		t.Fatal(err)
	}
	y, err := next.Load(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Save(ctx, y.Next(2)); err != nil {
		t.Fatal(err)
	}
	late := x.Next(1)
	late.Entries = append(late.Entries, tenant.FileEntry{Path: "late", Kind: tenant.Regular})
	if err := old.Save(ctx, late); !errors.Is(errors.Fenced, err) {
		t.Errorf("the owner before: %v", err)
	}
}
