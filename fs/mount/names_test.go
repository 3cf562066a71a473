package mount_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"atc/fs/errors"
	"atc/fs/mount/mounttest"
)

func TestNamesOfTenants(t *testing.T) {
	f := mounttest.Start(t, mounttest.Options{})
	before := f.Volume.Stat("").Bucket
	for _, c := range []struct {
		name string
		want syscall.Errno
	}{
		{"Acme", syscall.EINVAL},
		{"a.b", syscall.EINVAL},
		{"-acme", syscall.EINVAL},
		{"a b", syscall.EINVAL},
		{"zürich", syscall.EINVAL},
		{strings.Repeat("a", 64), syscall.EINVAL},
		{strings.Repeat("a", 300), syscall.EINVAL},
		{"..", syscall.EEXIST},
		{"a\x00b", syscall.EINVAL},
	} {
		if err := os.Mkdir(f.Dir+"/"+c.name, 0o755); errors.Errno(err) != c.want {
			t.Errorf("mkdir %.20q: %v, want %v", c.name, err, c.want)
		}
		if _, err := os.Stat(f.Dir + "/" + c.name + "/x"); err == nil {
			t.Errorf("%.20q is there", c.name)
		}
	}
	if after := f.Volume.Stat("").Bucket; after != before {
		t.Errorf("names that cannot be tenants asked the bucket: %+v, then %+v", before, after)
	}
	if err := os.WriteFile(filepath.Join(f.Dir, "file"), nil, 0o644); !os.IsPermission(err) {
		t.Errorf("a file beside the tenants: %v", err)
	}
	f.MakeTenant(t, strings.Repeat("a", 63))
	if err := os.Mkdir(filepath.Join(f.Dir, strings.Repeat("a", 63)), 0o755); !os.IsExist(err) {
		t.Errorf("the same tenant again: %v", err)
	}
	f.Stop(t)
}

// TestTreeSurvives keeps folders, plain files, symlinks, modes and renames over
// a restart on an empty cache.
func TestTreeSurvives(t *testing.T) {
	dir := t.TempDir()
	f := mounttest.Start(t, mounttest.Options{Dir: dir})
	acme := f.MakeTenant(t, "acme")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(acme, "uploads/2026"), 0o750))
	must(os.WriteFile(filepath.Join(acme, "uploads/2026/a.txt"), []byte("hello"), 0o640))
	must(os.WriteFile(filepath.Join(acme, "old"), []byte("moved"), 0o600))
	must(os.Rename(filepath.Join(acme, "old"), filepath.Join(acme, "uploads/new")))
	must(os.Symlink("2026/a.txt", filepath.Join(acme, "uploads/latest")))
	must(os.WriteFile(filepath.Join(acme, "gone"), []byte("x"), 0o644))
	must(os.WriteFile(filepath.Join(acme, "empty"), nil, 0o644))
	mounttest.SQL(t, filepath.Join(acme, "uploads/one.db"), "create table t(a); insert into t values(1)")
	f.WaitShipped(t, "acme")
	must(os.Remove(filepath.Join(acme, "gone")))
	must(os.Rename(filepath.Join(acme, "uploads"), filepath.Join(acme, "files")))
	if err := os.Link(filepath.Join(acme, "empty"), filepath.Join(acme, "hard")); errors.Errno(err) != syscall.EPERM {
		t.Errorf("hard link: %v", err)
	}
	f.Stop(t)
	must(os.RemoveAll(f.Cache))

	f = mounttest.Start(t, mounttest.Options{Dir: dir})
	for path, want := range map[string]string{"files/2026/a.txt": "hello", "files/new": "moved", "files/latest": "hello", "empty": ""} {
		if b, err := os.ReadFile(filepath.Join(acme, path)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", path, b, err)
		}
	}
	for path, want := range map[string]os.FileMode{"files/2026": 0o750, "files/2026/a.txt": 0o640, "files/new": 0o600} {
		if info, err := os.Stat(filepath.Join(acme, path)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v", path, info.Mode(), err)
		}
	}
	if _, err := os.Stat(filepath.Join(acme, "gone")); !os.IsNotExist(err) {
		t.Errorf("a removed file: %v", err)
	}
	if got := mounttest.SQL(t, filepath.Join(acme, "files/one.db"), "select a from t"); got != "1" {
		t.Errorf("a database in a renamed folder: %q", got)
	}
	f.Stop(t)
}

// TestAbsentNamesAreRemembered asks for a file that is not there as often as
// SQLite asks for a journal: the kernel need not pass that on, and sees the file
// as soon as there is one.
func TestAbsentNamesAreRemembered(t *testing.T) {
	f := mounttest.Start(t, mounttest.Options{})
	path := filepath.Join(f.MakeTenant(t, "acme"), "main.sqlite3-journal")
	const looks = 1000
	before := f.Mount.Requests()
	for range looks {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	if n := f.Mount.Requests() - before; n > looks/10 {
		t.Errorf("%d requests for %d looks at what is not there", n, looks)
	}
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	f.Stop(t)
}
