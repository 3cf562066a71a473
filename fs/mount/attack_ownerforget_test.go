package mount_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"atc/fs/mount/mounttest"
)

// TestStatAfterAHandOver has the kernel remember what stat told of files and
// folders, and another machine change them: what is told then is right, without
// anything being opened.
func TestStatAfterAHandOver(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	one := boot(t, dir, b, quick(), true)
	two := boot(t, t.TempDir(), b, quick(), true)
	here := one.MakeTenant(t, "acme")
	there := filepath.Join(two.FS.Dir, "acme")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	mounttest.SQL(t, filepath.Join(here, "a.db"), "create table t(a);")
	must(os.WriteFile(filepath.Join(here, "note"), []byte("short"), 0o644))
	must(os.Symlink("note", filepath.Join(here, "link")))
	for _, name := range []string{"gone", "file", "mode", "deep/er"} {
		must(os.MkdirAll(filepath.Join(here, name), 0o755))
	}
	must(os.WriteFile(filepath.Join(here, "deep", "er", "note"), []byte("short"), 0o644))
	look := func(name string) (int64, os.FileMode) {
		info, err := os.Lstat(filepath.Join(here, name))
		if err != nil {
			return -1, 0
		}
		if info.IsDir() {
			return 0, info.Mode()
		}
		return info.Size(), info.Mode()
	}
	names := []string{"a.db", "note", "link", "gone", "file", "mode", "deep/er/note"}
	for _, name := range names {
		if size, _ := look(name); size < 0 {
			t.Fatal(name)
		}
	}
	released(t, b, "acme")

	mounttest.SQL(t, filepath.Join(there, "a.db"), "insert into t select zeroblob(3000) from generate_series(1,100);")
	must(os.WriteFile(filepath.Join(there, "note"), []byte("quite a bit longer"), 0o600))
	must(os.Chmod(filepath.Join(there, "note"), 0o600))
	must(os.Remove(filepath.Join(there, "link")))
	must(os.Symlink("somewhere", filepath.Join(there, "link")))
	must(os.Remove(filepath.Join(there, "gone")))
	must(os.Remove(filepath.Join(there, "file")))
	must(os.WriteFile(filepath.Join(there, "file"), []byte("a file"), 0o644))
	must(os.Chmod(filepath.Join(there, "mode"), 0o700))
	must(os.WriteFile(filepath.Join(there, "deep", "er", "note"), []byte("longer"), 0o644))
	info, err := os.Stat(filepath.Join(there, "a.db"))
	must(err)
	released(t, b, "acme")

	time.Sleep(1100 * time.Millisecond) // what is not of an owner is remembered for a second
	for name, want := range map[string]struct {
		size int64
		mode os.FileMode
	}{
		"a.db": {info.Size(), 0o644}, "note": {18, 0o600}, "link": {9, os.ModeSymlink}, "gone": {-1, 0}, "file": {6, 0o644},
		"mode": {0, os.ModeDir | 0o700}, "deep/er/note": {6, 0o644},
	} {
		size, mode := look(name)
		if size != want.size && name != "link" || mode.Type() != want.mode.Type() || mode.Perm() != want.mode.Perm() && name != "link" {
			t.Errorf("%s has %d bytes, mode %v", name, size, mode)
		}
	}
	if target, err := os.Readlink(filepath.Join(here, "link")); target != "somewhere" {
		t.Errorf("the link leads to %q, %v", target, err)
	}
	one.stop(t)
	two.stop(t)
}
