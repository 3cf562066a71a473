// Package mounttest mounts volumes in tests, for real, and takes them down
// again whatever happens.
package mounttest

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"atc/fs/bucket"
	"atc/fs/mount"
	"atc/fs/volume"
)

// Options of one mount; the zero value is a directory bucket below the test's
// folder and a cache folder beside it.
type Options struct {
	Store         string // URL; by default file://<dir>/bucket
	Bucket        bucket.Bucket
	Dir           string // holds bucket, cache and mountpoint; by default a new one
	NoPassthrough bool
	Volume        volume.Options // Bucket, Cache and Logger are set here
}

// FS is a mounted volume.
type FS struct {
	Dir    string // the mountpoint
	Cache  string
	Bucket bucket.Bucket
	Volume *volume.Volume
	Mount  *mount.Mounted
	down   bool
}

// Start mounts; the test's end stops it, if it was not stopped before.
func Start(t testing.TB, o Options) *FS {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	ctx := context.Background()
	b := o.Bucket
	if b == nil {
		if o.Store == "" {
			o.Store = "file://" + filepath.Join(o.Dir, "bucket")
		}
		var err error
		if b, err = bucket.Open(ctx, o.Store); err != nil {
			t.Fatal(err)
		}
	}
	f := &FS{Dir: filepath.Join(o.Dir, "mnt"), Cache: filepath.Join(o.Dir, "cache"), Bucket: b}
	logger := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	v := o.Volume
	v.Bucket, v.Cache, v.Logger = b, f.Cache, logger
	if v.ShipInterval == 0 {
		v.ShipInterval = 50 * time.Millisecond
	}
	var err error
	if f.Volume, err = volume.Open(ctx, v); err != nil {
		t.Fatal(err)
	}
	f.Mount, err = mount.Mount(ctx, f.Dir, f.Volume, mount.Options{Name: f.Cache, NoPassthrough: o.NoPassthrough, Logger: logger})
	if err != nil {
		f.Volume.Close(ctx)
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !f.down {
			_ = unix.Unmount(f.Dir, unix.MNT_DETACH)
			f.Stop(t)
		}
	})
	return f
}

// Stop unmounts and closes, and fails the test if either fails.
func (f *FS) Stop(t testing.TB) {
	t.Helper()
	f.down = true
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := f.Mount.Unmount(ctx); err != nil {
		t.Error(err)
	}
	if err := f.Volume.Close(ctx); err != nil {
		t.Error(err)
	}
}

// SQL runs statements with the sqlite3 command on a database and returns what it
// prints.
func SQL(t testing.TB, path, statements string) string {
	t.Helper()
	out, err := TrySQL(path, statements)
	if err != nil {
		t.Fatalf("sqlite3 %s: %v\n%s\n%s", path, err, clip(statements), out)
	}
	return out
}

// TrySQL is SQL where failing is part of the story.
func TrySQL(path, statements string) (string, error) {
	cmd := exec.Command("sqlite3", "-bail", "-cmd", ".timeout 20000", path)
	cmd.Stdin = strings.NewReader(statements)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return strings.TrimSpace(out.String()), err
}

func clip(s string) string { return s[:min(len(s), 400)] }

// WaitShipped returns when everything of a tenant is in the bucket.
func (f *FS) WaitShipped(t testing.TB, tenant string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !f.Volume.Shipped(tenant) {
		if time.Now().After(deadline) {
			t.Fatalf("%s was not shipped in time", tenant)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// MakeTenant makes a tenant and returns its folder.
func (f *FS) MakeTenant(t testing.TB, id string) string {
	t.Helper()
	dir := filepath.Join(f.Dir, id)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// testWriter sends log lines to the test.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	defer func() { _ = recover() }() // a line after the test's end has nowhere to go
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}
