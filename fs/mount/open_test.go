package mount_test

import (
	"path/filepath"
	"testing"

	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// TestCommitsAreShippedWhileOpen keeps a connection open, as a server does: each
// commit is in the bucket within the ship interval, not when the last handle is
// closed, and none that was rolled back.
func TestCommitsAreShippedWhileOpen(t *testing.T) {
	for _, mode := range []string{"wal", "delete", "truncate", "persist", "memory"} {
		for _, daemon := range []bool{false, true} {
			name := mode + "/passthrough"
			if daemon {
				name = mode + "/daemon"
			}
			t.Run(name, func(t *testing.T) {
				dir := t.TempDir()
				b := openBucket(t, dir)
				m := boot(t, dir, b, volume.Options{ShipInterval: tick}, !daemon)
				db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
				mounttest.SQL(t, db, "pragma journal_mode="+mode+"; create table t(a);")
				m.stop(t)

				m = boot(t, dir, b, volume.Options{ShipInterval: tick}, !daemon)
				s := connect(t, db)
				s.exec("pragma journal_mode=" + mode + ";")
				for _, row := range []string{"one", "two"} {
					s.exec("insert into t values('" + row + "');")
					s.exec("begin; insert into t values('never'); rollback;")
				}
				m.WaitShipped(t, "acme")
				restored := mounttest.LitestreamRestore(t, "file://"+filepath.Join(dir, "bucket"), "acme", "main.sqlite3")
				if got := mounttest.SQL(t, restored, "pragma integrity_check; select group_concat(a) from t"); got != "ok\none,two" {
					t.Errorf("while it is open the bucket holds %q", got)
				}
				s.leave()
				m.stop(t)
			})
		}
	}
}

// TestPersistWithoutSync ends transactions by zeros that are never synced, in a
// journal that is passed through: each is captured when the next one opens the
// journal, and the last when the database is closed; until then it is called
// degraded.
func TestPersistWithoutSync(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	m := boot(t, dir, b, volume.Options{ShipInterval: tick, HydrateAfter: -1}, true)
	db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
	mounttest.SQL(t, db, "create table t(a); insert into t values('one');")
	m.WaitShipped(t, "acme")
	s := connect(t, db)
	s.exec("pragma journal_mode=persist; pragma synchronous=off; insert into t values('two');")
	eventually(t, "it is called degraded", func() bool { return len(stat(m, "main.sqlite3").Degraded) > 0 })
	before := stat(m, "main.sqlite3").TXID
	s.exec("begin immediate; insert into t values('three');")
	eventually(t, "the commit before is shipped", func() bool { return stat(m, "main.sqlite3").TXID > before })
	restored := mounttest.LitestreamRestore(t, "file://"+filepath.Join(dir, "bucket"), "acme", "main.sqlite3")
	if got := mounttest.SQL(t, restored, "pragma integrity_check; select group_concat(a) from t"); got != "ok\none,two" {
		t.Errorf("in the next transaction the bucket holds %q", got)
	}
	s.exec("commit;")
	s.leave()
	m.WaitShipped(t, "acme")
	m.stop(t)
	if got := state(t, b, "acme", "main.sqlite3", "select group_concat(a) from t"); got != "ok\none,two,three" {
		t.Errorf("in the end the bucket holds %q", got)
	}
}
