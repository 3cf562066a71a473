package mount_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/bucket/faulty"
	"atc/fs/errors"
	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

const tick = 10 * time.Millisecond

// tenantState is "open" or "fenced".
func tenantState(m *machine) string {
	ts := m.Volume.Stat("acme").Tenants
	if len(ts) == 0 {
		return "?"
	}
	return ts[0].State
}

func isOpen(m *machine, path string) bool {
	for _, d := range m.Volume.Stat("acme").Tenants[0].Databases {
		if d.Path == path {
			return d.Open
		}
	}
	return false
}

// A request of an idle close fails: the database is the same afterwards.
func TestIdleCloseFails(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault faulty.Fault
	}{
		{"index not written", faulty.Fault{Op: faulty.Put, Key: "*.head", Times: 1, Before: errors.Unavailable}},
		{"answer lost", faulty.Fault{Op: faulty.Put, Key: "*.head", Times: 1, After: errors.Unavailable}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			b := faulty.Wrap(openBucket(t, dir))
			fault := b.Inject(c.fault)
			m := boot(t, dir, b, volume.Options{ShipInterval: tick, CloseAfter: tick}, true)
			db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
			mounttest.SQL(t, db, "create table t(a); insert into t values(1);")
			eventually(t, "the close that fails", func() bool { return fault.Hits() > 0 })
			eventually(t, "the database is closed", func() bool { return !isOpen(m, "main.sqlite3") })
			mounttest.SQL(t, db, "insert into t values(2);")
			m.WaitShipped(t, "acme")
			if s := tenantState(m); s != "open" {
				t.Errorf("the tenant is %s", s)
			}
			m.stop(t)
			if got := state(t, b, "acme", "main.sqlite3", "select group_concat(a) from t"); got != "ok\n1,2" {
				t.Errorf("the bucket holds %q", got)
			}
		})
	}
}

// A write whose answer is lost did take place: what follows must not take its
// own write for another machine's.
func TestLostAnswers(t *testing.T) {
	for _, key := range []string{"tenants/*/tenant.json", "tenants/*/files/index.json", "*.ltx", "*"} {
		t.Run(strings.NewReplacer("/", "_", "*", "x").Replace(key), func(t *testing.T) {
			dir := t.TempDir()
			b := faulty.Wrap(openBucket(t, dir))
			m := boot(t, dir, b, volume.Options{ShipInterval: tick}, true)
			home := m.MakeTenant(t, "acme")
			mounttest.SQL(t, filepath.Join(home, "one.db"), "create table t(a);")
			m.WaitShipped(t, "acme")
			lost := b.Inject(faulty.Fault{Op: faulty.Put, Key: key, After: errors.Unavailable})
			mounttest.SQL(t, filepath.Join(home, "two.db"), "create table t(a);")
			if err := os.WriteFile(filepath.Join(home, "first.txt"), []byte("first"), 0o644); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the lost answer", func() bool { return lost.Hits() > 0 })
			// The next attempt says something else.
			if err := os.WriteFile(filepath.Join(home, "second.txt"), []byte("second"), 0o644); err != nil {
				t.Fatal(err)
			}
			if out, err := mounttest.TrySQL(filepath.Join(home, "three.db"), "create table t(a); insert into t values(3);"); err != nil {
				t.Errorf("SQLite: %v %s", err, out)
			}
			lost.Remove()
			eventually(t, "shipped, or fenced", func() bool { return m.Volume.Shipped("acme") || tenantState(m) == "fenced" })
			if s := tenantState(m); s != "open" {
				t.Errorf("the tenant is %s, though nobody else wanted it", s)
			}
			if err := m.halt(20 * time.Second); err != nil {
				t.Error(err)
			}
		})
	}
}

