package faulty_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/bucket/buckettest"
	"atc/fs/bucket/faulty"
	"atc/fs/errors"
)

func wrapped(t *testing.T) *faulty.Bucket {
	b, err := bucket.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return faulty.Wrap(b)
}

func put(ctx context.Context, b bucket.Bucket, key, body string) error {
	_, err := b.Put(ctx, key, strings.NewReader(body), bucket.PutOptions{IfNoneMatch: true})
	return err
}

func get(ctx context.Context, b bucket.Bucket, key string) (string, error) {
	r, _, err := b.Get(ctx, key)
	if err != nil {
		return "", err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	return string(data), err
}

func wantKind(t *testing.T, kind errors.Kind, err error) {
	t.Helper()
	if !errors.Is(kind, err) {
		t.Errorf("got %v (%v), want %v", err, errors.KindOf(err), kind)
	}
}

// Without faults the wrapper is not there, and neither is the one that counts.
func TestNoFaults(t *testing.T) {
	buckettest.Run(t, func(t *testing.T) bucket.Bucket {
		f := wrapped(t)
		f.Inject(faulty.Fault{Key: "other/*", Before: errors.Unavailable})
		return bucket.Count(f, new(bucket.Counters))
	})
}

func TestBeforeAndAfter(t *testing.T) {
	f := wrapped(t)
	before := f.Inject(faulty.Fault{Op: faulty.Put, Key: "a", Times: 1, Before: errors.Unavailable})
	after := f.Inject(faulty.Fault{Op: faulty.Put, Key: "b", Times: 1, After: errors.Unavailable})
	for _, c := range []struct {
		key    string
		second errors.Kind // of a retry of the same conditional write
	}{{"a", errors.Other}, {"b", errors.Condition}} {
		wantKind(t, errors.Unavailable, put(t.Context(), f, c.key, "x"))
		if err := put(t.Context(), f, c.key, "x"); errors.KindOf(err) != c.second {
			t.Errorf("%s again: %v", c.key, err)
		}
	}
	if before.Hits() != 1 || after.Hits() != 1 {
		t.Errorf("%d and %d hits", before.Hits(), after.Hits())
	}
	for _, op := range []faulty.Op{faulty.Get, faulty.GetRange, faulty.List, faulty.Copy, faulty.Delete} {
		for _, fault := range []faulty.Fault{{Op: op, Before: errors.Fenced}, {Op: op, After: errors.Fenced}} {
			i := f.Inject(fault)
			var err error
			switch op {
			case faulty.Get:
				_, err = get(t.Context(), f, "a")
			case faulty.GetRange:
				_, _, err = f.GetRange(t.Context(), "a", 0, 1, "")
			case faulty.List:
				for _, err = range f.List(t.Context(), "", bucket.ListOptions{}) {
				}
			case faulty.Copy:
				err = f.Copy(t.Context(), "a", "c")
			case faulty.Delete:
				err = f.Delete(t.Context(), "c")
			}
			wantKind(t, errors.Fenced, err)
			i.Remove()
		}
	}
	if data, err := get(t.Context(), f, "a"); data != "x" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
}

func TestOccurrencesAndPatterns(t *testing.T) {
	f := wrapped(t)
	i := f.Inject(faulty.Fault{Op: faulty.Get, Key: "tenants/*/db/*.ltx", Skip: 2, Times: 2, Before: errors.Unavailable})
	if err := put(t.Context(), f, "tenants/acme/db/0000/1.ltx", "x"); err != nil {
		t.Fatal(err)
	}
	var failed []int
	for n := range 6 {
		if _, err := get(t.Context(), f, "tenants/acme/db/0000/1.ltx"); err != nil {
			failed = append(failed, n)
		}
		for _, other := range []string{"tenants/acme/tenant.json", "x/tenants/acme/db/1.ltx", "tenants/db/1.ltx", "tenants/a/db/1.ltx.x"} {
			if _, err := get(t.Context(), f, other); !errors.Is(errors.NotExist, err) {
				t.Errorf("%s: %v", other, err)
			}
		}
	}
	if fmt.Sprint(failed) != "[2 3]" || i.Hits() != 2 {
		t.Errorf("failed: %v, %d hits", failed, i.Hits())
	}
}

func TestMangledBodies(t *testing.T) {
	f := wrapped(t)
	f.Inject(faulty.Fault{Op: faulty.Put, Key: "stored", Mangle: faulty.Truncate(3)})
	f.Inject(faulty.Fault{Op: faulty.Get, Key: "read", Mangle: faulty.Flip(1)})
	f.Inject(faulty.Fault{Op: faulty.GetRange, Key: "read", Mangle: faulty.Flip(-1)})
	for _, key := range []string{"stored", "read"} {
		if err := put(t.Context(), f, key, "12345"); err != nil {
			t.Fatal(err)
		}
	}
	if data, err := get(t.Context(), f, "stored"); data != "123" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
	if data, err := get(t.Context(), f, "read"); data != "1\"345" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
	if data, _, err := f.GetRange(t.Context(), "read", 0, 3, ""); string(data) != "12#" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
	if data, err := get(t.Context(), f.Bucket, "read"); data != "12345" || err != nil {
		t.Errorf("what is stored: %q, %v", data, err)
	}
}

func TestBlocked(t *testing.T) {
	f := wrapped(t)
	i := f.Inject(faulty.Fault{Op: faulty.Put, Block: true, Latency: time.Millisecond})
	errs := make(chan error, 8)
	var wg sync.WaitGroup
	for n := range cap(errs) {
		wg.Go(func() { errs <- put(t.Context(), f, fmt.Sprint(n), "x") })
	}
	<-i.Reached()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantKind(t, errors.Canceled, put(ctx, f, "canceled", "x"))
	select {
	case err := <-errs:
		t.Fatalf("a blocked write ended: %v", err)
	default:
	}
	i.Release()
	wg.Wait()
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if i.Hits() != cap(errs)+1 {
		t.Errorf("%d hits", i.Hits())
	}
}
