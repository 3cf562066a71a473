package mount_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"atc/fs/mount/mounttest"
)

// hammerSeconds is how long SQLite's walthread situation lasts: several
// processes that write, roll back, checkpoint, vacuum and check integrity.
const hammerSeconds = "20"

// TestHammer runs four writers on one database while it ships. Each of them
// checks integrity all the time; in the end the bucket must hold the same
// database.
func TestHammer(t *testing.T) {
	load := mounttest.SQLLoad(t)
	for _, c := range []struct{ name, journal, sync string }{
		{"wal-normal", "wal", "normal"},
		{"wal-full", "wal", "full"},
		{"delete", "delete", "normal"},
		{"persist", "persist", "full"},
		{"truncate", "truncate", "normal"},
	} {
		for _, daemon := range []bool{false, true} {
			name := c.name + "/passthrough"
			seconds := hammerSeconds
			if daemon {
				name = c.name + "/daemon"
			}
			if c.name != "wal-normal" {
				seconds = "4"
			}
			if soak, err := time.ParseDuration(os.Getenv("ATC_SOAK")); err == nil { // `make soak`
				seconds = fmt.Sprint(int(soak.Seconds()))
			}
			t.Run(name, func(t *testing.T) {
				dir := t.TempDir()
				f := mounttest.Start(t, mounttest.Options{Dir: dir, NoPassthrough: daemon})
				db := filepath.Join(f.MakeTenant(t, "acme"), "main.sqlite3")
				mounttest.SQL(t, db, "pragma journal_mode="+c.journal)
				out, err := exec.Command(load, "hammer", db, seconds, "4", c.journal, c.sync).CombinedOutput()
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				t.Logf("%s", out)
				want := mounttest.SQL(t, db, ".dump")
				f.WaitShipped(t, "acme")
				for _, d := range f.Volume.Stat("acme").Tenants[0].Databases {
					t.Logf("%s: transaction %s, %d pages, degraded %v", d.Path, d.TXID, d.Pages, d.Degraded)
				}
				f.Stop(t)
				if err := os.RemoveAll(f.Cache); err != nil {
					t.Fatal(err)
				}
				f = mounttest.Start(t, mounttest.Options{Dir: dir, NoPassthrough: daemon})
				if got := mounttest.SQL(t, db, "pragma integrity_check"); got != "ok" {
					t.Errorf("integrity check on the restored copy: %s", got)
				}
				if got := mounttest.SQL(t, db, ".dump"); got != want {
					t.Errorf("the bucket holds another database: %d bytes of dump, want %d", len(got), len(want))
				}
				f.Stop(t)
			})
		}
	}
}
