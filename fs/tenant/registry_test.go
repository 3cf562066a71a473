package tenant_test

import (
	"bytes"
	"context"
	"sync"
	"testing"
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

func TestOneOwner(t *testing.T) {
	b, ctx := openBucket(t), t.Context()
	one := tenant.NewRegistry(b, "m1", "s1", time.Now)
	if err := one.Create(ctx, "acme"); err != nil {
		t.Fatal(err)
	}
	if err := one.Create(ctx, "acme"); !errors.Is(errors.Exist, err) {
		t.Errorf("created twice: %v", err)
	}
	// Sixteen machines want it at once: each that gets it has an epoch of its
	// own, and only the last can still write the record.
	held := make([]*tenant.Held, 16)
	var wg sync.WaitGroup
	for i := range held {
		wg.Add(1)
		go func() {
			defer wg.Done()
			r := tenant.NewRegistry(b, "m", string(rune('a'+i)), time.Now)
			h, _, err := r.Acquire(ctx, "acme")
			if err != nil && !errors.Is(errors.Busy, err) {
				t.Error(err)
			}
			held[i] = h
		}()
	}
	wg.Wait()
	epochs, writers := make(map[uint64]bool), 0
	for _, h := range held {
		if h == nil {
			continue
		}
		if epochs[h.Epoch] {
			t.Errorf("epoch %d twice", h.Epoch)
		}
		epochs[h.Epoch] = true
		if err := one.Update(ctx, h, func(*tenant.Record) {}); err == nil {
			writers++
		} else if !errors.Is(errors.Fenced, err) {
			t.Error(err)
		}
	}
	if writers != 1 {
		t.Errorf("%d of them can write the record", writers)
	}
}

// TestLostAnswer loses the answer to each write of a record: its writer is not
// fenced by it.
func TestLostAnswer(t *testing.T) {
	b, ctx := openBucket(t), t.Context()
	r := tenant.NewRegistry(b, "m1", "s1", time.Now)
	if err := r.Create(ctx, "acme"); err != nil {
		t.Fatal(err)
	}
	held, _, err := r.Acquire(ctx, "acme")
	if err != nil {
		t.Fatal(err)
	}
	add := func(next *tenant.Record) {
		next.Databases = map[string]*tenant.Database{"a.db": {Folder: "a.db-1"}}
	}
	b.Inject(faulty.Fault{Op: faulty.Put, Times: 1, After: errors.Unavailable})
	if err := r.Update(ctx, held, add); !errors.Retryable(err) {
		t.Fatalf("a lost answer: %v", err)
	}
	if err := r.Update(ctx, held, add); err != nil {
		t.Errorf("again: %v", err)
	}
	release := func(next *tenant.Record) { next.Owner, next.Released = nil, time.Now() } // other bytes each time
	b.Inject(faulty.Fault{Op: faulty.Put, Times: 1, After: errors.Unavailable})
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
	r := tenant.NewRegistry(b, "m1", "s1", time.Now)
	for _, record := range []string{
		"", "{", `{"tenant":"globex"}`, `[]`,
		`{"tenant":"acme","databases":{"../../etc/passwd":{"folder":"x"}}}`,
		`{"tenant":"acme","databases":{"/abs":{"folder":"x"}}}`,
		`{"tenant":"acme","databases":{"a":{"folder":"../../globex/db/main"}}}`,
		`{"tenant":"acme","databases":{"a":null}}`,
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
