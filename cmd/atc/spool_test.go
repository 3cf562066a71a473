package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"atc/fs/mount/mounttest"
)

// TestInterruptWithAFullSpool is Ctrl-C while the command of `atc mount` waits for
// room in the spool: everything ends, and what was acknowledged is there when atc
// starts again and the store takes it.
func TestInterruptWithAFullSpool(t *testing.T) {
	dir := t.TempDir()
	db := filepath.Join(dir, "mnt", "acme", "main.sqlite3")
	rows := filepath.Join(dir, "rows")
	script := `mkdir -p "$1" && exec "$2" writer "$1/main.sqlite3" delete full >> "$3"`
	args := mountArgs(dir, "sh", "-c", script, "sh", filepath.Dir(db), mounttest.SQLLoad(t), rows)
	args = append([]string{args[0], "--spool-limit", "1MiB", "--ship-interval", "100ms"}, args[1:]...)
	p := launch(t, dir, exec.Command(atcPath(t), args...))
	wait := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not in time: %s\n%s", what, p.text())
			}
		}
	}
	// The store takes nothing more of this database, but all else.
	var level0 string
	wait("the first shipment", func() bool {
		found, _ := filepath.Glob(filepath.Join(dir, "bucket/tenants/acme/db/*/0000"))
		if len(found) == 1 {
			level0 = found[0]
		}
		return len(found) == 1
	})
	away := level0 + ".away"
	if err := os.Rename(level0, away); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(level0, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	said := ""
	wait("the writer waits", func() bool {
		out, err := exec.Command(atcPath(t), "fs", "stat", "--cache", filepath.Join(dir, "cache")).Output()
		said = string(out)
		return err == nil && strings.Contains(said, "acme/main.sqlite3: waiting: 1 writer for")
	})
	if !strings.Contains(said, "the spool is full (1 MiB) and shipping fails: ") {
		t.Errorf("atc fs stat says\n%s", said)
	}
	if w := p.stat(t).Tenants[0].Databases[0].Waiting; len(w) != 1 || w[0].Writers != 1 || w[0].Since.IsZero() {
		t.Errorf("in JSON: %+v", w)
	}
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-p.ended:
		p.ended <- err
		if err == nil || !strings.Contains(p.text(), "not everything was shipped") {
			t.Errorf("it ends with %v\n%s", err, p.text())
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("atc does not end\n%s", p.text())
	}
	noMount(t, dir)

	if err := os.Remove(level0); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(away, level0); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(rows)
	if err != nil {
		t.Fatal(err)
	}
	acknowledged := strings.Fields(string(b))
	p = startMount(t, dir)
	checkRows(t, db, acknowledged, -1)
	p.interrupt(t)
	restored := mounttest.LitestreamRestore(t, "file://"+filepath.Join(dir, "bucket"), "acme", "main.sqlite3")
	checkRows(t, restored, acknowledged, -2)
	t.Log(fmt.Sprint(len(acknowledged), " rows were acknowledged"))
}
