package mount_test

import (
	"path/filepath"
	"testing"

	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// TestBarrier has a machine take a tenant over and write nothing: the owner
// before cannot extend the history all the same, and learns that it has lost.
func TestBarrier(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	first := boot(t, dir, b, volume.Options{ShipInterval: tick}, true)
	db := filepath.Join(first.MakeTenant(t, "acme"), "main.sqlite3")
	mounttest.SQL(t, db, "create table t(a); insert into t values('of the first');")
	first.WaitShipped(t, "acme")

	second := boot(t, t.TempDir(), b, volume.Options{}, true)
	there := filepath.Join(second.FS.Dir, "acme", "main.sqlite3")
	if got := mounttest.SQL(t, there, "select a from t"); got != "of the first" {
		t.Errorf("the new owner reads %q", got)
	}
	// It may be acknowledged here, but never in the bucket.
	if out, err := mounttest.TrySQL(db, "insert into t values('too late');"); err != nil {
		t.Logf("the owner before: %v %s", err, out)
	}
	eventually(t, "the owner before is fenced", func() bool { return tenantState(first) == "fenced" })
	if _, err := mounttest.TrySQL(db, "select * from t"); err == nil {
		t.Error("the owner before still opens the database")
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
