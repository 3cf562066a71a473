package buckettest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"atc/fs/bucket"
)

// Listings: their order, where they start and end, and what they fold.

// list collects the keys of a listing, and its sizes where they are wanted.
func list(t *testing.T, b bucket.Bucket, prefix string, opts bucket.ListOptions) []string {
	t.Helper()
	keys := []string{}
	for e, err := range b.List(t.Context(), prefix, opts) {
		if err != nil {
			t.Fatalf("list %q %+v: %v", prefix, opts, err)
		}
		if strings.HasSuffix(e.Key, "/") != (e.Size == 0) {
			t.Errorf("list %q %+v: %s has size %d", prefix, opts, e.Key, e.Size)
		}
		if strings.HasSuffix(e.Key, "/") != e.Modified.IsZero() {
			t.Errorf("list %q %+v: %s was modified at %v", prefix, opts, e.Key, e.Modified)
		}
		keys = append(keys, e.Key)
	}
	return keys
}

func listEdges(t *testing.T, b bucket.Bucket) {
	if keys := list(t, b, "", bucket.ListOptions{}); len(keys) != 0 {
		t.Fatalf("an empty store lists %v", keys)
	}
	// In the order of bytes, which puts "." before "/" before letters.
	all := []string{"a.b", "a/1", "a/2/x", "a/2/y", "a/3", "aa", "b/c/d", "b/c0", "t/ü", "t/日"}
	for _, i := range []int{7, 2, 9, 0, 5, 1, 8, 3, 6, 4} {
		put(t, b, all[i], "x", bucket.PutOptions{})
	}
	type opts = bucket.ListOptions
	for _, c := range []struct {
		prefix string
		opts   opts
		want   []string
	}{
		{"", opts{}, all},
		{"a", opts{}, all[:6]},
		{"a/", opts{}, all[1:5]},
		{"a/2", opts{}, []string{"a/2/x", "a/2/y"}},
		{"a/2/y", opts{}, []string{"a/2/y"}},
		{"a/2/y/", opts{}, nil},
		{"none/", opts{}, nil},
		{"none", opts{Delimiter: true}, nil},
		{"", opts{Limit: 3}, all[:3]},
		{"a/", opts{Limit: 100}, all[1:5]},
		{"", opts{After: "a/2/x"}, all[3:]},
		{"", opts{After: "a/2"}, all[2:]},
		{"", opts{After: "t/日"}, nil},
		{"a/", opts{After: "a/1", Limit: 2}, all[2:4]},
		{"b/", opts{After: "a/1"}, all[6:8]},
		{"a/", opts{After: "b"}, nil},
		{"", opts{Delimiter: true}, []string{"a.b", "a/", "aa", "b/", "t/"}},
		{"a", opts{Delimiter: true}, []string{"a.b", "a/", "aa"}},
		{"a/", opts{Delimiter: true}, []string{"a/1", "a/2/", "a/3"}},
		{"b/", opts{Delimiter: true}, []string{"b/c/", "b/c0"}},
		{"b/c", opts{Delimiter: true}, []string{"b/c/", "b/c0"}},
		{"", opts{Delimiter: true, Limit: 2}, []string{"a.b", "a/"}},
		{"", opts{Delimiter: true, After: "a/", Limit: 2}, []string{"aa", "b/"}},
		{"", opts{Delimiter: true, After: "a/", Limit: 1}, []string{"aa"}},
		{"", opts{Delimiter: true, After: "a/2/x"}, []string{"aa", "b/", "t/"}},
		{"a/", opts{Delimiter: true, After: "a/1"}, []string{"a/2/", "a/3"}},
		{"a/", opts{Delimiter: true, After: "a/2/"}, []string{"a/3"}},
	} {
		if got := list(t, b, c.prefix, c.opts); !slices.Equal(got, c.want) {
			t.Errorf("list %q %+v\n got %q\nwant %q", c.prefix, c.opts, got, c.want)
		}
	}
	// An entry's time is the object's, as a read gives it.
	for e, err := range b.List(t.Context(), "a.b", opts{}) {
		if err != nil {
			t.Fatal(err)
		}
		if _, info := get(t, b, e.Key); !info.Modified.Truncate(time.Second).Equal(e.Modified.Truncate(time.Second)) {
			t.Errorf("%s was modified at %v when listed, at %v when read", e.Key, e.Modified, info.Modified)
		}
	}
	// A listing can be left, and started again.
	seq := b.List(t.Context(), "", opts{})
	for range 2 {
		for e, err := range seq {
			if err != nil || e.Key != "a.b" {
				t.Errorf("the first entry: %s, %v", e.Key, err)
			}
			break
		}
	}
}

func listManyKeys(t *testing.T, b bucket.Bucket) {
	const folders, files = 11, 110 // more than S3 lists at once
	var (
		wg   sync.WaitGroup
		want = make([]string, 0, folders*files)
	)
	for f := range folders {
		for n := range files {
			want = append(want, fmt.Sprintf("m/%02d/%03d", f, n))
		}
	}
	const writers = 16
	for w := range writers {
		wg.Go(func() {
			for i := w; i < len(want); i += writers {
				if _, err := b.Put(t.Context(), want[i], strings.NewReader("x"), bucket.PutOptions{}); err != nil {
					t.Errorf("put: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if got := list(t, b, "m/", bucket.ListOptions{}); !slices.Equal(got, want) {
		t.Fatalf("listed %d keys of %d, or in another order", len(got), len(want))
	}
	if got := list(t, b, "", bucket.ListOptions{After: want[99], Limit: 1050}); !slices.Equal(got, want[100:1150]) {
		t.Fatalf("listed %d keys of 1050 in the middle", len(got))
	}
	if got := list(t, b, "m/", bucket.ListOptions{Delimiter: true}); len(got) != folders || got[10] != "m/10/" {
		t.Fatalf("folded into %q", got)
	}
	// Page by page, with the last key of each.
	var got []string
	for after := ""; ; after = got[len(got)-1] {
		page := list(t, b, "", bucket.ListOptions{After: after, Limit: 300})
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("page by page there are %d keys of %d", len(got), len(want))
	}
}
