package mount_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"atc/fs/bucket"
	"atc/fs/mount"
	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// This file defines what the stories of failure have in common: machines that
// may end badly, killed daemons, and SQLite sessions that stay open.

// openBucket opens the directory bucket below dir.
func openBucket(t testing.TB, dir string) bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(t.Context(), "file://"+filepath.Join(dir, "bucket"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// machine is a mounted volume whose end may fail: the story says what is right.
type machine struct {
	*mounttest.FS
	stopped bool
}

// boot starts a machine with its cache and mountpoint below dir. Nothing is
// shipped by itself unless o says when.
func boot(t testing.TB, dir string, b bucket.Bucket, o volume.Options, passthrough bool) *machine {
	t.Helper()
	ctx := context.Background()
	m := &machine{FS: &mounttest.FS{Dir: filepath.Join(dir, "mnt"), Cache: filepath.Join(dir, "cache"), Bucket: b}}
	var log io.Writer = t.Output()
	if os.Getenv(daemonEnv) != "" {
		log = os.Stderr // it is killed, not ended
	}
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	o.Bucket, o.Cache, o.Logger = b, m.Cache, logger
	if o.ShipInterval == 0 {
		o.ShipInterval = time.Hour
	}
	var err error
	if m.Volume, err = volume.Open(ctx, o); err != nil {
		t.Fatal(err)
	}
	m.Mount, err = mount.Mount(ctx, m.FS.Dir, m.Volume, mount.Options{Name: m.Cache, NoPassthrough: !passthrough, Logger: logger})
	if err != nil {
		m.Volume.Close(ctx)
		t.Fatal(err)
	}
	t.Cleanup(func() { m.halt(0) })
	return m
}

// halt unmounts and closes, and returns what went wrong. Open files are given so
// long to be closed.
func (m *machine) halt(patience time.Duration) error {
	if m.stopped {
		return nil
	}
	m.stopped = true
	if patience == 0 { // what a process has open then is cut off
		_ = unix.Unmount(m.FS.Dir, unix.MNT_FORCE)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := m.Mount.Unmount(ctx); err != nil {
		return err
	}
	ctx, cancel = context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return m.Volume.Close(ctx)
}

// stop halts and fails the test if that does not go well.
func (m *machine) stop(t testing.TB) {
	t.Helper()
	if err := m.halt(20 * time.Second); err != nil {
		t.Fatal(err)
	}
}

// sure is a machine that will not look whether its lease still stands: only the
// log can teach it that it has lost a tenant.
func sure(o volume.Options) volume.Options {
	o.Heartbeat, o.Lease = time.Minute, 2*time.Minute
	return o
}

// disown makes a machine look dead to all others, by a heartbeat of a session
// that owns nothing.
func disown(t testing.TB, b bucket.Bucket, m *machine) {
	t.Helper()
	id := m.Volume.Machine()
	body := fmt.Sprintf(`{"machine":%q,"session":"another","lease":100}`, id)
	if _, err := b.Put(t.Context(), "machines/"+id+".json", strings.NewReader(body), bucket.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

// state is what a database holds for a machine that has nothing but the bucket.
func state(t testing.TB, b bucket.Bucket, tenant, name, query string) string {
	t.Helper()
	m := boot(t, t.TempDir(), b, volume.Options{}, true)
	got := mounttest.SQL(t, filepath.Join(m.FS.Dir, tenant, name), "pragma integrity_check; "+query)
	m.stop(t)
	return got
}

// session is a sqlite3 process that stays connected.
type session struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
	n   int
}

func connect(t testing.TB, path string, env ...string) *session {
	t.Helper()
	s := &session{t: t, cmd: exec.Command("sqlite3", "-cmd", ".timeout 20000", path)}
	s.cmd.Env = append(os.Environ(), env...)
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd.Stderr = s.cmd.Stdout
	s.out = bufio.NewScanner(out)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	return s
}

// exec runs statements and returns what they print.
func (s *session) exec(statements string) string {
	s.t.Helper()
	s.n++
	mark := fmt.Sprintf("--done %d--", s.n)
	if _, err := fmt.Fprintf(s.in, "%s\n.print %s\n", statements, mark); err != nil {
		s.t.Fatal(err)
	}
	var lines []string
	for s.out.Scan() {
		if s.out.Text() == mark {
			return strings.Join(lines, "\n")
		}
		lines = append(lines, s.out.Text())
	}
	s.t.Fatalf("sqlite3 ended after %q: %s", statements, strings.Join(lines, "\n"))
	return ""
}

// leave closes the connection as a program does.
func (s *session) leave() {
	s.in.Close()
	for s.out.Scan() {
	}
	_ = s.cmd.Wait()
}

func (s *session) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// daemon is a machine in a process of its own, which can be killed.
type daemon struct {
	t   testing.TB
	cmd *exec.Cmd
	dir string
}

// daemonEnv makes the test binary such a machine: see TestDaemonProcess.
const daemonEnv = "ATC_TEST_DAEMON"

// TestDaemonProcess is no test but the body of startDaemon's process.
func TestDaemonProcess(t *testing.T) {
	dir := os.Getenv(daemonEnv)
	if dir == "" {
		return
	}
	o := volume.Options{HydrateAfter: -1, Commit: os.Getenv(daemonEnv+"_COMMIT") != ""}
	if s := os.Getenv(daemonEnv + "_SHIP"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		o.ShipInterval = d
	}
	if s := os.Getenv(daemonEnv + "_LEASE"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		o.Heartbeat, o.Lease = d/4, d
	}
	store := os.Getenv(daemonEnv + "_STORE")
	if store == "" {
		store = "file://" + filepath.Join(os.Getenv(daemonEnv+"_BUCKET"), "bucket")
	}
	b, err := bucket.Open(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	m := boot(t, dir, b, o, os.Getenv(daemonEnv+"_CACHED") == "")
	fmt.Println("mounted")
	m.Mount.Wait()
}

// startDaemon mounts below dir on the bucket below bucketDir.
func startDaemon(t testing.TB, dir, bucketDir string, env ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, dir: dir, cmd: exec.Command(os.Args[0], "-test.run=^TestDaemonProcess$", "-test.timeout=5m")}
	d.cmd.Env = append(os.Environ(), daemonEnv+"="+dir, daemonEnv+"_BUCKET="+bucketDir)
	d.cmd.Env = append(d.cmd.Env, env...)
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.cmd.Stderr = t.Output()
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.kill)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if lines.Text() == "mounted" {
			go func() { // what else it says
				for lines.Scan() {
					fmt.Fprintln(t.Output(), "daemon:", lines.Text())
				}
			}()
			return d
		}
	}
	t.Fatal("the daemon did not mount")
	return nil
}

// kill ends the daemon as kill -9 does, and removes the dead mount.
func (d *daemon) kill() {
	if d.cmd.ProcessState != nil {
		return
	}
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
	_ = unix.Unmount(filepath.Join(d.dir, "mnt"), unix.MNT_DETACH)
}

func (d *daemon) path(parts ...string) string {
	return filepath.Join(append([]string{d.dir, "mnt"}, parts...)...)
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	within(t, 30*time.Second, what, ok)
}

func within(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}
