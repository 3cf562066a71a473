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
