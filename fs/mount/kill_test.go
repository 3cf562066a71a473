package mount_test

import (
	"bufio"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"atc/fs/mount/mounttest"
)

// writeRows runs a program that commits numbered rows, kills it with SIGKILL
// after so many, and returns the last number whose COMMIT had returned.
func writeRows(t *testing.T, db, journal, sync string, rows int) (last string) {
	t.Helper()
	cmd := exec.Command(mounttest.SQLLoad(t), "writer", db, journal, sync)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); n++ {
		last = strings.TrimSpace(lines.Text())
		if n == rows {
			_ = cmd.Process.Kill() // what it printed until it died is read on
		}
	}
	_ = cmd.Wait()
	if last == "" {
		t.Fatal("nothing was committed")
	}
	return last
}

// TestWriterKilled kills writers in the middle of transactions, several times on
// one database. Every acknowledged row is there, nothing of the transaction that
// was cut off, and the bucket holds the same.
func TestWriterKilled(t *testing.T) {
	for _, c := range []struct {
		journal, sync string
		daemon        bool
	}{
		{"wal", "normal", false}, {"wal", "full", true}, {"delete", "normal", false}, {"persist", "normal", true},
	} {
		name := c.journal + "/passthrough"
		if c.daemon {
			name = c.journal + "/daemon"
		}
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f := mounttest.Start(t, mounttest.Options{Dir: dir, NoPassthrough: c.daemon})
			db := filepath.Join(f.MakeTenant(t, "acme"), "main.sqlite3")
			// Row n is written with 900 bytes and made 1000 by its transaction.
			const check = "pragma integrity_check; select count(*)=max(n), min(length(v)), max(length(v)) from w; select max(n)>="
			last := ""
			for round := range 5 {
				last = writeRows(t, db, c.journal, c.sync, 40+17*round)
				if got := mounttest.SQL(t, db, check+last+" from w"); got != "ok\n1|1000|1000\n1" {
					t.Fatalf("after kill %d, acknowledged up to %s: %q", round, last, got)
				}
			}
			want := mounttest.SQL(t, db, ".dump")
			f.WaitShipped(t, "acme")
			restored := mounttest.LitestreamRestore(t, "file://"+filepath.Join(dir, "bucket"), "acme", "main.sqlite3")
			if got := mounttest.SQL(t, restored, check+last+" from w"); got != "ok\n1|1000|1000\n1" {
				t.Errorf("litestream's copy: %q", got)
			}
			if got := mounttest.SQL(t, restored, ".dump"); got != want {
				t.Error("litestream's copy is another database")
			}
			f.Stop(t)
		})
	}
}
