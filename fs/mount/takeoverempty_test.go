package mount_test

import (
	"os"
	"path/filepath"
	"testing"

	"atc/fs/bucket/faulty"
	"atc/fs/errors"
	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// TestBarrierOfAnEmptyDatabase has a machine taken over from whose database is in
// the record and has no transaction in the bucket yet: its first one must not
// arrive behind the take-over and fence the new owner.
func TestBarrierOfAnEmptyDatabase(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	away := faulty.Wrap(b)
	cut := away.Inject(faulty.Fault{Op: faulty.Put, Key: "*.ltx", Before: errors.Unavailable})
	first := boot(t, dir, away, sure(volume.Options{ShipInterval: tick}), true)
	mounttest.SQL(t, filepath.Join(first.MakeTenant(t, "acme"), "main.sqlite3"), "create table t(a); insert into t values('of the first');")
	eventually(t, "the record names the database", func() bool { return cut.Hits() > 0 })

	second := boot(t, t.TempDir(), b, volume.Options{ShipInterval: tick}, true)
	disown(t, b, first)
	there := filepath.Join(second.FS.Dir, "acme", "main.sqlite3")
	if got := mounttest.SQL(t, there, "pragma integrity_check; select count(*) from sqlite_schema"); got != "ok\n0" {
		t.Errorf("the new owner reads %q", got)
	}
	cut.Remove()
	eventually(t, "the owner before is fenced", func() bool { return len(first.Volume.Lost()) == 1 })
	mounttest.SQL(t, there, "create table t(a); insert into t values('of the second');")
	second.WaitShipped(t, "acme")
	if err := second.halt(0); err != nil {
		t.Errorf("the owner: %v", err)
	}
	if got := state(t, b, "acme", "main.sqlite3", "select group_concat(a) from t"); got != "ok\nof the second" {
		t.Errorf("the bucket holds %q", got)
	}
	copied := mounttest.LitestreamRestore(t, "file://"+filepath.Join(dir, "bucket"), "acme", "main.sqlite3")
	if got := mounttest.SQL(t, copied, "select group_concat(a) from t"); got != "of the second" {
		t.Errorf("litestream's copy holds %q", got)
	}
}

// TestTakenOverBeforeTheFileIndexFollowed has a database that the file index
// still calls an empty file, since its owner was killed before it wrote that
// anew.
func TestTakenOverBeforeTheFileIndexFollowed(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	away := faulty.Wrap(b)
	first := boot(t, dir, away, sure(volume.Options{ShipInterval: tick}), true)
	db := filepath.Join(first.MakeTenant(t, "acme"), "main.sqlite3")
	if err := os.WriteFile(db, nil, 0o644); err != nil { // as `touch` does
		t.Fatal(err)
	}
	first.WaitShipped(t, "acme")
	stale := away.Inject(faulty.Fault{Op: faulty.Put, Key: "*/files/index.json", Before: errors.Unavailable})
	mounttest.SQL(t, db, "create table t(a); insert into t values(1);")
	eventually(t, "the database is shipped", func() bool {
		ts := first.Volume.Stat("acme").Tenants
		return len(ts[0].Databases) == 1 && ts[0].Databases[0].TXID > 0 && ts[0].Databases[0].PendingPages == 0
	})
	dead := away.Inject(faulty.Fault{Before: errors.Unavailable})
	disown(t, b, first)
	if got := state(t, b, "acme", "main.sqlite3", "select a from t"); got != "ok\n1" {
		t.Errorf("the bucket holds %q", got)
	}
	stale.Remove()
	dead.Remove()
	if err := first.halt(0); err == nil {
		t.Error("the owner before does not notice")
	}
}
