package tenant_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/bucket/faulty"
	"atc/fs/errors"
	"atc/fs/tenant"
)

// manyFiles is an index of n files in folders of a hundred.
func manyFiles(n int) (entries []tenant.FileEntry) {
	at := time.Date(2026, 11, 21, 10, 0, 0, 123456789, time.UTC)
	for i := range n {
		entries = append(entries, tenant.FileEntry{
			Path: fmt.Sprintf("uploads/%03d/%05d.jpg", i/100, i), Kind: tenant.Regular, Mode: 0o644,
			Size: int64(1 + i), Modified: at.Add(time.Duration(i) * time.Second), Content: fmt.Sprintf("CONTENT%019d", i),
		})
	}
	return entries
}

// TestChangeOfOneFile changes one file of ten thousand, again and again: what is
// uploaded for it is a head of a few KiB, a base now and then, and never more than
// one base and the one before stays.
func TestChangeOfOneFile(t *testing.T) {
	const files, changes, headBytes, perChange = 10_000, 200, 12 << 10, 64 << 10
	b, ctx := openBucket(t), t.Context()
	var counters bucket.Counters
	store := tenant.NewFiles(bucket.Count(b, &counters), "acme")
	x := (&tenant.FileIndex{}).Next(1)
	x.Entries = manyFiles(files)
	if err := store.Save(ctx, x); err != nil {
		t.Fatal(err)
	}
	whole := counters.Snapshot().BytesOut
	if whole < files*100 {
		t.Fatalf("an index of %d bytes cannot hold %d files", whole, files)
	}
	r := rand.New(rand.NewPCG(1, 2))
	bases, first := 0, counters.Snapshot()
	for i := range changes {
		next := x.Next(1)
		next.Entries = slices.Clone(x.Entries)
		changed := &next.Entries[r.IntN(files)]
		changed.Content, changed.Size = fmt.Sprintf("CHANGED%019d", i), changed.Size+1
		before := counters.Snapshot()
		if err := store.Save(ctx, next); err != nil {
			t.Fatal(err)
		}
		done := counters.Snapshot().Sub(before)
		if next.Base() != x.Base() {
			bases++
		} else if done.Put != 1 || done.Get != 0 || done.BytesOut > headBytes {
			t.Fatalf("change %d: %+v", i, done)
		}
		x = next
	}
	out := counters.Snapshot().Sub(first).BytesOut
	t.Logf("%d files, %d bytes: %d bytes a change on average, %d new bases in %d changes", files, whole, out/changes, bases, changes)
	if bases == 0 || out > changes*perChange {
		t.Errorf("%d bases, %d bytes a change", bases, out/changes)
	}
	before := counters.Snapshot()
	there, err := tenant.NewFiles(bucket.Count(b, &counters), "acme").LoadWith(ctx, x.Base())
	if err != nil || !slices.Equal(there.Entries, x.Entries) {
		t.Errorf("%d files were loaded, %v", len(there.Entries), err)
	}
	if done := counters.Snapshot().Sub(before); done.Get != 2 {
		t.Errorf("loading took %+v", done)
	}
}

// TestIndexOfBefore reads an index that has everything in one object, whatever
// its size and order, and makes it one with a base at its first change.
func TestIndexOfBefore(t *testing.T) {
	b, ctx := openBucket(t), t.Context()
	var list []string
	for i := 999; i >= 0; i-- {
		list = append(list, fmt.Sprintf(`{"path":"f%03d","kind":"file","mode":420,"size":1,"content":"C%d"}`, i, i))
	}
	put(ctx, t, b, "tenants/acme/files/index.json", `{"epoch":4,"entries":[`+strings.Join(list, ",")+`]}`)
	store := tenant.NewFiles(b, "acme")
	x, err := store.LoadWith(ctx, "base-nonsense")
	if err != nil || len(x.Entries) != 1000 || x.Entries[0].Path != "f000" || x.Epoch != 4 || x.Base() != "" {
		t.Fatalf("%+v %v", x, err)
	}
	next := x.Next(5)
	next.Entries = x.Entries[1:]
	if err := store.Save(ctx, next); err != nil || next.Base() == "" {
		t.Fatalf("base %q, %v", next.Base(), err)
	}
	if there, err := store.Load(ctx); err != nil || len(there.Entries) != 999 || there.Find("f001") == nil || there.Find("f000") != nil {
		t.Errorf("%v", err)
	}
}

