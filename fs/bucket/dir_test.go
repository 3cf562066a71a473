package bucket_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/errors"
)

// What is particular to a directory: its files can be looked at, and others can
// do things to it that no S3 server lets them do.

func put(t testing.TB, b bucket.Bucket, key, body string) bucket.Info {
	t.Helper()
	info, err := b.Put(noTest(), key, strings.NewReader(body), bucket.PutOptions{Meta: map[string]string{"m": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func wantKind(t testing.TB, kind errors.Kind, err error, what string) {
	t.Helper()
	if !errors.Is(kind, err) {
		t.Errorf("%s: got %v (%v), want %v", what, err, errors.KindOf(err), kind)
	}
}

// everything lists what find(1) would, below dir.
func everything(t *testing.T, dir string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if path != dir {
			paths = append(paths, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestObjectsArePlainFiles(t *testing.T) {
	dir := t.TempDir()
	b := open(t, "file://"+dir)
	info := put(t, b, "a/b", "plain")
	data, err := os.ReadFile(filepath.Join(dir, "a/b"))
	if err != nil || string(data) != "plain" {
		t.Fatalf("the file holds %q, %v", data, err)
	}
	st, err := os.Stat(filepath.Join(dir, "a/b"))
	if err != nil || !st.ModTime().Equal(info.Modified) || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v, put at %v; %v", st.ModTime(), st.Mode(), info.Modified, err)
	}
	// Nothing is left of what went: no folder, no metadata.
	put(t, b, "a/b", "overwritten")
	put(t, b, "a/c/d/e", "deep")
	for _, key := range []string{"a/c/d/e", "a/b"} {
		if err := b.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range everything(t, dir) {
		if st, err := os.Lstat(filepath.Join(dir, path)); err == nil && st.IsDir() && strings.HasPrefix(path, ".atc") || path == ".atc/lock" {
			continue
		}
		t.Errorf("%s is left", path)
	}
}

func TestObjectAndFolderOfOneName(t *testing.T) {
	b := open(t, "file://"+t.TempDir())
	put(t, b, "a/b", "x")
	for _, key := range []string{"a", "a/b/c", "a/b/c/d"} {
		_, err := b.Put(t.Context(), key, strings.NewReader("y"), bucket.PutOptions{})
		wantKind(t, errors.Invalid, err, key)
	}
	wantKind(t, errors.Invalid, b.Copy(t.Context(), "a/b", "a"), "copy to a")
}

func TestForeignFilesAreNoObjects(t *testing.T) {
	dir := t.TempDir()
	b := open(t, "file://"+dir)
	put(t, b, "k", "x")
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "line\nbreak"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"link", "pipe", "empty"} {
		_, _, err := b.Get(t.Context(), key)
		wantKind(t, errors.NotExist, err, key)
		if err := b.Delete(t.Context(), key); err != nil {
			t.Errorf("delete %s: %v", key, err)
		}
	}
	for _, delimiter := range []bool{false, true} {
		for e, err := range b.List(t.Context(), "", bucket.ListOptions{Delimiter: delimiter}) {
			if e.Key != "k" || err != nil {
				t.Errorf("listed %q, %v", e.Key, err)
			}
		}
	}
}

// A store that is gone, like a disk that is not mounted, must not look like one
// in which nothing was ever stored.
func TestVanishedStoreIsUnavailable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	b := open(t, "file://"+dir)
	put(t, b, "k", "x")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		_, _, err := b.Get(t.Context(), "k")
		wantKind(t, errors.Unavailable, err, "get")
		_, _, err = b.GetRange(t.Context(), "k", 0, 1, "")
		wantKind(t, errors.Unavailable, err, "range")
		_, err = b.Put(t.Context(), "k", strings.NewReader("x"), bucket.PutOptions{})
		wantKind(t, errors.Unavailable, err, "put")
		wantKind(t, errors.Unavailable, b.Copy(t.Context(), "k", "l"), "copy")
		wantKind(t, errors.Unavailable, b.Delete(t.Context(), "k"), "delete")
		err = nil
		for _, err = range b.List(t.Context(), "", bucket.ListOptions{}) {
		}
		wantKind(t, errors.Unavailable, err, "list")
		if round == 0 { // as the mountpoint is there without its disk
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestOnlyDeadWritersAreSweptAway(t *testing.T) {
	dir := t.TempDir()
	b := open(t, "file://"+dir)
	if err := os.WriteFile(filepath.Join(dir, ".atc/tmp/dead"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	// A body that stops in the middle, while another process opens the store.
	reading, goOn := make(chan struct{}), make(chan struct{})
	done := make(chan error)
	go func() {
		_, err := b.Put(noTest(), "k", &pausing{strings.NewReader("whole"), reading, goOn}, bucket.PutOptions{})
		done <- err
	}()
	<-reading
	open(t, "file://"+dir)
	if _, err := os.Stat(filepath.Join(dir, ".atc/tmp/dead")); !os.IsNotExist(err) {
		t.Errorf("the dead writer's file: %v", err)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Fatalf("the living writer: %v", err)
	}
	if data, _, err := b.GetRange(t.Context(), "k", 0, 100, ""); string(data) != "whole" {
		t.Fatalf("it wrote %q, %v", data, err)
	}
}

// pausing is a body whose first read waits.
type pausing struct {
	*strings.Reader
	reading, goOn chan struct{}
}

func (p *pausing) Read(b []byte) (int, error) {
	if p.reading != nil {
		close(p.reading)
		p.reading = nil
		<-p.goOn
	}
	return p.Reader.Read(b)
}

// WriteTo would go around Read.
func (p *pausing) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{p})
}

// A process that was stopped while it held the lock stops nobody for longer
// than they are willing to wait.
func TestHeldLock(t *testing.T) {
	dir := t.TempDir()
	b := open(t, "file://"+dir)
	put(t, b, "k", "x")
	f, err := os.OpenFile(filepath.Join(dir, ".atc/lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = b.Put(ctx, "k", strings.NewReader("y"), bucket.PutOptions{})
	wantKind(t, errors.Unavailable, err, "put while another process holds the lock")
	wantKind(t, errors.Unavailable, b.Delete(ctx, "k"), "delete")
	if data, _, err := b.GetRange(t.Context(), "k", 0, 9, ""); string(data) != "x" {
		t.Fatalf("reading needs no lock: %q, %v", data, err)
	}
	f.Close()
	put(t, b, "k", "y")
}

// Deleting the last object of a folder takes the folder away, which must not
// come between another writer's making it and using it, nor between another's
// deleting in it and syncing it.
func TestFoldersComeAndGo(t *testing.T) {
	dir := t.TempDir()
	// Two stores on one folder, as two processes have them.
	stores := []bucket.Bucket{open(t, "file://"+dir), open(t, "file://"+dir)}
	const writers = 8
	atOnce := func(what string, do func(b bucket.Bucket, key string) error) {
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				if err := do(stores[w%2], fmt.Sprintf("a/b/c/%d", w)); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			})
		}
		wg.Wait()
	}
	putOne := func(b bucket.Bucket, key string) error {
		_, err := b.Put(noTest(), key, bytes.NewReader(nil), bucket.PutOptions{})
		return err
	}
	deleteOne := func(b bucket.Bucket, key string) error { return b.Delete(noTest(), key) }
	for range 30 {
		atOnce("put", putOne)
		atOnce("delete", deleteOne)
	}
	atOnce("put and delete", func(b bucket.Bucket, key string) error {
		for range 30 {
			if err := putOne(b, key); err != nil {
				return err
			}
			if err := deleteOne(b, key); err != nil {
				return err
			}
		}
		return nil
	})
	if _, err := os.Stat(filepath.Join(dir, "a")); !os.IsNotExist(err) {
		t.Errorf("the folder is left: %v", err)
	}
}
