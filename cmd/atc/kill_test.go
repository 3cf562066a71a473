package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"atc/fs/mount/mounttest"
)

// TestKilledAgainAndAgain kills atc while a program commits rows, and starts it
// on the same folders. No acknowledged row may be missing afterwards, on the
// mount or, in the end, in the bucket.
func TestKilledAgainAndAgain(t *testing.T) {
	for _, journal := range []string{"wal", "delete"} {
		t.Run(journal, func(t *testing.T) {
			dir := t.TempDir()
			db := filepath.Join(dir, "mnt", "acme", "main.sqlite3")
			var acknowledged []string
			for round := range 6 {
				p := startMount(t, dir)
				if err := os.Mkdir(filepath.Join(dir, "mnt", "acme"), 0o755); err != nil && !os.IsExist(err) {
					t.Fatal(err)
				}
				checkRows(t, db, acknowledged, round)
				acknowledged = append(acknowledged, writeUntilKilled(t, p, db, journal, 30+40*round)...)
			}
			p := startMount(t, dir)
			checkRows(t, db, acknowledged, -1)
			p.interrupt(t)
			noMount(t, dir)
			restored := mounttest.LitestreamRestore(t, "file://"+filepath.Join(dir, "bucket"), "acme", "main.sqlite3")
			checkRows(t, restored, acknowledged, -2)
		})
	}
}

func startMount(t *testing.T, dir string) *process {
	t.Helper()
	args := mountArgs(dir)
	p := launch(t, dir, exec.Command(atcPath(t), args[:len(args)-1]...))
	deadline := time.Now().Add(20 * time.Second)
	for !strings.Contains(p.text(), "msg=mounted") {
		if time.Now().After(deadline) {
			t.Fatalf("atc does not mount\n%s", p.text())
		}
		time.Sleep(10 * time.Millisecond)
	}
	return p
}

// writeUntilKilled lets a program commit rows, kills atc below it after so many,
// and returns the rows whose COMMIT had returned.
func writeUntilKilled(t *testing.T, p *process, db, journal string, rows int) (acknowledged []string) {
	t.Helper()
	cmd := exec.Command(mounttest.SQLLoad(t), "writer", db, journal, "normal")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		acknowledged = append(acknowledged, strings.TrimSpace(lines.Text()))
		if len(acknowledged) == rows {
			// The program's next request fails; in WAL mode with passthrough it
			// may go on for as long as it needs none.
			p.kill()
			_ = cmd.Process.Kill()
		}
	}
	_ = cmd.Wait()
	return acknowledged
}

func checkRows(t *testing.T, db string, acknowledged []string, round int) {
	t.Helper()
	if len(acknowledged) == 0 {
		return
	}
	missing := mounttest.SQL(t, db, fmt.Sprintf(
		"with a(n) as (values (%s)) select count(*) from a where n not in (select n from w); pragma integrity_check; select count(*) from w where length(v)<>1000",
		strings.Join(acknowledged, "),(")))
	if missing != "0\nok\n0" {
		t.Fatalf("round %d, %d rows acknowledged: missing, integrity, half-written: %q", round, len(acknowledged), missing)
	}
}
