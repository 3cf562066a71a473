package mount_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// A program that does not end in time is cut off, and the tenant is released
// all the same: what was committed must be what the next machine finds.
func TestReleaseWithFilesStillOpen(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	m := boot(t, dir, b, volume.Options{}, true)
	db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
	mounttest.SQL(t, db, "pragma journal_mode=wal; create table t(a); insert into t values(1);")
	m.stop(t)

	m = boot(t, dir, b, volume.Options{ShipInterval: 20 * time.Millisecond}, true)
	s := connect(t, db)
	s.exec("insert into t values(2);")
	m.WaitShipped(t, "acme")
	if err := m.halt(0); err != nil {
		t.Logf("closing says: %v", err)
	}
	if got := state(t, b, "acme", "main.sqlite3", "select group_concat(a) from t"); got != "ok\n1,2" {
		t.Errorf("the next machine finds %q", got)
	}
}

// Unmount ends although a program does not.
func TestUnmountWithFilesStillOpen(t *testing.T) {
	m := boot(t, t.TempDir(), openBucket(t, t.TempDir()), volume.Options{}, true)
	db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
	s := connect(t, db)
	s.exec("pragma journal_mode=wal; create table t(a);")
	ended := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		ended <- m.Mount.Unmount(ctx)
	}()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it hangs while a file is open")
		s.kill()
		<-ended
	}
}

// What is read through the daemon after a time of passthrough must not come
// from what the kernel had cached before.
func TestCachedAfterPassthrough(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	m := boot(t, dir, b, volume.Options{}, true)
	db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
	mounttest.SQL(t, db, "pragma journal_mode=wal; create table t(a); insert into t values('old'); create table big as select zeroblob(6000000);")
	m.stop(t)

	m = boot(t, t.TempDir(), b, volume.Options{}, true)
	db = filepath.Join(m.FS.Dir, "acme", "main.sqlite3")
	mounttest.SQL(t, db, "pragma integrity_check") // through the daemon, since pages are missing
	mounttest.SQL(t, db, "pragma journal_mode=delete; update t set a='new';")
	if got := mounttest.SQL(t, db, "pragma integrity_check; select a from t; pragma journal_mode;"); got != "ok\nnew\ndelete" {
		t.Errorf("the application reads %q", got)
	}
	m.stop(t)
	if got := state(t, b, "acme", "main.sqlite3", "select a from t"); got != "ok\nnew" {
		t.Errorf("the bucket holds %q", got)
	}
}

// In passthrough the daemon sees no write, and with a journal in memory no file
// ends either.
func TestJournalInMemoryWhilePassedThrough(t *testing.T) {
	for _, mode := range []string{"memory", "off"} {
		t.Run(mode, func(t *testing.T) {
			dir := t.TempDir()
			b := openBucket(t, dir)
			m := boot(t, dir, b, volume.Options{}, true)
			db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
			mounttest.SQL(t, db, "pragma journal_mode=wal; create table t(a); insert into t values(1);")
			mounttest.SQL(t, db, "pragma journal_mode="+mode+"; insert into t values(2);")
			m.stop(t)
			if got := state(t, b, "acme", "main.sqlite3", "select group_concat(a) from t"); got != "ok\n1,2" {
				t.Errorf("the bucket holds %q", got)
			}
		})
	}
}

// A database that shrinks and grows back to the very pages that the bucket knows
// while nothing is shipped.
func TestShrinkAndGrowBackUnseen(t *testing.T) {
	const rows = "with recursive r(i) as (select 101 union all select i+1 from r where i<400) insert into t select i, printf('%01000d', i) from r;"
	dir := t.TempDir()
	b := openBucket(t, dir)
	m := boot(t, dir, b, volume.Options{}, true)
	db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
	mounttest.SQL(t, db, `create table t(i integer primary key, v);
		with recursive r(i) as (select 1 union all select i+1 from r where i<100) insert into t select i, printf('%01000d', i) from r;`+
		rows+"vacuum; pragma journal_mode=wal;")
	m.stop(t)

	m = boot(t, dir, b, volume.Options{}, true)
	s := connect(t, db)
	s.exec("pragma journal_mode=delete;")
	s.exec("delete from t where i>100; vacuum; pragma user_version=1;") // the file is cut behind the commit of a vacuum
	s.exec(rows)
	want := s.exec("pragma integrity_check; select count(*), sum(i), sum(length(v)), sum(cast(v as integer)) from t;")
	s.leave()
	m.stop(t)
	if got := state(t, b, "acme", "main.sqlite3", "select count(*), sum(i), sum(length(v)), sum(cast(v as integer)) from t"); got != want {
		t.Errorf("the bucket holds %.200q, want %q", got, want)
	}
}

