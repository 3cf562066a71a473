package mount_test

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"atc/fs/backup"
	"atc/fs/bucket"
	"atc/fs/errors"
	"atc/fs/mount/mounttest"
	"atc/fs/tenant"
	"atc/fs/tenant/tenanttest"
	"atc/fs/volume"
)

// undelete brings a tenant back as `atc tenant undelete` does.
func undelete(t *testing.T, b bucket.Bucket, id string) backup.Report {
	t.Helper()
	s := backup.New(b, tenanttest.Registry(t, b, "m-undelete", "s-undelete", time.Now), time.Now)
	r, err := s.Undelete(t.Context(), id, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// furnish makes a tenant with everything that one can have.
func furnish(t *testing.T, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "up", "2026"), 0o750))
	must(os.MkdirAll(filepath.Join(dir, "up", "empty"), 0o700))
	must(os.WriteFile(filepath.Join(dir, "up", "2026", "a"), []byte("content of a"), 0o640))
	must(os.WriteFile(filepath.Join(dir, "up", "b"), []byte("content of b"), 0o600))
	must(os.WriteFile(filepath.Join(dir, "nothing"), nil, 0o644))
	must(os.Symlink("2026/a", filepath.Join(dir, "up", "latest")))
	mounttest.SQL(t, filepath.Join(dir, "main.db"), "pragma journal_mode=wal; create table t(a); insert into t values('one');")
	mounttest.SQL(t, filepath.Join(dir, "up", "second.db"), "create table t(a); insert into t values('two');")
}