// TestBaseReplacedWhileRead has a reader hold a head whose base goes.
func TestBaseReplacedWhileRead(t *testing.T) {
	b, ctx := openBucket(t), t.Context()
	store := tenant.NewFiles(b, "acme")
	x := (&tenant.FileIndex{}).Next(1)
	x.Entries = manyFiles(1000)
	if err := store.Save(ctx, x); err != nil {
		t.Fatal(err)
	}
	old := x.Base()
	reading := b.Inject(faulty.Fault{Op: faulty.Get, Key: "*/" + old, Times: 1, Block: true})
	loaded := make(chan error, 1)
	go func() {
		there, err := tenant.NewFiles(b, "acme").Load(ctx)
		if err == nil && len(there.Entries) != 500 {
			err = fmt.Errorf("%d files", len(there.Entries))
		}
		loaded <- err
	}()
	<-reading.Reached()
	next := x.Next(1)
	next.Entries = x.Entries[:500]
	if err := store.Save(ctx, next); err != nil || next.Base() == old {
		t.Fatalf("%v", err)
	}
	if body, _, err := b.Get(ctx, "tenants/acme/files/"+old); err == nil {
		body.Close()
	} else {
		t.Errorf("the base went at once: %v", err)
	}
	if err := b.Delete(ctx, "tenants/acme/files/"+old); err != nil {
		t.Fatal(err)
	}
	reading.Release()
	if err := <-loaded; err != nil {
		t.Error(err)
	}
	if err := b.Delete(ctx, "tenants/acme/files/"+next.Base()); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Load(ctx); !errors.Is(errors.Corrupt, err) {
		t.Errorf("without its base: %v", err)
	}
}

// TestIndexThroughFaults saves at random through a bucket that loses requests and
// answers, as two owners after each other, and reads back what was acknowledged.
func TestIndexThroughFaults(t *testing.T) {
	for seed := range uint64(6) {
		b, ctx := openBucket(t), t.Context()
		r := rand.New(rand.NewPCG(seed, 0))
		store := tenant.NewFiles(b, "acme")
		x, epoch := &tenant.FileIndex{}, uint64(1)
		for step := range 50 {
			next := x.Next(epoch)
			next.Entries = slices.Clone(x.Entries)
			switch n := r.IntN(4); {
			case n == 0 && len(next.Entries) > 0: // most of them go into the trash
				cut := r.IntN(len(next.Entries))
				next.Trash = slices.Clone(next.Trash)
				for _, e := range next.Entries[cut:] {
					e.Removed = time.Unix(int64(step), 0).UTC()
					next.Trash = append(next.Trash, e)
				}
				next.Entries, next.Since = next.Entries[:cut], time.Unix(int64(step), 0).UTC()
			case n == 1:
				next.Trash, next.Since = nil, time.Time{}
			default:
				for i := range r.IntN(150) {
					next.Entries = append(next.Entries, tenant.FileEntry{
						Path: fmt.Sprintf("%d/%d", r.IntN(4), step*1000+i), Kind: tenant.Regular, Size: 1, Content: fmt.Sprintf("C%d", step*1000+i)})
				}
			}
			fault := b.Inject(faulty.Fault{Op: faulty.Put, Times: 1, Skip: r.IntN(3), Before: errors.Unavailable})
			lost := b.Inject(faulty.Fault{Op: faulty.Put, Times: 1, Skip: r.IntN(3), After: errors.Unavailable})
			err := store.Save(ctx, next)
			fault.Remove()
			lost.Remove()
			if err == nil {
				x = next
			} else if !errors.Is(errors.Unavailable, err) {
				t.Fatalf("seed %d, step %d: %v", seed, step, err)
			}
			if err == nil && r.IntN(10) == 0 {
				epoch++
				store = tenant.NewFiles(b, "acme")
				there, err := store.Load(ctx)
				if err == nil {
					x, err = store.Claim(ctx, there, epoch)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err != nil {
				continue // what is there is either
			}
			there, err := tenant.NewFiles(b, "acme").Load(ctx)
			if err != nil || !slices.Equal(there.Entries, x.Entries) || !slices.Equal(there.Trash, x.Trash) || !there.Since.Equal(x.Since) {
				t.Fatalf("seed %d, step %d: %d and %d instead of %d and %d, %v", seed, step, len(there.Entries), len(there.Trash), len(x.Entries), len(x.Trash), err)
			}
		}
	}
}
