package bucket_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"atc/fs/bucket"
	"atc/fs/bucket/faulty"
	"atc/fs/errors"
)

// One request counts for everyone whose wrapper it passes.
func TestCounts(t *testing.T) {
	var process, acme, globex bucket.Counters
	store := faulty.Wrap(open(t, "file://"+t.TempDir()))
	all := bucket.Count(store, &process)
	a, g := bucket.Count(all, &acme), bucket.Count(all, &globex)

	body, _, err := a.Get(t.Context(), "nothing")
	if body != nil || !errors.Is(errors.NotExist, err) {
		t.Fatal(body, err)
	}
	put(t, a, "k", "12345")
	put(t, g, "l", "123")
	if _, err := a.Put(t.Context(), "k", strings.NewReader("lost"), bucket.PutOptions{IfNoneMatch: true}); err == nil {
		t.Fatal("overwritten")
	}
	body, _, err = a.Get(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if _, err := io.ReadAll(body); err != nil {
		t.Fatal(err)
	}
	before := acme.Snapshot()
	if _, _, err := a.GetRange(t.Context(), "k", 1, 3, ""); err != nil {
		t.Fatal(err)
	}
	if since := acme.Snapshot().Sub(before); since != (bucket.Counts{Get: 1, BytesIn: 3}) {
		t.Errorf("one range read: %+v", since)
	}
	store.Inject(faulty.Fault{Op: faulty.Copy, Before: errors.Unavailable})
	store.Inject(faulty.Fault{Op: faulty.List, Before: errors.Unavailable, Times: 1})
	wantKind(t, errors.Unavailable, g.Copy(t.Context(), "k", "m"), "copy")
	for range 2 {
		for _, err := range g.List(t.Context(), "", bucket.ListOptions{}) {
			if err != nil {
				break
			}
		}
	}
	if err := g.Delete(t.Context(), "l"); err != nil {
		t.Fatal(err)
	}
	wantA := bucket.Counts{Get: 3, Put: 2, BytesIn: 8, BytesOut: 5}
	wantG := bucket.Counts{Put: 1, List: 2, Copy: 1, Delete: 1, Failed: 2, BytesOut: 3}
	if got := acme.Snapshot(); got != wantA {
		t.Errorf("acme: %+v", got)
	}
	if got := globex.Snapshot(); got != wantG {
		t.Errorf("globex: %+v", got)
	}
	sum := process.Snapshot().Sub(wantA).Sub(wantG)
	if sum != (bucket.Counts{}) || process.Snapshot().Requests() != 10 {
		t.Errorf("the process: %+v", process.Snapshot())
	}
	text, err := json.Marshal(wantG)
	if want := `{"get":0,"put":1,"list":2,"copy":1,"delete":1,"failed":2,"bytes_in":0,"bytes_out":3}`; string(text) != want || err != nil {
		t.Errorf("as JSON: %s, %v", text, err)
	}
}

// A listing counts as the requests that it is on S3.
func TestCountsOfAListing(t *testing.T) {
	var c bucket.Counters
	dir := t.TempDir()
	b := bucket.Count(open(t, "file://"+dir), &c)
	for i := range 1001 { // objects are plain files
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("k%04d", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for limit, want := range map[int]int64{0: 2, 1: 1, 1000: 1, 1001: 2} {
		before := c.Snapshot()
		for _, err := range b.List(t.Context(), "k", bucket.ListOptions{Limit: limit}) {
			if err != nil {
				t.Fatal(err)
			}
		}
		if got := c.Snapshot().Sub(before).List; got != want {
			t.Errorf("limit %d: %d requests, want %d", limit, got, want)
		}
	}
}
