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

// Each story takes, loses or gives back a tenant at a bad moment.

// brief is a machine that others take for dead soon.
func brief() volume.Options {
	return volume.Options{ShipInterval: tick, Heartbeat: 100 * time.Millisecond, Lease: 400 * time.Millisecond}
}

// The lease lapses while a tenant, or a database of it, arrives; another machine
// takes it, and then the lease is valid again. What arrived must not be served.
func TestLapseWhileItArrives(t *testing.T) {
	for _, owned := range []bool{false, true} { // whether the tenant is ours already
		t.Run(fmt.Sprintf("owned %v", owned), func(t *testing.T) {
			plain := openBucket(t, t.TempDir())
			maker := boot(t, t.TempDir(), plain, volume.Options{}, true)
			mounttest.SQL(t, filepath.Join(maker.MakeTenant(t, "acme"), "main.sqlite3"), "create table t(a); insert into t values('of the maker');")
			maker.stop(t)

			b := faulty.Wrap(plain)
			first := boot(t, t.TempDir(), b, brief(), true)
			folder := filepath.Join(first.FS.Dir, "acme")
			block := faulty.Fault{Op: faulty.Get, Key: "tenants/acme/files*", Block: true}
			if owned {
				if err := os.Mkdir(filepath.Join(folder, "dir"), 0o755); err != nil {
					t.Fatal(err)
				}
				block.Op, block.Key = "", "tenants/acme/db/*"
			}
			arriving := b.Inject(block)
			type result struct {
				out string
				err error
			}
			read := make(chan result, 1)
			go func() {
				db := filepath.Join(folder, "main.sqlite3")
				if owned { // SQLite looks for a journal, too, and is refused that
					b, err := os.ReadFile(db)
					read <- result{fmt.Sprintf("%.15s", b), err}
					return
				}
				out, err := mounttest.TrySQL(db, "select group_concat(a) from t")
				read <- result{out, err}
			}()
			<-arriving.Reached()
			if !owned {
				eventually(t, "it is taken", func() bool { return record(t, plain, "acme").Owner != nil })
			}
			cut := b.Inject(faulty.Fault{Key: "machines/*", Before: errors.Unavailable})
			second := boot(t, t.TempDir(), plain, brief(), true)
			eventually(t, "another machine takes it", func() bool {
				_, err := mounttest.TrySQL(filepath.Join(second.FS.Dir, "acme", "main.sqlite3"), "insert into t values('newer')")
				return err == nil
			})
			cut.Remove()
			eventually(t, "the lease is valid again", func() bool {
				_, err := first.Volume.Create(t.Context(), "other")
				return err == nil || errors.Is(errors.Exist, err)
			})
			time.Sleep(200 * time.Millisecond) // whoever asks the record has asked
			arriving.Remove()
			if r := <-read; r.err == nil {
				t.Errorf("while another machine has it, this one reads %q", r.out)
			}
			second.stop(t)
			_ = first.halt(0)
		})
	}
}

// A tenant was taken, and then could not be laid out. Nobody asks for it again,
// and the machine goes on with others: it must not keep it.
func TestTakenAndNotServed(t *testing.T) {
	for _, kind := range []errors.Kind{errors.Unavailable, errors.Corrupt} {
		t.Run(kind.String(), func(t *testing.T) {
			plain := openBucket(t, t.TempDir())
			maker := boot(t, t.TempDir(), plain, volume.Options{}, true)
			mounttest.SQL(t, filepath.Join(maker.MakeTenant(t, "acme"), "main.sqlite3"), "create table t(a);")
			maker.stop(t)

			b := faulty.Wrap(plain)
			o := quick()
			o.Heartbeat, o.Lease = 100*time.Millisecond, 400*time.Millisecond
			first := boot(t, t.TempDir(), b, o, true)
			busy, err := os.Create(filepath.Join(first.MakeTenant(t, "busy"), "open")) // keeps the heartbeat going
			if err != nil {
				t.Fatal(err)
			}
			defer busy.Close()
			f := b.Inject(faulty.Fault{Op: faulty.Get, Key: "tenants/acme/files*", Before: kind})
			if out, err := mounttest.TrySQL(filepath.Join(first.FS.Dir, "acme", "main.sqlite3"), "select * from t"); err == nil {
				t.Errorf("it is served: %q", out)
			}
			if record(t, plain, "acme").Owner == nil {
				t.Fatal("it was not taken")
			}
			f.Remove()
			released(t, plain, "acme")
			busy.Close()
			first.stop(t)
		})
	}
}

// A tenant that was removed costs nothing any more: nothing is renewed for it.
func TestRemovedTenantIsLetGo(t *testing.T) {
	dir := t.TempDir()
	b := faulty.Wrap(openBucket(t, dir))
	m := boot(t, dir, b, brief(), true)
	folder := m.MakeTenant(t, "acme")
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
	renewals := b.Inject(faulty.Fault{Op: faulty.Put, Key: "machines/*", Latency: 1})
	last := -1
	eventually(t, "the heartbeat ends", func() bool {
		was := last
		last = renewals.Hits()
		time.Sleep(500 * time.Millisecond)
		return last == was
	})
	m.stop(t)
}

