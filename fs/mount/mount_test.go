package mount_test

import (
	"os"
	"path/filepath"
	"testing"

	"atc/fs/mount/mounttest"
)

func TestCommitsComeBackOnAnEmptyCache(t *testing.T) {
	for _, mode := range []struct {
		name   string
		daemon bool
	}{{"passthrough", false}, {"daemon", true}} {
		t.Run(mode.name, func(t *testing.T) {
			dir := t.TempDir()
			f := mounttest.Start(t, mounttest.Options{Dir: dir, NoPassthrough: mode.daemon})
			db := filepath.Join(f.MakeTenant(t, "acme"), "main.sqlite3")
			mounttest.SQL(t, db, "pragma journal_mode=wal; create table t(a); insert into t values('one');")
			mounttest.SQL(t, db, "insert into t values('two'); select count(*) from t;")
			f.WaitShipped(t, "acme")
			mounttest.SQL(t, db, "insert into t values('three');")
			f.Stop(t)
			if err := os.RemoveAll(f.Cache); err != nil {
				t.Fatal(err)
			}

			f = mounttest.Start(t, mounttest.Options{Dir: dir, NoPassthrough: mode.daemon})
			got := mounttest.SQL(t, db, "select group_concat(a) from t; pragma integrity_check;")
			if got != "one,two,three\nok" {
				t.Fatalf("restored %q", got)
			}
			f.Stop(t)
		})
	}
}
