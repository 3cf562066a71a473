//go:build !race

package mount_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// A gigabyte takes minutes under the race detector, so this is told by `make soak`.

// TestOverTheLockPage has a database that is larger than 1 GiB: the page there is
// never written, and LTX leaves it out (file format, section 1.3, "lock-byte
// page").
func TestOverTheLockPage(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	m := boot(t, dir, b, volume.Options{ShipInterval: tick, HydrateAfter: -1}, true)
	db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
	mounttest.SQL(t, db, `pragma page_size=65536; pragma journal_mode=wal; create table t(a integer primary key, b);
		insert into t select value, zeroblob(10000000) from generate_series(1, 108);`)
	mounttest.SQL(t, db, "insert into t values(1000, 'behind it'); update t set b = 'small' where a = 50;")
	want := mounttest.SQL(t, db, "select count(*), sum(length(b)), max(b = 'behind it') from t")
	m.WaitShipped(t, "acme")
	if d := stat(m, "main.sqlite3"); int64(d.Pages)*int64(d.PageSize) <= 1<<30 {
		t.Fatalf("the database has %d pages of %d bytes", d.Pages, d.PageSize)
	}
	m.stop(t)
	if err := os.RemoveAll(filepath.Join(dir, "cache")); err != nil {
		t.Fatal(err)
	}
	if got := state(t, b, "acme", "main.sqlite3", "select count(*), sum(length(b)), max(b = 'behind it') from t"); got != "ok\n"+want {
		t.Errorf("an empty machine reads %q, want %q", got, want)
	}
	restored := mounttest.LitestreamRestore(t, "file://"+filepath.Join(dir, "bucket"), "acme", "main.sqlite3")
	out, err := exec.Command("sqlite3", restored, "select count(*), sum(length(b)), max(b = 'behind it') from t").CombinedOutput()
	if got := strings.TrimSpace(string(out)); err != nil || got != want {
		t.Errorf("litestream restores %q, want %q: %v", got, want, err)
	}
}
