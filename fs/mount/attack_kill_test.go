package mount_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"atc/fs/bucket/faulty"
	"atc/fs/errors"
	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// Each story kills a daemon that has committed what the bucket does not hold,
// and starts another one on the same folders.

const shipNothing = daemonEnv + "_SHIP=1h"

// The application was in a transaction: its journal is hot when the next daemon
// starts, and what was committed before it is neither in the bucket nor in what
// the journal restores.
func TestKilledWithAHotJournal(t *testing.T) {
	for _, opened := range []bool{true, false} {
		t.Run(fmt.Sprintf("opened again %v", opened), func(t *testing.T) {
			dir := t.TempDir()
			b := openBucket(t, dir)
			m := boot(t, dir, b, volume.Options{}, true)
			db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
			mounttest.SQL(t, db, `create table t(i integer primary key, a, v);
				with recursive r(i) as (select 1 union all select i+1 from r where i<400) insert into t select i, 'first', randomblob(900) from r;`)
			m.stop(t)

			d := startDaemon(t, dir, dir, shipNothing)
			mounttest.SQL(t, db, "update t set a='committed' where i=1;")
			s := connect(t, db)
			s.exec("pragma cache_size=5; begin immediate; update t set a='in doubt' where i>200;")
			d.kill()
			s.kill()

			m = boot(t, dir, b, volume.Options{ShipInterval: tick, CloseAfter: tick}, true)
			eventually(t, "the database is taken up", func() bool {
				ts := m.Volume.Stat("acme").Tenants
				return len(ts) == 1 && len(ts[0].Databases) == 1 && ts[0].State == "open"
			})
			if opened {
				// An idle close may come or be refused.
				for until := time.Now().Add(time.Second); isOpen(m, "main.sqlite3") && time.Now().Before(until); time.Sleep(tick) {
				}
				mounttest.SQL(t, db, "update t set a='last' where i=2;")
				m.WaitShipped(t, "acme")
			}
			if err := m.halt(20 * time.Second); err != nil {
				t.Logf("closing says: %v", err)
				m = boot(t, dir, b, volume.Options{}, true)
				mounttest.SQL(t, db, "select count(*) from t")
				m.stop(t)
			}
			want := "ok\ncommitted,first,first,400"
			if opened {
				want = "ok\ncommitted,last,first,400"
			}
			got := state(t, b, "acme", "main.sqlite3", "select (select a from t where i=1)||','||(select a from t where i=2)||','||(select a from t where i=300)||','||count(*) from t")
			if got != want {
				t.Errorf("the bucket holds %.300q, want %q", got, want)
			}
		})
	}
}

// The log holds pages that were never fetched: SQLite does not read a page that
// it takes from its free list.
func TestKilledWithUnfetchedPagesInTheLog(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	m := boot(t, dir, b, volume.Options{}, true)
	db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
	mounttest.SQL(t, db, `pragma journal_mode=wal; create table t(i integer primary key, v); create table junk(v); create table big(v);
		insert into big select randomblob(4000000);
		with recursive r(i) as (select 1 union all select i+1 from r where i<3000) insert into junk select randomblob(900) from r;
		insert into big select randomblob(4000000); drop table junk;`)
	m.stop(t)

	other := t.TempDir()
	d := startDaemon(t, other, dir, shipNothing)
	s := connect(t, d.path("acme", "main.sqlite3"))
	s.exec(`pragma wal_autocheckpoint=0; with recursive r(i) as (select 1 union all select i+1 from r where i<1000) insert into t select i, randomblob(900) from r;`)
	want := s.exec("select count(*), sum(length(v)), (select sum(length(v)) from big) from t;")
	d.kill()
	s.kill()

	m = boot(t, other, b, volume.Options{HydrateAfter: -1}, true)
	db = filepath.Join(m.FS.Dir, "acme", "main.sqlite3")
	if got := mounttest.SQL(t, db, "select count(*), sum(length(v)), (select sum(length(v)) from big) from t;"); got != want {
		t.Errorf("the application reads %q, want %q", got, want)
	}
	m.stop(t)
	got := state(t, b, "acme", "main.sqlite3", "select count(*), sum(length(v)), (select sum(length(v)) from big) from t;")
	if got != "ok\n"+want {
		t.Errorf("the bucket holds %.300q, want %q", got, want)
	}
}