// TestUndeleteBringsBack removes a tenant as rm -rf does and brings it back, on a
// machine that has nothing of it: what was removed with it is there, whatever else
// happened before.
func TestUndeleteBringsBack(t *testing.T) {
	var sessions []*session // that outlive the removal
	for _, c := range []struct {
		name string
		// before happens to the furnished tenant; gone are the paths that may not
		// come back with it.
		before func(t *testing.T, dir string, pass func(time.Duration))
		gone   []string
	}{
		{"at once", func(*testing.T, string, func(time.Duration)) {}, nil},
		{"removed two days earlier", func(t *testing.T, dir string, pass func(time.Duration)) {
			remove(t, dir, "up/b", "main.db", "main.db-wal", "main.db-shm")
			pass(48 * time.Hour)
		}, []string{"up/b", "main.db"}},
		{"removed before the last change", func(t *testing.T, dir string, pass func(time.Duration)) {
			remove(t, dir, "up/b", "up/second.db")
			pass(time.Second)
			if err := os.WriteFile(filepath.Join(dir, "late"), []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
			pass(time.Second)
		}, []string{"up/b", "up/second.db"}},
		{"committed just now", func(t *testing.T, dir string, _ func(time.Duration)) {
			s := connect(t, filepath.Join(dir, "main.db"))
			s.exec("pragma synchronous=normal; insert into t values('last');") // without a sync
			sessions = append(sessions, s)
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			b := openBucket(t, dir)
			var passed atomic.Int64
			now := func() time.Time { return time.Now().Add(time.Duration(passed.Load())) }
			interval := tick
			if c.name == "committed just now" {
				interval = 3 * time.Second // the removal comes first
			}
			m := boot(t, dir, b, volume.Options{ShipInterval: interval, CloseAfter: tick, Now: now}, true)
			acme := m.MakeTenant(t, "acme")
			furnish(t, acme)
			m.WaitShipped(t, "acme")
			c.before(t, acme, func(d time.Duration) {
				m.WaitShipped(t, "acme")
				passed.Add(int64(d))
			})
			want := fileTree(t, acme)
			databases := map[string]string{}
			for _, p := range []string{"main.db", "up/second.db"} {
				if _, err := os.Stat(filepath.Join(acme, p)); err == nil {
					databases[p] = mounttest.SQL(t, filepath.Join(acme, p), "select group_concat(a) from t")
				}
			}
			if err := os.RemoveAll(acme); err != nil {
				t.Fatal(err)
			}
			if r := record(t, b, "acme"); r.Deleted.IsZero() || r.Emptied.After(r.Deleted) {
				t.Fatalf("%+v", r)
			}
			for _, s := range sessions {
				s.kill()
			}
			m.stop(t)

			r := undelete(t, b, "acme")
			if len(r.Databases) != len(databases) {
				t.Errorf("%d databases came back, want %d", len(r.Databases), len(databases))
			}
			m = boot(t, t.TempDir(), b, volume.Options{ShipInterval: tick}, true)
			there := filepath.Join(m.FS.Dir, "acme")
			got := fileTree(t, there)
			for p, w := range want {
				if got[p] != w {
					// Folders get the time of their removal's beginning.
					if g, _ := os.Stat(filepath.Join(there, p)); g == nil || !g.IsDir() {
						t.Errorf("%s is %q, want %q", p, got[p], w)
					}
				}
			}
			for _, p := range c.gone {
				if _, err := os.Lstat(filepath.Join(there, p)); !os.IsNotExist(err) {
					t.Errorf("%s came back: %v", p, err)
				}
			}
			for p, w := range databases {
				if got := mounttest.SQL(t, filepath.Join(there, p), "select group_concat(a) from t; pragma integrity_check"); got != w+"\nok" {
					t.Errorf("%s holds %q, want %q", p, got, w)
				}
			}
			m.stop(t)
		})
	}
}

func remove(t *testing.T, dir string, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if err := os.Remove(filepath.Join(dir, p)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
}

// TestKilledWhileRemoving kills atc in the middle of rm -rf: the tenant is there
// with the rest, rm -rf goes on, and all of it comes back.
func TestKilledWhileRemoving(t *testing.T) {
	dir, store := t.TempDir(), t.TempDir()
	b := openBucket(t, store)
	d := startDaemon(t, dir, store, daemonEnv+"_SHIP=20ms")
	furnish(t, d.path("acme"))
	want := fileTree(t, d.path("acme"))
	eventually(t, "it is shipped", func() bool { return len(indexTree(t, b, "acme")) == len(want) })
	time.Sleep(200 * time.Millisecond) // and the databases
	remove(t, d.path("acme"), "up/2026/a", "main.db", "main.db-wal", "main.db-shm")
	d.kill()

	d = startDaemon(t, dir, store, daemonEnv+"_SHIP=20ms")
	if got := fileTree(t, d.path("acme")); len(got) != len(want)-1 {
		t.Errorf("after the kill there is %q", got)
	}
	if err := os.RemoveAll(d.path("acme")); err != nil {
		t.Fatal(err)
	}
	d.kill()
	undelete(t, b, "acme")
	d = startDaemon(t, t.TempDir(), store)
	if got := fileTree(t, d.path("acme")); len(got) != len(want) || got["up/2026/a"] != want["up/2026/a"] {
		t.Errorf("%q came back, want %q", got, want)
	}
	for _, p := range []string{"main.db", "up/second.db"} {
		if got := mounttest.SQL(t, d.path("acme", p), "select count(*) from t"); got != "1" {
			t.Errorf("%s holds %q", p, got)
		}
	}
	d.kill()
}

// TestBeginsAnew makes a tenant of the ID of one that was removed, also after an
// undelete of that was interrupted: nothing of the one before is to be seen, and
// its contents leave the bucket.
func TestBeginsAnew(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	m := boot(t, dir, b, volume.Options{ShipInterval: tick}, true)
	acme := m.MakeTenant(t, "acme")
	furnish(t, acme)
	m.WaitShipped(t, "acme")
	content := indexEntry(t, b, "acme", "up/b").Content
	if err := os.RemoveAll(acme); err != nil {
		t.Fatal(err)
	}
	// An undelete that ended before it wrote the record.
	files := tenant.NewFiles(b, "acme")
	x, err := files.Load(t.Context())
	if err != nil || len(x.Entries) > 0 || len(x.Trash) == 0 {
		t.Fatalf("%+v %v", x, err)
	}
	next := x.Next(record(t, b, "acme").Epoch + 1)
	for _, e := range x.Trash {
		e.Removed = time.Time{}
		next.Entries = append(next.Entries, e)
	}
	next.Trash = nil
	if err := files.Save(t.Context(), next); err != nil {
		t.Fatal(err)
	}

	if err := os.Mkdir(acme, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := fileTree(t, acme); len(got) > 0 {
		t.Errorf("the new tenant has %q", got)
	}
	s := backup.New(b, tenanttest.Registry(t, b, "m-undelete", "s-undelete", time.Now), time.Now)
	if _, err := s.Undelete(t.Context(), "acme", nil); !errors.Is(errors.Exist, err) {
		t.Errorf("it can still be undeleted: %v", err)
	}
	if err := os.WriteFile(filepath.Join(acme, "new"), []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	m.WaitShipped(t, "acme")
	if body, _, err := b.Get(t.Context(), tenant.ContentKey("acme", content)); !errors.Is(errors.NotExist, err) {
		if err == nil {
			body.Close()
		}
		t.Errorf("the content of a removed file: %v", err)
	}
	m.stop(t)
}
