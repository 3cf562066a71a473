package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"atc/fs/mount/mounttest"
)

// mountArgs are the arguments of `atc mount` on a folder of its own.
func mountArgs(dir string, command ...string) []string {
	return append([]string{
		"mount", "--store", "file://" + filepath.Join(dir, "bucket"), "--cache", filepath.Join(dir, "cache"),
		filepath.Join(dir, "mnt"), "--",
	}, command...)
}

// TestMountRunsACommand uses atc as a container's entrypoint around a shell.
func TestMountRunsACommand(t *testing.T) {
	dir := t.TempDir()
	script := `cd "$1" && mkdir acme && sqlite3 acme/main.sqlite3 "pragma journal_mode=wal; create table t(a); insert into t values(42)" && (sleep 300.125 &) ; exit 7`
	out, err := exec.Command(atcPath(t), mountArgs(dir, "sh", "-c", script, "sh", filepath.Join(dir, "mnt"))...).CombinedOutput()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 7 {
		t.Fatalf("exit status: %v\n%s", err, out)
	}
	noMount(t, dir)
	if running := commandLines("sleep 300.125"); len(running) > 0 {
		t.Errorf("an orphan of the command still runs: %q", running)
	}
	if err := os.RemoveAll(filepath.Join(dir, "cache")); err != nil {
		t.Fatal(err)
	}
	out, err = exec.Command(atcPath(t), mountArgs(dir, "sqlite3", filepath.Join(dir, "mnt/acme/main.sqlite3"), "select a from t")...).Output()
	if err != nil || strings.TrimSpace(string(out)) != "42" {
		t.Errorf("what the first run wrote: %q, %v", out, err)
	}
	if _, err = exec.Command(atcPath(t), mountArgs(dir, "no-such-program")...).Output(); err.(*exec.ExitError).ExitCode() != 127 {
		t.Errorf("a command that is not there: %v", err)
	}
	noMount(t, dir)
	restored := mounttest.LitestreamRestore(t, "file://"+filepath.Join(dir, "bucket"), "acme", "main.sqlite3")
	if got := mounttest.SQL(t, restored, "select a from t"); got != "42" {
		t.Errorf("litestream's copy: %q", got)
	}
}

// TestMountForwardsSignals stops the entrypoint as a container engine does.
func TestMountForwardsSignals(t *testing.T) {
	dir := t.TempDir()
	script := `trap 'echo got TERM; exit 3' TERM; echo ready; while :; do sleep 0.05; done`
	cmd := exec.Command(atcPath(t), mountArgs(dir, "sh", "-c", script)...)
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for !strings.Contains(out.String(), "ready") {
		if time.Now().After(deadline) {
			t.Fatalf("the command did not start: %s", out.String())
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 3 || !strings.Contains(out.String(), "got TERM") {
		t.Errorf("%v\n%s", err, out.String())
	}
	noMount(t, dir)
}

func TestMountRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		want string
		args []string
	}{
		{"no store", []string{"mount", dir}},
		{"usage", []string{"mount"}},
		{"usage", []string{"mount", dir, "command-without-dashes"}},
		{"ftp", []string{"mount", "--store", "ftp://x", dir}},
		{"use async or commit", []string{"mount", "--store", "file://" + dir, "--tenant-durability", "acme=sometimes", dir}},
		{"check tenant ID", []string{"mount", "--store", "file://" + dir, "--tenant-durability", "Acme=commit", dir}},
		{"spool limit", []string{"mount", "--store", "file://" + dir, "--spool-limit", "1", dir}},
		{"use auto or off", []string{"mount", "--store", "file://" + dir, "--passthrough", "sometimes", dir}},
	} {
		cmd := exec.Command(atcPath(t), c.args...)
		cmd.Env = append(os.Environ(), "BUCKET_NAME=")
		if out, err := cmd.CombinedOutput(); err == nil || !bytes.Contains(out, []byte(c.want)) {
			t.Errorf("%v: want %q in %v: %s", c.args, c.want, err, out)
		}
	}
}

// lockedBuffer is a buffer that is read while a command writes to it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