// The database was never opened before the kill, so that the next daemon has
// not even its header.
func TestKilledBeforeTheHeaderWasFetched(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	m := boot(t, dir, b, volume.Options{}, true)
	db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
	mounttest.SQL(t, db, `pragma journal_mode=wal; create table t(i integer primary key, a, v);
		with recursive r(i) as (select 1 union all select i+1 from r where i<100) insert into t select i, 'first', randomblob(900) from r;`)
	m.stop(t)

	other := t.TempDir()
	d := startDaemon(t, other, dir, shipNothing)
	if _, err := os.ReadDir(d.path("acme")); err != nil {
		t.Fatal(err)
	}
	d.kill()

	m = boot(t, other, b, volume.Options{HydrateAfter: -1}, true)
	db = filepath.Join(m.FS.Dir, "acme", "main.sqlite3")
	writer, reader := connect(t, db), connect(t, db)
	writer.exec("pragma wal_autocheckpoint=0; update t set a='second';")
	if d := m.Volume.Stat("acme").Tenants[0].Databases[0]; !d.WAL {
		t.Error("what a checkpoint writes is taken for a commit: the journal mode is not known")
	}
	reader.exec("begin; select count(*) from t;")
	writer.exec("update t set a='third';")
	m.Volume.Shipped("acme") // takes what the log holds now
	writer.exec("pragma wal_checkpoint(passive);")
	writer.kill()
	reader.kill()
	m.stop(t)
	if got := state(t, b, "acme", "main.sqlite3", "select distinct a from t"); got != "ok\nthird" {
		t.Errorf("the bucket holds %.300q", got)
	}
}

// The bucket fails while the tenant is taken up: commits that it does not hold
// are still the application's afterwards.
func TestKilledAndTheBucketFlaps(t *testing.T) {
	dir := t.TempDir()
	b := faulty.Wrap(openBucket(t, dir))
	m := boot(t, dir, b, volume.Options{}, true)
	db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
	mounttest.SQL(t, db, "create table t(a); insert into t values(1);")
	m.stop(t)

	d := startDaemon(t, dir, dir, shipNothing)
	mounttest.SQL(t, db, "insert into t values(2);")
	d.kill()

	b.Inject(faulty.Fault{Op: faulty.Get, Key: "*/files/index.json", Times: 3, Before: errors.Unavailable})
	m = boot(t, dir, b, volume.Options{}, true)
	var got string
	eventually(t, "the database can be read", func() bool {
		var err error
		got, err = mounttest.TrySQL(db, "select group_concat(a) from t")
		return err == nil
	})
	if got != "1,2" {
		t.Errorf("the application reads %q", got)
	}
	m.stop(t)
	if got := state(t, b, "acme", "main.sqlite3", "select group_concat(a) from t"); got != "ok\n1,2" {
		t.Errorf("the bucket holds %q", got)
	}
}

// A file takes the inode of a database that was removed, and nobody noted either
// before the kill.
func TestKilledAfterAnInodeWasUsedAgain(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	m := boot(t, dir, b, volume.Options{}, true)
	home := m.MakeTenant(t, "acme")
	db := filepath.Join(home, "main.sqlite3")
	mounttest.SQL(t, db, "create table t(a); insert into t values('of the database');")
	if err := os.WriteFile(filepath.Join(home, "other"), []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	m.stop(t)

	d := startDaemon(t, dir, dir, shipNothing)
	before, err := os.Stat(filepath.Join(dir, "cache/tenants/acme/tree/main.sqlite3"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(db); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "upload"), []byte("of the file"), 0o644); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(filepath.Join(dir, "cache/tenants/acme/tree/upload"))
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) {
		t.Log("this filesystem does not use inodes again at once")
	}
	d.kill()

	m = boot(t, dir, b, volume.Options{}, true)
	if _, err := os.ReadDir(home); err != nil {
		t.Fatal(err)
	}
	m.stop(t)
	m = boot(t, t.TempDir(), b, volume.Options{}, true)
	if got, err := os.ReadFile(filepath.Join(m.FS.Dir, "acme/upload")); err != nil || string(got) != "of the file" {
		t.Errorf("%.40q, %v", got, err)
	}
	m.stop(t)
}

// The killed daemon had stored no plain file, or no database, yet.
func TestKilledWithLittleThere(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	m := boot(t, dir, b, volume.Options{}, true)
	m.MakeTenant(t, "acme")
	m.stop(t)
	d := startDaemon(t, dir, dir, shipNothing)
	if err := os.WriteFile(d.path("acme", "file"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	d.kill()
	d = startDaemon(t, dir, dir, daemonEnv+"_SHIP=10ms") // in a process of its own, since it may die
	mounttest.SQL(t, d.path("acme", "main.sqlite3"), "create table t(a); insert into t values(1);")
	eventually(t, "both are in the bucket", func() bool {
		ltx, _ := filepath.Glob(filepath.Join(dir, "bucket/tenants/acme/db/*/0000/*.ltx"))
		files, _ := filepath.Glob(filepath.Join(dir, "bucket/tenants/acme/files/*"))
		return len(ltx) > 0 && len(files) > 1
	})
	d.kill()
}
