package mount_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/bucket/faulty"
	"atc/fs/bucket/s3test"
	"atc/fs/errors"
	"atc/fs/mount/mounttest"
	"atc/fs/tenant"
	"atc/fs/volume"
)

// peak returns a function that tells how much larger the heap has been since than
// it was at first.
func peak() func() int64 {
	heap := func() int64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse)
	}
	runtime.GC()
	var (
		first, most = heap(), int64(0)
		done, ended = make(chan struct{}), make(chan struct{})
	)
	go func() {
		defer close(ended)
		for {
			most = max(most, heap())
			select {
			case <-time.After(5 * time.Millisecond):
			case <-done:
				return
			}
		}
	}()
	return func() int64 {
		close(done)
		<-ended
		return most - first
	}
}

func digest(t *testing.T, path string) (sum [sha256.Size]byte) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// TestLargeFilesAreStreamed sends a large file to a store and gets it back on an
// empty cache, within memory that does not grow with it.
func TestLargeFilesAreStreamed(t *testing.T) {
	for name, c := range map[string]struct {
		store string // of a server; a folder by default
		size  int64
	}{
		"folder": {"", 256 << 20},
		"s3":     {s3test.Start(t), 96 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			const memory = 48 << 20 // bytes of heap that may be in use beyond those before
			dir := t.TempDir()
			f := mounttest.Start(t, mounttest.Options{Dir: dir, Store: c.store})
			path := filepath.Join(f.MakeTenant(t, "acme"), "large")
			out, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			// Random bytes between holes, so that it is written in no time.
			r, block := rand.NewChaCha8([32]byte{1}), make([]byte, 64<<10)
			for at := int64(0); at < c.size; at += 4 << 20 {
				r.Read(block)
				if _, err := out.WriteAt(block, at); err != nil {
					t.Fatal(err)
				}
			}
			if err := out.Truncate(c.size); err != nil {
				t.Fatal(err)
			}
			used := peak()
			if err := out.Close(); err != nil {
				t.Fatal(err)
			}
			f.WaitShipped(t, "acme")
			if grew := used(); grew > memory {
				t.Errorf("shipping %d bytes took %d bytes of heap", c.size, grew)
			}
			want := digest(t, path)
			f.Stop(t)
			if err := os.RemoveAll(f.Cache); err != nil {
				t.Fatal(err)
			}
			f = mounttest.Start(t, mounttest.Options{Dir: dir, Store: c.store})
			used = peak()
			got := digest(t, path)
			if grew := used(); grew > memory {
				t.Errorf("fetching %d bytes took %d bytes of heap", c.size, grew)
			}
			if got != want {
				t.Error("it came back as something else")
			}
			f.Stop(t)
		})
	}
}

// TestShippedWhenItIsMeantToBe writes a file for a long time: it goes to the bucket
// at fsync and at the end, and not with every interval.
func TestShippedWhenItIsMeantToBe(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	const interval = 200 * time.Millisecond
	m := boot(t, dir, b, volume.Options{ShipInterval: interval}, true)
	path := filepath.Join(m.MakeTenant(t, "acme"), "written")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for range 15 {
		if _, err := f.WriteString("more"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(interval / 5)
	}
	if got := indexTree(t, b, "acme"); len(got) > 0 && time.Since(began) < 8*interval { // else it has been open for long
		t.Errorf("while it was being written the bucket has %q", got)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	has := func(n int) func() bool {
		return func() bool {
			x, err := tenant.NewFiles(b, "acme").Load(t.Context())
			return err == nil && x.Find("written") != nil && x.Find("written").Size == int64(n)
		}
	}
	eventually(t, "it is shipped after fsync", has(60))
	if _, err := f.WriteString("last"); err != nil {
		t.Fatal(err)
	}
	// Nobody syncs or closes it any more, as a log.
	eventually(t, "it is shipped though it stays open", has(64))
	if _, err := f.WriteString("end"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is shipped when it is closed", has(67))
	m.stop(t)
}

// TestChangedWhileItIsShipped writes to a large file while it is uploaded, and to a
// small one beside it: that does not wait, and in the end the bucket has both as
// they are.
func TestChangedWhileItIsShipped(t *testing.T) {
	dir := t.TempDir()
	plain, err := bucket.Open(t.Context(), "file://"+filepath.Join(dir, "bucket"))
	if err != nil {
		t.Fatal(err)
	}
	b := faulty.Wrap(plain)
	m := boot(t, dir, b, volume.Options{ShipInterval: tick}, true)
	acme := m.MakeTenant(t, "acme")
	if err := os.WriteFile(filepath.Join(acme, "first"), []byte("first"), 0o644); err != nil {
		t.Fatal(err)
	}
	m.WaitShipped(t, "acme")
	stuck := b.Inject(faulty.Fault{Op: faulty.Put, Key: "tenants/acme/files/*", Times: 1, Block: true})
	content := bytes.Repeat([]byte("large"), 2<<20)
	large := filepath.Join(acme, "large")
	if err := os.WriteFile(large, content, 0o644); err != nil {
		t.Fatal(err)
	}
	<-stuck.Reached()
	if err := os.WriteFile(filepath.Join(acme, "small"), []byte("small"), 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the small file is shipped meanwhile", func() bool { return indexTree(t, b, "acme")["small"] != "" })
	if err := os.Rename(filepath.Join(acme, "small"), filepath.Join(acme, "renamed")); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(large, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("OTHER"), 5<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	stuck.Release()
	m.WaitShipped(t, "acme")
	sameTree(t, "in the end", indexTree(t, b, "acme"), fileTree(t, acme))
	m.stop(t)
}

// fussy is a bucket that reads what it stores twice, as S3 does for its signature,
// and refuses what changed in between.
type fussy struct {
	bucket.Bucket
	between func(key string)
}

func (b fussy) Put(ctx context.Context, key string, body io.ReadSeeker, o bucket.PutOptions) (bucket.Info, error) {
	first := sha256.New()
	if _, err := io.Copy(first, body); err != nil {
		return bucket.Info{}, err
	}
	b.between(key)
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return bucket.Info{}, err
	}
	second, err := io.ReadAll(body)
	if sum := sha256.Sum256(second); err != nil || !bytes.Equal(sum[:], first.Sum(nil)) {
		return bucket.Info{}, errors.E("put", key, errors.Invalid, fmt.Errorf("its checksum is another one: %w", err))
	}
	return b.Bucket.Put(ctx, key, bytes.NewReader(second), o)
}

// TestNeverStandsStill ships a file that changes whenever it is read, to a store
// that refuses such.
func TestNeverStandsStill(t *testing.T) {
	dir := t.TempDir()
	var path atomic.Pointer[string]
	var writes atomic.Int64
	b := fussy{openBucket(t, dir), func(key string) {
		if p := path.Load(); p != nil && strings.HasPrefix(key, "tenants/acme/files/") && !strings.HasSuffix(key, ".json") {
			_ = os.WriteFile(*p, fmt.Appendf(nil, "write %05d", writes.Add(1)), 0o644)
		}
	}}
	m := boot(t, dir, b, volume.Options{ShipInterval: tick}, true)
	p := filepath.Join(m.MakeTenant(t, "acme"), "busy")
	path.Store(&p)
	if err := os.WriteFile(p, []byte("write 00000"), 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "some state of it is in the bucket", func() bool { return strings.Contains(indexTree(t, b, "acme")["busy"], "write") })
	path.Store(nil)
	m.WaitShipped(t, "acme")
	sameTree(t, "at rest", indexTree(t, b, "acme"), fileTree(t, filepath.Dir(p)))
	m.stop(t)
}
