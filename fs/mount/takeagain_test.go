package mount_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"atc/fs/bucket/faulty"
	"atc/fs/errors"
	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// TestTakenAgainAndAgain kills a machine that has commits which the bucket has
// not, and starts it again on the same folder several times without success: each
// run writes the record and gets no answer, or has the tenant and cannot read what
// else it needs. The epochs that this counts up are nobody else's, so that the
// commits are not taken for those of a machine that lost the tenant.
func TestTakenAgainAndAgain(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	m := boot(t, dir, b, volume.Options{}, true)
	db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
	mounttest.SQL(t, db, "create table t(a); insert into t values('shipped');")
	m.stop(t)
	d := startDaemon(t, dir, dir, shipNothing)
	mounttest.SQL(t, db, "insert into t values('not shipped');")
	d.kill()

	for _, fault := range []faulty.Fault{
		{Op: faulty.Put, Key: "*/tenant.json", After: errors.Unavailable},
		{Op: faulty.Get, Key: "*/files/index.json", Before: errors.Unavailable},
		{Op: faulty.Put, Key: "*/tenant.json", After: errors.Unavailable},
	} {
		away := faulty.Wrap(b)
		tried := away.Inject(fault)
		m := boot(t, dir, away, volume.Options{}, true)
		eventually(t, "it tries twice", func() bool { return tried.Hits() > 1 })
		// What it could release it does not: as if it were killed.
		away.Inject(faulty.Fault{Op: faulty.Put, Key: "*/tenant.json", Before: errors.Unavailable})
		tried.Remove()
		_ = m.halt(0)
	}
	m = boot(t, dir, b, volume.Options{ShipInterval: tick}, true)
	if got := mounttest.SQL(t, db, "select group_concat(a) from t"); got != "shipped,not shipped" {
		t.Errorf("the database holds %q", got)
	}
	if lost := m.Volume.Lost(); len(lost) > 0 {
		t.Errorf("reported as lost: %+v", lost)
	}
	m.stop(t)
	if got := state(t, b, "acme", "main.sqlite3", "select group_concat(a) from t"); got != "ok\nshipped,not shipped" {
		t.Errorf("the bucket holds %q", got)
	}
}

// TestOldCopyOfTheCache begins with a cache folder as it was before the machine
// went on with it, as on a disk that was put back to a snapshot: what it holds is
// not newer than the bucket, although nobody but this machine has had the tenant,
// and not even where a first attempt gets no answer.
func TestOldCopyOfTheCache(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	m := boot(t, dir, b, volume.Options{}, true)
	db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
	mounttest.SQL(t, db, "create table t(a); insert into t values('shipped');")
	m.stop(t)
	d := startDaemon(t, dir, dir, shipNothing)
	mounttest.SQL(t, db, "insert into t values('not shipped');")
	d.kill()
	cache, copied := filepath.Join(dir, "cache"), filepath.Join(dir, "copy")
	if out, err := exec.Command("cp", "-a", cache, copied).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	d = startDaemon(t, dir, dir, shipNothing, daemonEnv+"_COMMIT=1")
	mounttest.SQL(t, db, "insert into t values('later');")
	d.kill()
	if err := os.RemoveAll(cache); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(copied, cache); err != nil {
		t.Fatal(err)
	}

	away := faulty.Wrap(b)
	lost := away.Inject(faulty.Fault{Op: faulty.Put, Key: "*/tenant.json", After: errors.Unavailable})
	m = boot(t, dir, away, volume.Options{}, true)
	eventually(t, "it tries", func() bool { return lost.Hits() > 0 })
	away.Inject(faulty.Fault{Op: faulty.Put, Key: "*/tenant.json", Before: errors.Unavailable}) // as if it were killed
	lost.Remove()
	_ = m.halt(0)
	m = boot(t, dir, b, volume.Options{}, true)
	if got := mounttest.SQL(t, db, "select group_concat(a) from t"); got != "shipped,not shipped,later" {
		t.Errorf("the database holds %q", got)
	}
	if lost := m.Volume.Lost(); len(lost) != 1 || lost[0].Folder == "" {
		t.Errorf("the old copy is not kept aside: %+v", lost)
	}
	_ = m.halt(0) // it says so
}