// A file that is moved while files are shipped is still there.
func TestRenameWhileFilesAreShipped(t *testing.T) {
	dir := t.TempDir()
	b := faulty.Wrap(openBucket(t, dir))
	m := boot(t, dir, b, volume.Options{ShipInterval: tick}, true)
	home := m.MakeTenant(t, "acme")
	for _, d := range []string{"a", "z"} {
		if err := os.Mkdir(filepath.Join(home, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(home, "z/upload"), []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	m.WaitShipped(t, "acme")

	slow := b.Inject(faulty.Fault{Op: faulty.Put, Key: "tenants/acme/files/*", Times: 1, Block: true})
	if err := os.WriteFile(filepath.Join(home, "m"), []byte("on its way"), 0o644); err != nil {
		t.Fatal(err)
	}
	<-slow.Reached()
	if err := os.Rename(filepath.Join(home, "z/upload"), filepath.Join(home, "a/upload")); err != nil {
		t.Fatal(err)
	}
	slow.Release()
	m.WaitShipped(t, "acme")
	m.stop(t)

	m = boot(t, t.TempDir(), b, volume.Options{}, true)
	got, err := os.ReadFile(filepath.Join(m.FS.Dir, "acme/a/upload"))
	if err != nil || string(got) != "precious" {
		t.Errorf("%q, %v", got, err)
	}
	m.stop(t)
}

// A machine takes over while the owner before is still writing files: the new
// owner keeps the tenant.
func TestTakeOverFromAnOwnerThatIsAlive(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	first := boot(t, dir, b, sure(volume.Options{ShipInterval: tick}), true)
	home := first.MakeTenant(t, "acme")
	mounttest.SQL(t, filepath.Join(home, "main.sqlite3"), "create table t(a); insert into t values(1);")
	first.WaitShipped(t, "acme")

	second := boot(t, t.TempDir(), b, volume.Options{}, true)
	there := filepath.Join(second.FS.Dir, "acme")
	disown(t, b, first)
	mounttest.SQL(t, filepath.Join(there, "main.sqlite3"), "insert into t values(2);")
	if err := os.WriteFile(filepath.Join(home, "late.txt"), []byte("late"), 0o644); err != nil {
		t.Errorf("the owner before: %v", err)
	}
	eventually(t, "the owner before is fenced", func() bool { return len(first.Volume.Lost()) == 1 })
	if err := second.halt(20 * time.Second); err != nil {
		t.Errorf("the owner: %v", err)
	}
	if got := state(t, b, "acme", "main.sqlite3", "select group_concat(a) from t"); got != "ok\n1,2" {
		t.Errorf("the bucket holds %q", got)
	}
	if err := first.halt(20 * time.Second); err == nil {
		t.Error("the owner before does not notice")
	}
}

// A folder is renamed while a database in it is being opened.
func TestRenameWhileADatabaseOpens(t *testing.T) {
	dir := t.TempDir()
	b := faulty.Wrap(openBucket(t, dir))
	m := boot(t, dir, b, volume.Options{}, true)
	home := m.MakeTenant(t, "acme")
	if err := os.Mkdir(filepath.Join(home, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	mounttest.SQL(t, filepath.Join(home, "d/main.sqlite3"), "pragma journal_mode=wal; create table t(a); insert into t values(1);")
	m.stop(t)

	m = boot(t, t.TempDir(), b, volume.Options{ShipInterval: tick}, true)
	home = filepath.Join(m.FS.Dir, "acme")
	slow := b.Inject(faulty.Fault{Op: faulty.GetRange, Key: "*.head", Times: 1, Block: true})
	opened := make(chan error, 1)
	go func() {
		f, err := os.Open(filepath.Join(home, "d/main.sqlite3"))
		if err == nil {
			f.Close()
		}
		opened <- err
	}()
	<-slow.Reached()
	if err := os.Rename(filepath.Join(home, "d"), filepath.Join(home, "e")); err != nil {
		t.Fatal(err)
	}
	slow.Release()
	<-opened
	s := connect(t, filepath.Join(home, "e/main.sqlite3"))
	s.exec("insert into t values(2);")
	s.kill() // without a checkpoint: the commit is in the log only
	m.WaitShipped(t, "acme")
	m.stop(t)
	if got := state(t, b, "acme", "e/main.sqlite3", "select group_concat(a) from t"); got != "ok\n1,2" {
		t.Errorf("the bucket holds %q", got)
	}
}

// Names that only look as if they belonged to a database, or that no JSON can
// hold, come back as they were.
func TestOddNamesComeBack(t *testing.T) {
	for _, c := range []struct {
		name  string
		files []string
	}{
		{"sidecar of a plain file", []string{"travel", "travel-journal", "notes-wal", "x-shm"}},
		{"Latin-1", []string{"caf\xe9.txt"}},
		{"two that JSON makes one", []string{"caf\xe8.txt", "caf\xe9.txt"}},
		{"control characters", []string{"a\nb", "tab\t", "quote\"", "<&>\u2028"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			b := openBucket(t, dir)
			m := boot(t, dir, b, volume.Options{}, true)
			home := m.MakeTenant(t, "acme")
			var made []string
			for _, name := range c.files {
				err := os.WriteFile(filepath.Join(home, name), []byte("content of "+name), 0o644)
				if err != nil {
					t.Logf("%q is refused: %v", name, err)
					continue
				}
				made = append(made, name)
			}
			m.stop(t)
			m = boot(t, t.TempDir(), b, volume.Options{}, true)
			for _, name := range made {
				got, err := os.ReadFile(filepath.Join(m.FS.Dir, "acme", name))
				if err != nil || string(got) != "content of "+name {
					t.Errorf("%q: %q, %v", name, got, err)
				}
			}
			m.stop(t)
		})
	}
}

// What the bucket holds cannot make the daemon write outside of the tenant.
func TestIndexCannotLeaveTheTree(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	b := openBucket(t, dir)
	m := boot(t, dir, b, volume.Options{}, true)
	m.MakeTenant(t, "acme")
	m.stop(t)
	index := `{"epoch":1,"entries":[{"path":"a","kind":"symlink","mode":511,"target":"` + outside + `"},{"path":"a/planted","kind":"file","mode":420,"size":5}]}`
	if _, err := b.Put(t.Context(), "tenants/acme/files/index.json", bytes.NewReader([]byte(index)), bucket.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	m = boot(t, t.TempDir(), b, volume.Options{}, true)
	_, err := os.ReadDir(filepath.Join(m.FS.Dir, "acme"))
	t.Logf("opening the tenant: %v", err)
	if planted, _ := os.ReadDir(outside); len(planted) > 0 {
		t.Errorf("%s has appeared outside", planted[0].Name())
	}
	m.halt(20 * time.Second)
}

// The bucket answers no range reads at the end, so that pages cannot be compared
// with it: then the tenant is not released as if all was shipped.
func TestCannotCompareAtTheEnd(t *testing.T) {
	dir := t.TempDir()
	b := faulty.Wrap(openBucket(t, dir))
	m := boot(t, dir, b, volume.Options{}, true)
	db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
	mounttest.SQL(t, db, "pragma page_size=512; create table t(a); create table big as select zeroblob(3000000); pragma journal_mode=wal;")
	m.stop(t)

	m = boot(t, dir, b, volume.Options{}, true)
	s := connect(t, db)
	s.exec("pragma synchronous=off; pragma wal_autocheckpoint=0; insert into t values(1);")
	m.Volume.Shipped("acme")
	s.exec("insert into t values(2); pragma wal_checkpoint(restart); insert into t values(3);")
	m.Volume.Shipped("acme")
	away := b.Inject(faulty.Fault{Op: faulty.GetRange, Before: errors.Unavailable})
	s.leave()
	err := m.halt(20 * time.Second)
	away.Remove()
	if away.Hits() == 0 {
		t.Fatal("nothing was compared")
	}
	if err != nil {
		t.Logf("closing says: %v", err)
		m = boot(t, dir, b, volume.Options{}, true)
		mounttest.SQL(t, db, "select * from t")
		m.stop(t)
	}
	if got := state(t, b, "acme", "main.sqlite3", "select group_concat(a) from t"); got != "ok\n1,2,3" {
		t.Errorf("the bucket holds %q", got)
	}
}

// One page cannot be fetched: commits and questions about other pages go on.
func TestCommitsGoOnWhileAPageIsFetched(t *testing.T) {
	dir := t.TempDir()
	b := faulty.Wrap(openBucket(t, dir))
	m := boot(t, dir, b, volume.Options{}, true)
	db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
	mounttest.SQL(t, db, `pragma page_size=512; pragma journal_mode=wal; create table w(a); create table t(i integer primary key, a);
		with recursive r(i) as (select 1 union all select i+1 from r where i<20000) insert into t select i, randomblob(400) from r;`)
	m.stop(t)

	m = boot(t, t.TempDir(), b, volume.Options{HydrateAfter: -1, ShipInterval: tick}, true)
	db = filepath.Join(m.FS.Dir, "acme", "main.sqlite3")
	writer := connect(t, db)
	writer.exec("pragma synchronous=full; insert into w values(1);")
	away := b.Inject(faulty.Fault{Op: faulty.GetRange, Block: true})
	reader := connect(t, db)
	read := make(chan struct{})
	go func() {
		defer close(read)
		reader.exec("select sum(length(a)) from t where i between 15000 and 15010;")
	}()
	<-away.Reached()
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		writer.exec("insert into w values(2);")
		m.Volume.Stat("acme")
	}()
	select {
	case <-wrote:
	case <-time.After(5 * time.Second):
		t.Error("a commit waits for another page")
	}
	away.Remove()
	<-read
	<-wrote
	writer.leave()
	reader.leave()
	m.stop(t)
}
