package mount_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/tenant"
	"atc/fs/volume"
)

// timed is a bucket that notes when each request began and ended, each of which
// takes a while.
type timed struct {
	bucket.Bucket
	mu       sync.Mutex // protects requests
	requests []request
}

type request struct {
	what       string
	began, end time.Time
}

func (b *timed) note(what string) func() {
	const takes = 10 * time.Millisecond
	began := time.Now()
	time.Sleep(takes)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.requests = append(b.requests, request{what, began, time.Now()})
	}
}

func (b *timed) Get(ctx context.Context, key string) (io.ReadCloser, bucket.Info, error) {
	defer b.note("get " + key)()
	return b.Bucket.Get(ctx, key)
}

func (b *timed) GetRange(ctx context.Context, key string, offset, length int64, etag string) ([]byte, bucket.Info, error) {
	defer b.note("get " + key)()
	return b.Bucket.GetRange(ctx, key, offset, length, etag)
}

func (b *timed) Put(ctx context.Context, key string, body io.ReadSeeker, o bucket.PutOptions) (bucket.Info, error) {
	defer b.note("put " + key)()
	return b.Bucket.Put(ctx, key, body, o)
}

// before is a longest sequence of requests, one after the other, that ended before
// the first one of a kind began.
func (b *timed) before(what string) (sequence []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := slices.Clone(b.requests)
	slices.SortFunc(all, func(x, y request) int { return x.end.Compare(y.end) })
	var first time.Time
	for _, r := range all {
		if strings.HasPrefix(r.what, what) && first.IsZero() {
			first = r.began
		}
	}
	var last time.Time
	for _, r := range all {
		if r.end.Before(first) && !r.began.Before(last) {
			sequence, last = append(sequence, r.what), r.end
		}
	}
	return sequence
}

// storeMany makes a tenant of n small files, with one content for all of them.
func storeMany(t *testing.T, b bucket.Bucket, id string, n int) {
	t.Helper()
	files := tenant.NewFiles(b, id)
	content, err := files.Put(t.Context(), bytes.NewReader([]byte("content")))
	if err != nil {
		t.Fatal(err)
	}
	x := (&tenant.FileIndex{}).Next(1)
	at := time.Date(2026, 11, 21, 10, 0, 0, 1, time.UTC)
	for i := range n {
		if i%100 == 0 {
			x.Entries = append(x.Entries, tenant.FileEntry{Path: fmt.Sprintf("d%03d", i/100), Kind: tenant.Directory, Mode: 0o755, Modified: at})
		}
		x.Entries = append(x.Entries, tenant.FileEntry{
			Path: fmt.Sprintf("d%03d/%05d", i/100, i), Kind: tenant.Regular, Mode: 0o644, Size: 7, Modified: at, Content: content})
	}
	if err := files.Save(t.Context(), x); err != nil {
		t.Fatal(err)
	}
	if err := tenant.NewRegistry(b, nil, nil, time.Now).CreateWith(t.Context(), id, nil); err != nil {
		t.Fatal(err)
	}
}

// TestManyFiles opens a tenant of 10,000 files, changes one, removes all, and has
// each cost what it should: three round trips, kilobytes, and not minutes.
func TestManyFiles(t *testing.T) {
	const (
		files  = 10_000
		trips  = 3
		bucket = 12 << 10 // bytes that a change of one file may upload, beyond the file
		local  = 4 << 10  // and write into what is kept locally of all of them
		remove = time.Minute
	)
	dir := t.TempDir()
	b := openBucket(t, dir)
	storeMany(t, b, "acme", files)
	m := boot(t, dir, b, quick(), true) // its release names the base
	if err := os.WriteFile(filepath.Join(m.FS.Dir, "acme", "d000", "new"), []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	m.stop(t)
	if err := os.RemoveAll(m.Cache); err != nil {
		t.Fatal(err)
	}

	slow := &timed{Bucket: b}
	frozen := time.Now() // what was looked at stays young, however busy the machine
	m = boot(t, dir, slow, volume.Options{ShipInterval: tick, Heartbeat: 20 * time.Second, Lease: time.Minute, Now: func() time.Time { return frozen }}, true)
	acme := filepath.Join(m.FS.Dir, "acme")
	began := time.Now()
	if got, err := os.ReadFile(filepath.Join(acme, "d042", "04242")); err != nil || string(got) != "content" {
		t.Fatalf("%q, %v", got, err)
	}
	opened := time.Since(began)
	content := indexEntry(t, b, "acme", "d042/04242").Content
	if sequence := slow.before("get tenants/acme/files/" + content); len(sequence) > trips || len(sequence) == 0 {
		t.Errorf("%d requests one after the other before the content: %q", len(sequence), sequence)
	}

	m.WaitShipped(t, "acme")
	before := m.Volume.Stat("acme").Bucket
	log := filepath.Join(m.Cache, "tenants", "acme", "inodes")
	size := fileSize(t, log)
	began = time.Now()
	if err := os.WriteFile(filepath.Join(acme, "d042", "04242"), []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	m.WaitShipped(t, "acme")
	shipped := time.Since(began)
	done := m.Volume.Stat("acme").Bucket.Sub(before)
	if done.Put != 2 || done.BytesOut > bucket || done.List+done.Get > 0 {
		t.Errorf("one changed file: %+v", done)
	}
	if grew := fileSize(t, log) - size; grew > local {
		t.Errorf("one changed file wrote %d bytes locally", grew)
	}

	began = time.Now()
	if err := os.RemoveAll(acme); err != nil {
		t.Fatal(err)
	}
	removed := time.Since(began)
	t.Logf("%d files: opened in %s, one changed in %s with %d bytes, removed in %s", files, opened, shipped, done.BytesOut, removed)
	if removed > remove {
		t.Errorf("removing took %s", removed)
	}
	m.stop(t)
}

func indexEntry(t *testing.T, b bucket.Bucket, id, path string) tenant.FileEntry {
	t.Helper()
	x, err := tenant.NewFiles(b, id).Load(t.Context())
	if err != nil || x.Find(path) == nil {
		t.Fatalf("%s is not in the index, %v", path, err)
	}
	return *x.Find(path)
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
