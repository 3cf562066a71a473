package backup_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"atc/fs/backup"
	"atc/fs/history"
	"atc/fs/history/historytest"
	"atc/fs/mount/mounttest"
	"atc/fs/tenant"
)

// TestPointGoesMeanwhile has the owner delete the point of the second database
// while the first one is copied: the point before is taken, and said.
func TestPointGoesMeanwhile(t *testing.T) {
	for _, name := range []string{"fork", "export"} {
		t.Run(name, func(t *testing.T) {
			w := serviceOn(t, openBucket(t))
			all := make(map[string]*tenant.Database)
			var last *historytest.Database
			for _, path := range []string{"a.sqlite3", "b.sqlite3"} {
				last = historytest.New(t, w.b, tenant.DatabaseFolder("acme", path+"-1"))
				last.Exec(t, "create table t(a)")
				for n := range 10 {
					last.Exec(t, fmt.Sprintf("insert into t values(%d)", n))
					last.Ship(t, minute(n))
				}
				all[path] = &tenant.Database{Folder: path + "-1", Mode: 0o644, TXID: 10}
			}
			if err := w.registry.CreateWith(t.Context(), "acme", all); err != nil {
				t.Fatal(err)
			}
			merged := false
			merge := func(string, string, int64, int64, string) {
				if merged {
					return
				}
				merged = true
				p := history.DefaultPolicy()
				p.Window1, p.Keep0, p.Grace, p.Dir = time.Hour, 0, 0, t.TempDir()
				for range 2 {
					if _, err := last.Log.Compact(t.Context(), last.Index, p, minute(100)); err != nil {
						t.Error(err)
					}
					if _, err := last.Log.SaveIndex(t.Context(), last.Index); err != nil {
						t.Error(err)
					}
					if _, err := last.Log.Retain(t.Context(), last.Index, last.Index.Standing(), p); err != nil {
						t.Error(err)
					}
				}
			}
			at, out := backup.Point{Time: minute(5)}, filepath.Join(t.TempDir(), "out")
			var report backup.Report
			var err error
			if name == "fork" {
				if report, err = w.service.Fork(t.Context(), "acme", "copy", at, merge); err == nil {
					_, err = w.service.Export(t.Context(), "copy", out, backup.Point{}, nil)
				}
			} else {
				report, err = w.service.Export(t.Context(), "acme", out, at, merge)
			}
			if err != nil || !merged {
				t.Fatal(merged, err)
			}
			for path, want := range map[string]string{"a.sqlite3": "0,1,2,3,4,5", "b.sqlite3": "0"} {
				if got := mounttest.SQL(t, filepath.Join(out, path), "select group_concat(a) from t"); got != want {
					t.Errorf("%s: %q, want %q", path, got, want)
				}
			}
			if b := report.Databases[1]; b.At.TXID != 1 || !b.At.Time.Equal(minute(0)) {
				t.Errorf("the report says %+v", b)
			}
		})
	}
}