// The answer to a removal is lost: the folder is still there for its user, and
// what is put into it has to stay.
func TestRemovalWhoseAnswerIsLost(t *testing.T) {
	dir := t.TempDir()
	plain := openBucket(t, dir)
	b := faulty.Wrap(plain)
	m := boot(t, dir, b, volume.Options{ShipInterval: tick}, true)
	folder := m.MakeTenant(t, "acme")
	if err := os.Mkdir(filepath.Join(folder, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(folder, "dir")); err != nil {
		t.Fatal(err)
	}
	m.WaitShipped(t, "acme")
	f := b.Inject(faulty.Fault{Op: faulty.Put, Key: "tenants/acme/tenant.json", Times: 1, After: errors.Unavailable})
	if err := os.Remove(folder); err == nil {
		t.Skip("it was removed")
	}
	if f.Hits() != 1 || record(t, plain, "acme").Deleted.IsZero() {
		t.Fatal("the record does not say that it was removed")
	}
	mounttest.SQL(t, filepath.Join(folder, "main.sqlite3"), "create table t(a); insert into t values('kept');")
	m.stop(t)
	if got := state(t, plain, "acme", "main.sqlite3", "select a from t"); got != "ok\nkept" {
		t.Errorf("the bucket holds %q", got)
	}
}

// The answer to a release is lost, and another machine takes the tenant before
// the next try: nothing was lost, and nothing is reported.
func TestReleaseWhoseAnswerIsLost(t *testing.T) {
	dir := t.TempDir()
	plain := openBucket(t, dir)
	b := faulty.Wrap(plain)
	first := boot(t, dir, b, quick(), true)
	db := filepath.Join(first.MakeTenant(t, "acme"), "main.sqlite3")
	s := connect(t, db)
	s.exec("create table t(a); insert into t values('first');")
	first.WaitShipped(t, "acme")
	b.Inject(faulty.Fault{Op: faulty.Put, Key: "tenants/acme/tenant.json", Times: 1, After: errors.Unavailable})
	again := b.Inject(faulty.Fault{Op: faulty.Put, Key: "tenants/acme/tenant.json", Skip: 0, Times: 1, Block: true})
	s.leave()
	released(t, plain, "acme")
	<-again.Reached()
	second := boot(t, t.TempDir(), plain, volume.Options{}, true)
	mounttest.SQL(t, filepath.Join(second.FS.Dir, "acme", "main.sqlite3"), "insert into t values('second');")
	again.Remove()
	eventually(t, "the first has let go", func() bool { return len(first.Volume.Stat("acme").Tenants) == 0 })
	if lost := first.Volume.Lost(); len(lost) != 0 {
		t.Errorf("reported: %+v", lost)
	}
	second.stop(t)
	if got := mounttest.SQL(t, db, "select group_concat(a) from t"); got != "first,second" {
		t.Errorf("the first machine reads %q", got)
	}
	first.stop(t)
}

// A program has committed to the log of a tenant that was lost, and ends: what
// it committed is kept, however long it takes to look at its log.
func TestLostWhileItsLogIsRead(t *testing.T) {
	dir := t.TempDir()
	plain := openBucket(t, dir)
	b := faulty.Wrap(plain)
	first := boot(t, dir, b, brief(), true)
	db := filepath.Join(first.MakeTenant(t, "acme"), "main.sqlite3")
	s := connect(t, db)
	s.exec("pragma journal_mode=wal; pragma wal_autocheckpoint=0; pragma synchronous=normal; create table t(a, v); insert into t values('shipped', 1);")
	first.WaitShipped(t, "acme")
	cut := b.Inject(faulty.Fault{Before: errors.Unavailable})
	second := boot(t, t.TempDir(), plain, brief(), true)
	eventually(t, "another machine takes it", func() bool {
		_, err := mounttest.TrySQL(filepath.Join(second.FS.Dir, "acme", "main.sqlite3"), "select * from t")
		return err == nil
	})
	cut.Remove()
	eventually(t, "the first knows", func() bool {
		_, err := os.Open(db)
		return first.Volume.Take(t.Context(), "acme") != nil && err != nil
	})
	time.Sleep(300 * time.Millisecond)
	if out := s.exec("insert into t select 'late', zeroblob(1000000) from generate_series(1,150);"); out != "" {
		t.Fatal(out)
	}
	s.kill()
	// A busy machine takes its time to read 150 MB, and as long again to keep them.
	within(t, 3*time.Minute, "it is reported", func() bool { return len(first.Volume.Lost()) == 1 })
	lost := first.Volume.Lost()[0]
	if lost.Folder == "" || lost.Pages == 0 {
		t.Errorf("what was not shipped is not kept: %+v", lost)
	}
	second.stop(t)
	_ = first.halt(0)
}

// No process is started for a tenant of which nobody knows whose it is.
func TestTakeWithoutALease(t *testing.T) {
	dir := t.TempDir()
	b := faulty.Wrap(openBucket(t, dir))
	m := boot(t, dir, b, brief(), true)
	folder := m.MakeTenant(t, "acme")
	if err := os.Mkdir(filepath.Join(folder, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.WaitShipped(t, "acme")
	fenced := make(chan string, 16)
	m.Volume.OnFence(func(id string) { fenced <- id })
	cut := b.Inject(faulty.Fault{Before: errors.Unavailable})
	<-fenced
	if err := m.Volume.Take(t.Context(), "acme"); !errors.Is(errors.Unavailable, err) {
		t.Errorf("taken without a lease: %v", err)
	}
	cut.Remove()
	eventually(t, "it can be taken again", func() bool { return m.Volume.Take(t.Context(), "acme") == nil })
	m.stop(t)
}
