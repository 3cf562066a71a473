package mount_test

import (
	stderrors "errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/bucket/faulty"
	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// TestBarrier has a machine take a tenant over and write nothing: the owner
// before cannot extend the history all the same, and learns that it has lost.
func TestBarrier(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	first := boot(t, dir, b, sure(volume.Options{ShipInterval: tick}), true)
	db := filepath.Join(first.MakeTenant(t, "acme"), "main.sqlite3")
	mounttest.SQL(t, db, "create table t(a); insert into t values('of the first');")
	first.WaitShipped(t, "acme")

	second := boot(t, t.TempDir(), b, volume.Options{}, true)
	disown(t, b, first)
	there := filepath.Join(second.FS.Dir, "acme", "main.sqlite3")
	if got := mounttest.SQL(t, there, "select a from t"); got != "of the first" {
		t.Errorf("the new owner reads %q", got)
	}
	// It may be acknowledged here, but never in the bucket.
	out, late := mounttest.TrySQL(db, "insert into t values('too late');")
	if late != nil {
		t.Logf("the owner before: %v %s", late, out)
	}
	eventually(t, "the owner before is fenced", func() bool { return len(first.Volume.Lost()) == 1 })
	if out, err := mounttest.TrySQL(db, "select * from t"); err == nil {
		t.Errorf("the owner before still opens the database: %s", out)
	}
	if lost := first.Volume.Lost()[0]; lost.Folder == "" || late == nil && lost.Pages == 0 {
		t.Errorf("what was not shipped is not kept: %+v", lost)
	}
	mounttest.SQL(t, there, "insert into t values('of the second');")
	if err := second.halt(0); err != nil {
		t.Errorf("the owner: %v", err)
	}
	if err := first.halt(0); err == nil {
		t.Error("the owner before closes as if nothing had been lost")
	}
	if got := state(t, b, "acme", "main.sqlite3", "select group_concat(a) from t"); got != "ok\nof the first,of the second" {
		t.Errorf("the bucket holds %q", got)
	}
}

// TestLeaseLapses cuts a machine off from the bucket for longer than its lease:
// it serves nothing meanwhile, goes on where nobody has come, and keeps what it
// had not shipped where somebody has.
func TestLeaseLapses(t *testing.T) {
	for _, taken := range []bool{false, true} {
		t.Run(fmt.Sprintf("taken %v", taken), func(t *testing.T) {
			dir := t.TempDir()
			plain := openBucket(t, dir)
			b := faulty.Wrap(plain)
			short := volume.Options{ShipInterval: tick, Heartbeat: 100 * time.Millisecond, Lease: 400 * time.Millisecond}
			first := boot(t, dir, b, short, true)
			ended := make(chan string, 16)
			first.Volume.OnFence(func(id string) { ended <- id })
			db := filepath.Join(first.MakeTenant(t, "acme"), "main.sqlite3")
			s := connect(t, db)
			s.exec("pragma journal_mode=wal; create table t(a); insert into t values('shipped');")
			first.WaitShipped(t, "acme")

			cut := b.Inject(faulty.Fault{Before: errors.Unavailable})
			s.exec("insert into t values('not shipped');")
			if id := <-ended; id != "acme" {
				t.Errorf("the processes of %q are ended", id)
			}
			if _, err := mounttest.TrySQL(db, "select * from t"); err == nil {
				t.Error("it is still opened")
			}
			if out := s.exec("pragma wal_checkpoint;"); !strings.Contains(out, "rror") {
				t.Errorf("it is still synced: %q", out)
			}
			want := "ok\nshipped,not shipped,last"
			if taken {
				want = "ok\nshipped,last"
				second := boot(t, t.TempDir(), plain, short, true)
				there := filepath.Join(second.FS.Dir, "acme", "main.sqlite3")
				eventually(t, "the second machine gets it", func() bool {
					_, err := mounttest.TrySQL(there, "insert into t values('last')")
					return err == nil
				})
				second.stop(t)
				cut.Remove()
				s.leave()
				eventually(t, "the first knows", func() bool { return len(first.Volume.Lost()) == 1 })
				if lost := first.Volume.Lost()[0]; lost.Pages == 0 || lost.Folder == "" {
					t.Errorf("what was not shipped is not kept: %+v", lost)
				}
				if kept := salvaged(t, plain, "acme"); len(kept) != 1 {
					t.Errorf("the bucket has %v of what was not shipped", kept)
				}
				// It is an ordinary machine again.
				eventually(t, "it can be used again", func() bool {
					got, err := mounttest.TrySQL(db, "select group_concat(a) from t")
					return err == nil && got == "shipped,last"
				})
				if err := first.halt(20 * time.Second); err == nil {
					t.Error("it does not say that something was lost")
				}
			} else {
				cut.Remove()
				eventually(t, "it is served again", func() bool {
					_, err := mounttest.TrySQL(db, "insert into t values('last')")
					return err == nil
				})
				s.leave()
				first.stop(t)
			}
			if got := state(t, plain, "acme", "main.sqlite3", "select group_concat(a) from t"); got != want {
				t.Errorf("the bucket holds %q", got)
			}
		})
	}
}

// salvaged reads the transactions that a machine could not ship.
func salvaged(t testing.TB, b bucket.Bucket, id string) (commits []history.Commit) {
	t.Helper()
	for e, err := range b.List(t.Context(), "tenants/"+id+"/lost/", bucket.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		body, info, err := b.Get(t.Context(), e.Key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := history.Decode(body, info.Size, func(history.Page, history.Place) error { return nil })
		body.Close()
		if err != nil {
			t.Errorf("%s: %v", e.Key, err)
		}
		commits = append(commits, c)
	}
	return commits
}

// TestOnlyTheOwnerOpens has a machine look at what another one owns: it may be
// listed, but not opened, and the log says who has it.
func TestOnlyTheOwnerOpens(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	first := boot(t, dir, b, volume.Options{ShipInterval: tick}, true)
	db := filepath.Join(first.MakeTenant(t, "acme"), "main.sqlite3")
	mounttest.SQL(t, db, "create table t(a);")
	first.WaitShipped(t, "acme")

	second := boot(t, t.TempDir(), b, volume.Options{}, true)
	if entries, err := os.ReadDir(filepath.Join(second.FS.Dir, "acme")); err != nil || len(entries) != 1 {
		t.Errorf("it shows %v, %v", entries, err)
	}
	for _, flags := range []int{os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREATE} {
		f, err := os.OpenFile(filepath.Join(second.FS.Dir, "acme", "main.sqlite3"), flags, 0o644)
		if !stderrors.Is(err, syscall.EBUSY) {
			t.Errorf("opening with %#x: %v", flags, err)
			f.Close()
		}
	}
	if err := os.Mkdir(filepath.Join(second.FS.Dir, "acme", "dir"), 0o755); !stderrors.Is(err, syscall.EBUSY) {
		t.Errorf("making a folder: %v", err)
	}
	second.stop(t)
	first.stop(t)
}