// synchronous=OFF: logs restart without any sync, also the first one, before
// anything was looked at.
func TestLogRestartsUnseen(t *testing.T) {
	for _, c := range []struct{ name, before string }{
		{"new", ""},
		{"after a sync", "pragma synchronous=normal; insert into t values(randomblob(900)); pragma wal_checkpoint;"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			b := openBucket(t, dir)
			m := boot(t, dir, b, volume.Options{}, true)
			db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
			s := connect(t, db)
			s.exec("pragma journal_mode=wal; create table t(a);" + c.before)
			s.exec("pragma synchronous=off; pragma wal_autocheckpoint=0;")
			s.exec("with recursive r(i) as (select 1 union all select i+1 from r where i<300) insert into t select randomblob(900) from r; pragma wal_checkpoint(restart);")
			s.exec("update t set a=randomblob(901) where rowid<20;")
			if !m.Volume.Shipped("acme") { // looks at the log now
				t.Log("not shipped yet, as it should be")
			}
			want := s.exec("pragma integrity_check; select count(*), sum(length(a)) from t;")
			s.leave()
			m.stop(t)
			if got := state(t, b, "acme", "main.sqlite3", "select count(*), sum(length(a)) from t"); got != want {
				t.Errorf("the bucket holds %.200q, want %q", got, want)
			}
		})
	}
}

// A temporary database has no name: SQLite removes it before it writes to it.
func TestTemporaryDatabaseInsideTheTenant(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	m := boot(t, dir, b, volume.Options{}, true)
	home := m.MakeTenant(t, "acme")
	s := connect(t, filepath.Join(home, "main.sqlite3"), "SQLITE_TMPDIR="+home)
	got := s.exec(`pragma temp_store=file; pragma cache_size=10; pragma temp.cache_size=10; create table t(a);
		with recursive r(i) as (select 1 union all select i+1 from r where i<2000) insert into t select randomblob(900) from r;
		create temp table big as select * from t; select count(*) from big; vacuum; select count(*) from t;`)
	if got != "2000\n2000" {
		t.Errorf("SQLite says %q", got)
	}
	s.leave()
	for _, d := range m.Volume.Stat("acme").Tenants[0].Databases {
		if d.Path != "main.sqlite3" {
			t.Errorf("database %q has appeared", d.Path)
		}
	}
	m.stop(t)
}

// A program that copies another file over a database that is in use writes past
// its log, as SQLite's superlock tests do.
func TestOverwrittenWhileTheLogIsInUse(t *testing.T) {
	for _, passthrough := range []bool{true, false} {
		dir := t.TempDir()
		b := openBucket(t, dir)
		m := boot(t, dir, b, volume.Options{}, passthrough)
		home := m.MakeTenant(t, "acme")
		db := filepath.Join(home, "main.sqlite3")
		mounttest.SQL(t, db, "pragma journal_mode=wal; create table t(a); insert into t values('old');")
		other := filepath.Join(dir, "other.sqlite3")
		mounttest.SQL(t, other, "pragma journal_mode=wal; create table t(a); insert into t values('new');")
		content, err := os.ReadFile(other)
		if err != nil {
			t.Fatal(err)
		}
		s := connect(t, db)
		s.exec("select a from t;") // opens the log
		if err := os.WriteFile(db, content, 0o644); err != nil {
			t.Fatal(err)
		}
		s.leave()
		m.stop(t)
		if got := state(t, b, "acme", "main.sqlite3", "select a from t"); got != "ok\nnew" {
			t.Errorf("passthrough %v: the bucket holds %q", passthrough, got)
		}
	}
}

// A log that does not belong to its database can be removed, as any file.
func TestLogOfAnotherPageSize(t *testing.T) {
	for _, passthrough := range []bool{true, false} {
		dir := t.TempDir()
		b := openBucket(t, dir)
		m := boot(t, dir, b, volume.Options{}, passthrough)
		home := m.MakeTenant(t, "acme")
		db, other := filepath.Join(home, "main.sqlite3"), filepath.Join(dir, "other.sqlite3")
		s := connect(t, other)
		s.exec("pragma page_size=512; pragma journal_mode=wal; create table t(a);")
		log, err := os.ReadFile(other + "-wal")
		if err != nil || len(log) == 0 {
			t.Fatalf("a log of %d bytes, %v", len(log), err)
		}
		mounttest.SQL(t, db, "create table t(a); insert into t values(1);")
		if err := os.WriteFile(db+"-wal", log, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(db + "-wal"); err != nil {
			t.Errorf("passthrough %v: %v", passthrough, err)
		}
		mounttest.SQL(t, db, "insert into t values(2);")
		m.stop(t)
		if got := state(t, b, "acme", "main.sqlite3", "select group_concat(a) from t"); got != "ok\n1,2" {
			t.Errorf("passthrough %v: the bucket holds %q", passthrough, got)
		}
	}
}
