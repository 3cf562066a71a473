package mount_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"atc/fs/mount/mounttest"
)

// TestFullDisk fills the cache folder's disk under a writer. The application is
// told, nothing that it was told is committed is lost, and what fits is shipped.
func TestFullDisk(t *testing.T) {
	for _, journal := range []string{"wal", "delete"} {
		t.Run(journal, func(t *testing.T) {
			dir := t.TempDir()
			cache := filepath.Join(dir, "cache")
			if err := os.Mkdir(cache, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("tmpfs", cache, "tmpfs", 0, "size=12m"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Unmount(cache, unix.MNT_DETACH) })
			f := mounttest.Start(t, mounttest.Options{Dir: dir})
			db := filepath.Join(f.MakeTenant(t, "acme"), "main.sqlite3")
			mounttest.SQL(t, db, "pragma journal_mode="+journal)
			out, err := exec.Command(mounttest.SQLLoad(t), "writer", db, journal, "normal").Output()
			if err == nil {
				t.Fatal("the disk was never full")
			}
			lines := strings.Fields(string(out))
			if len(lines) == 0 {
				t.Fatal("nothing was committed")
			}
			last := lines[len(lines)-1]
			// Space is found again, as by removing something else.
			if err := unix.Mount("tmpfs", cache, "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
				t.Fatal(err)
			}
			query := "pragma integrity_check; select count(*)=max(n), max(n)>=" + last + " from w"
			if got := mounttest.SQL(t, db, query); got != "ok\n1|1" {
				t.Errorf("acknowledged up to %s: %q", last, got)
			}
			mounttest.SQL(t, db, "insert into w(v) values('after')")
			f.WaitShipped(t, "acme")
			f.Stop(t)
			restored := mounttest.LitestreamRestore(t, "file://"+filepath.Join(dir, "bucket"), "acme", "main.sqlite3")
			if got := mounttest.SQL(t, restored, query); got != "ok\n1|1" {
				t.Errorf("the bucket, acknowledged up to %s: %q", last, got)
			}
		})
	}
}
