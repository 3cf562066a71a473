package mount_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// TestLocalOnly uses files and databases that match patterns like any others: the
// bucket never has them, the machine keeps them, and another one does not get them.
func TestLocalOnly(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	o := quick()
	// Before there are patterns: a database and a file that will match one.
	m := boot(t, dir, b, o, true)
	acme := m.MakeTenant(t, "acme")
	write := func(path, content string) {
		t.Helper()
		path = filepath.Join(acme, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	mounttest.SQL(t, filepath.Join(acme, "old.cache"), "create table t(a); insert into t values('kept');")
	write("before.log", "of before")
	m.stop(t)
	if err := os.RemoveAll(m.Cache); err != nil {
		t.Fatal(err)
	}

	o.LocalOnly = []string{"tmp/**", "*.log", "*.cache", "*.part"}
	m = boot(t, dir, b, o, true)
	// A release of what nobody has opened: what the bucket has is laid out anew.
	if err := os.Mkdir(filepath.Join(acme, "later"), 0o755); err != nil {
		t.Fatal(err)
	}
	released(t, b, "acme")
	write("tmp/a/b", "temporary")
	write("var/app.log", "logged")
	write("upload.part", "whole")
	write("kept", "kept")
	if err := os.Rename(filepath.Join(acme, "upload.part"), filepath.Join(acme, "upload")); err != nil {
		t.Fatal(err)
	}
	mounttest.SQL(t, filepath.Join(acme, "new.cache"), "pragma journal_mode=wal; create table t(a); insert into t values('local');")
	mounttest.SQL(t, filepath.Join(acme, "moves.cache"), "create table t(a); insert into t values('moved');")
	if err := os.Rename(filepath.Join(acme, "moves.cache"), filepath.Join(acme, "moved.db")); err != nil {
		t.Fatal(err)
	}
	mounttest.SQL(t, filepath.Join(acme, "old.cache"), "insert into t values('more');")
	m.WaitShipped(t, "acme")
	stat := m.Volume.Stat("acme").Tenants[0]
	i := slices.IndexFunc(stat.Databases, func(d volume.DatabaseStat) bool { return d.Path == "new.cache" })
	if i < 0 || !stat.Databases[i].LocalOnly || len(stat.Databases[i].Degraded) != 1 {
		t.Errorf("it is told of %+v", stat.Databases)
	}
	shipped := []string{"before.log", "kept", "later", "tmp", "upload", "var"} // before.log was not fetched, so it is nowhere else
	if got := keys(indexTree(t, b, "acme")); !slices.Equal(got, shipped) {
		t.Errorf("the index has %q, want %q", got, shipped)
	}
	if got, err := os.ReadFile(filepath.Join(acme, "before.log")); string(got) != "of before" {
		t.Errorf("what was there before the pattern: %q, %v", got, err)
	}

	// The machine keeps them over a release, of which a view shows nothing.
	released(t, b, "acme")
	if got := keys(record(t, b, "acme").Databases); !slices.Equal(got, []string{"moved.db", "old.cache"}) {
		t.Errorf("the record has %q", got)
	}
	if got := keys(indexTree(t, b, "acme")); !slices.Equal(got, shipped[1:]) {
		t.Errorf("the index has %q at last", got)
	}
	write("kept", "again")
	for path, want := range map[string]string{"tmp/a/b": "temporary", "var/app.log": "logged", "before.log": "of before"} {
		if got, err := os.ReadFile(filepath.Join(acme, path)); string(got) != want {
			t.Errorf("%s holds %q, %v", path, got, err)
		}
	}
	if got := mounttest.SQL(t, filepath.Join(acme, "new.cache"), "select a from t"); got != "local" {
		t.Errorf("the local database holds %q", got)
	}
	m.stop(t)

	// Another machine gets the rest.
	two := boot(t, t.TempDir(), b, o, true)
	there := filepath.Join(two.FS.Dir, "acme")
	if got := keys(fileTree(t, there)); !slices.Equal(got, []string{"kept", "later", "old.cache", "tmp", "upload", "var"}) {
		t.Errorf("another machine has %q", got)
	}
	for path, want := range map[string]string{"old.cache": "kept\nmore", "moved.db": "moved"} {
		if got := mounttest.SQL(t, filepath.Join(there, path), "select a from t"); got != want {
			t.Errorf("%s holds %q", path, got)
		}
	}
	if err := os.WriteFile(filepath.Join(there, "kept"), []byte("elsewhere"), 0o644); err != nil {
		t.Fatal(err)
	}
	two.stop(t)

	// And once it had the tenant, what the first one kept is out of date.
	m = boot(t, dir, b, o, true)
	if got, err := os.ReadFile(filepath.Join(acme, "kept")); string(got) != "elsewhere" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(acme, "var", "app.log")); !os.IsNotExist(err) {
		t.Errorf("a local file of before: %v", err)
	}
	m.stop(t)
}

func keys[V any](m map[string]V) (all []string) {
	for k := range m {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}
