package sqlitetest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// This file defines where the test programs are and how they are run.

// Tree is SQLite's source tree, in which .ci/sqlite has built the test programs.
type Tree struct{ dir string }

// OpenTree finds the tree: in $ATC_SQLITE, or where `make test` builds it.
func OpenTree() (Tree, error) {
	dir := os.Getenv("ATC_SQLITE")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return Tree{}, err
		}
		dir = filepath.Join(cache, "atc", "sqlite")
	}
	for _, program := range []string{"testfixture", "threadtest3", "mptester", "kvtest"} {
		if _, err := os.Stat(filepath.Join(dir, program)); err != nil {
			return Tree{}, fmt.Errorf("no build of SQLite's tests: %w; run `make sqlite`", err)
		}
	}
	return Tree{dir}, nil
}

// Run runs a case in a folder and returns what the case says. A case that ends
// for another reason than its own, which is when ctx ends, is an error.
func (t Tree) Run(ctx context.Context, c Case, dir string) (Verdict, error) {
	limited, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	var v Verdict
	for _, step := range c.Steps {
		output, ended := t.program(limited, dir, step)
		if ctx.Err() != nil {
			return Verdict{}, context.Cause(ctx)
		}
		if limited.Err() != nil {
			ended = fmt.Errorf("it has not ended after %s", c.Timeout)
		}
		judged := c.judge
		if step[1] == "init" { // makes the database, and checks nothing
			judged = initVerdict
		}
		v.add(judged(output, ended))
		if ended != nil {
			break
		}
	}
	return v, nil
}

// initVerdict judges a step that prepares others.
func initVerdict(output string, ended error) (v Verdict) {
	if ended != nil {
		v.fail("(init)", fmt.Sprintf("%v: %s", ended, tail(output)))
	}
	return v
}

// program runs one program and returns what it has printed. Its children end
// with it: they are in its process group. It is env(1) that goes into the folder:
// between fork and exec a child of this process would wait for the mount, and the
// mount, which this process serves, for the lock that a fork holds.
func (t Tree) program(ctx context.Context, dir string, step []string) (string, error) {
	cmd := exec.CommandContext(ctx, "env", append([]string{"-C", dir, filepath.Join(t.dir, step[0])}, step[1:]...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SQLITE_TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	kill := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel = kill
	cmd.WaitDelay = 10 * time.Second // for what it has started to end as well
	output, err := cmd.CombinedOutput()
	// Until nobody has a file open any more; not for ever, since one that has ended
	// counts too until it was waited for.
	for end := time.Now().Add(5 * time.Second); cmd.Process != nil && kill() == nil && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	return string(output), err
}
