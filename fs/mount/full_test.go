package mount_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"atc/fs/bucket"
	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// TestFullDisk fills the cache folder's disk under a writer. The application is
// told, nothing that it was told is committed is lost, and what fits is shipped.
func TestFullDisk(t *testing.T) {
	for _, c := range []struct {
		journal string
		commit  bool
	}{{"wal", false}, {"delete", false}, {"truncate", false}, {"persist", false}, {"wal", true}, {"delete", true}, {"persist", true}} {
		journal := c.journal
		t.Run(fmt.Sprintf("%s commit %v", journal, c.commit), func(t *testing.T) {
			dir := t.TempDir()
			cache := filepath.Join(dir, "cache")
			if err := os.Mkdir(cache, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("tmpfs", cache, "tmpfs", 0, "size=12m"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Unmount(cache, unix.MNT_DETACH) })
			f := mounttest.Start(t, mounttest.Options{Dir: dir, Volume: volume.Options{Commit: c.commit}})
			db := filepath.Join(f.MakeTenant(t, "acme"), "main.sqlite3")
			mounttest.SQL(t, db, "pragma journal_mode="+journal+"; create table if not exists w(n integer primary key, v blob);")
			if journal != "wal" || c.commit {
				leave(t, cache, 300<<10) // each commit is a sync, or a request
			}
			out, err := exec.Command(mounttest.SQLLoad(t), "writer", db, journal, "normal").Output()
			if err == nil {
				t.Fatal("the disk was never full")
			}
			lines := strings.Fields(string(out))
			if len(lines) == 0 {
				t.Fatal("nothing was committed")
			}
			last := lines[len(lines)-1]
			if c.commit {
				b, err := bucket.Open(t.Context(), "file://"+filepath.Join(dir, "bucket"))
				if err != nil {
					t.Fatal(err)
				}
				copied := mounttest.Restore(t, b, "acme", "main.sqlite3")
				if got := mounttest.SQL(t, copied, "pragma integrity_check; select max(n)>="+last+" from w"); got != "ok\n1" {
					t.Errorf("the bucket, when the disk was full, acknowledged up to %s: %q", last, got)
				}
			}
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

// leave fills a filesystem but for so many bytes.
func leave(t *testing.T, dir string, bytes int64) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	if err := unix.Fallocate(int(filler.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-bytes); err != nil {
		t.Fatal(err)
	}
}
