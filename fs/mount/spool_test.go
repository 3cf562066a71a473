package mount_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"atc/fs/bucket/faulty"
	"atc/fs/errors"
	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// Each story has a bucket that takes no commits, and a spool that is soon full.

const smallSpool = 256 << 10

// bounded ships often, into a small spool.
func bounded() volume.Options {
	return sure(volume.Options{ShipInterval: tick, SpoolLimit: smallSpool})
}

// writerProcess commits rows of a kilobyte until it is killed.
type writerProcess struct {
	cmd  *exec.Cmd
	last atomic.Int64 // row whose COMMIT has returned
	done chan struct{}
}

func startWriter(t testing.TB, db, journal, sync string) *writerProcess {
	t.Helper()
	w := &writerProcess{cmd: exec.Command(mounttest.SQLLoad(t), "writer", db, journal, sync), done: make(chan struct{})}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(w.done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if n, err := strconv.ParseInt(strings.TrimSpace(lines.Text()), 10, 64); err == nil {
				w.last.Store(n)
			}
		}
		_ = w.cmd.Wait()
	}()
	t.Cleanup(w.kill)
	return w
}

func (w *writerProcess) kill() {
	_ = w.cmd.Process.Kill()
	<-w.done
}

// stalls returns when a writer waits for room, and why.
func stalls(t testing.TB, m *machine) string {
	t.Helper()
	why := ""
	eventually(t, "a writer waits for room in the spool", func() bool {
		for _, w := range stat(m, "main.sqlite3").Waits {
			why = w.Why
		}
		return strings.Contains(why, "does not answer")
	})
	return why
}

// TestFullSpool has writers wait while the bucket takes nothing, and go on when it
// does. What is taken meanwhile is bounded, and so is the log.
func TestFullSpool(t *testing.T) {
	for _, c := range []struct {
		journal, sync string
		passthrough   bool
	}{
		{"wal", "normal", true}, {"wal", "full", true}, {"wal", "normal", false},
		{"delete", "full", true}, {"truncate", "normal", false}, {"persist", "full", true},
	} {
		t.Run(fmt.Sprintf("%s %s passthrough %v", c.journal, c.sync, c.passthrough), func(t *testing.T) {
			dir := t.TempDir()
			b := faulty.Wrap(openBucket(t, dir))
			m := boot(t, dir, b, bounded(), c.passthrough)
			home := m.MakeTenant(t, "acme")
			db := filepath.Join(home, "main.sqlite3")
			mounttest.SQL(t, db, "pragma journal_mode="+c.journal+"; create table w(n integer primary key, v blob);")
			m.WaitShipped(t, "acme")
			reader := connect(t, db)
			reader.exec("select count(*) from w;")
			var others []*writerProcess
			if c.journal == "wal" { // who appends to the log beside the one that waits
				others = append(others, startWriter(t, db, c.journal, c.sync))
				eventually(t, "it writes", func() bool { return others[0].last.Load() > 0 })
			}
			away := b.Inject(faulty.Fault{Op: faulty.Put, Key: "*.ltx", Before: errors.Unavailable})
			w := startWriter(t, db, c.journal, c.sync)
			why := stalls(t, m)
			if !strings.Contains(why, "the spool is full (262144 bytes) because the bucket does not answer: ship acme/main.sqlite3 transaction") {
				t.Errorf("it waits: %s", why)
			}
			if c.journal == "wal" {
				standsStill(t, append(others, w), filepath.Join(m.Cache, "tenants/acme/tree/main.sqlite3-wal"))
				if got := reader.exec("select count(*)>10 from w;"); got != "1" {
					t.Errorf("a reader reads %s", got)
				}
			} else {
				standsStill(t, []*writerProcess{w}, filepath.Join(m.Cache, "tenants/acme/tree/main.sqlite3"))
			}
			const transaction = 64 << 10
			if st := stat(m, "main.sqlite3"); st.PendingBytes < smallSpool || st.PendingBytes > smallSpool+transaction {
				t.Errorf("%d bytes wait for the bucket", st.PendingBytes)
			}
			before := w.last.Load()
			away.Remove()
			eventually(t, "the writer goes on", func() bool { return w.last.Load() > before+50 })
			reader.leave()
			w.kill()
			for _, other := range others {
				other.kill()
			}
			last := w.last.Load()
			m.WaitShipped(t, "acme")
			m.stop(t)
			if got := state(t, b, "acme", "main.sqlite3", fmt.Sprintf("select count(*)=max(n), max(n)>=%d from w", last)); got != "ok\n1|1" {
				t.Errorf("the bucket, acknowledged up to %d: %q", last, got)
			}
		})
	}
}

// standsStill returns when nobody commits and a local file grows no more.
func standsStill(t testing.TB, writers []*writerProcess, path string) {
	t.Helper()
	size, since := int64(0), time.Now()
	eventually(t, path+" grows no more", func() bool {
		info, err := os.Stat(path)
		if err != nil {
			return false
		}
		now := info.Size()
		for _, w := range writers {
			now += w.last.Load()
		}
		if now != size {
			size, since = now, time.Now()
		}
		return time.Since(since) > 500*time.Millisecond
	})
	if size > 16<<20 {
		t.Errorf("%s has %d bytes: it is not bounded", path, size)
	}
}

// TestWaitingWriterCanBeKilled ends a program that waits for room: the kernel
// waits for our answer before it lets it go.
func TestWaitingWriterCanBeKilled(t *testing.T) {
	for _, journal := range []string{"wal", "delete"} {
		t.Run(journal, func(t *testing.T) {
			dir := t.TempDir()
			b := faulty.Wrap(openBucket(t, dir))
			m := boot(t, dir, b, bounded(), true)
			db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
			mounttest.SQL(t, db, "create table w(n integer primary key, v blob);")
			m.WaitShipped(t, "acme")
			away := b.Inject(faulty.Fault{Op: faulty.Put, Key: "*.ltx", Before: errors.Unavailable})
			w := startWriter(t, db, journal, "normal")
			stalls(t, m)
			// One that the program does not die of is not heard.
			if err := w.cmd.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			time.Sleep(200 * time.Millisecond)
			stalls(t, m)
			if err := w.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			select {
			case <-w.done:
			case <-time.After(20 * time.Second):
				t.Error("it does not end")
			}
			away.Remove()
			m.stop(t)
			last := w.last.Load()
			if got := state(t, b, "acme", "main.sqlite3", fmt.Sprintf("select count(*)=max(n), max(n)>=%d from w", last)); got != "ok\n1|1" {
				t.Errorf("the bucket, acknowledged up to %d: %q", last, got)
			}
		})
	}
}

// TestUnmountedUnderWaitingWriters takes a mount down while writers wait, as
// Ctrl-C does: they get an error, and what they were told is committed is there
// when the machine starts again.
func TestUnmountedUnderWaitingWriters(t *testing.T) {
	for _, journal := range []string{"wal", "persist"} {
		t.Run(journal, func(t *testing.T) {
			dir := t.TempDir()
			b := faulty.Wrap(openBucket(t, dir))
			m := boot(t, dir, b, bounded(), true)
			db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
			mounttest.SQL(t, db, "create table w(n integer primary key, v blob);")
			m.WaitShipped(t, "acme")
			away := b.Inject(faulty.Fault{Op: faulty.Put, Key: "*.ltx", Before: errors.Unavailable})
			w := startWriter(t, db, journal, "full")
			stalls(t, m)
			down := make(chan error, 1)
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
				defer cancel()
				down <- m.Mount.Unmount(ctx)
			}()
			select {
			case err := <-down:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("the mount does not go down")
			}
			<-w.done
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := m.Volume.Close(ctx); err == nil {
				t.Error("it closes as if everything had been shipped")
			}
			m.stopped = true
			away.Remove()

			m = boot(t, dir, b, bounded(), true)
			last := w.last.Load()
			query := fmt.Sprintf("select count(*)=max(n), max(n)>=%d from w", last)
			if got := mounttest.SQL(t, db, query); got != "1|1" {
				t.Errorf("here, acknowledged up to %d: %q", last, got)
			}
			m.WaitShipped(t, "acme")
			m.stop(t)
			if got := state(t, b, "acme", "main.sqlite3", query); got != "ok\n1|1" {
				t.Errorf("the bucket, acknowledged up to %d: %q", last, got)
			}
		})
	}
}

// TestLapseEndsTheWait cuts a machine off while a writer waits for room: when the
// lease has lapsed nobody may be kept waiting for what may belong to another.
func TestLapseEndsTheWait(t *testing.T) {
	dir := t.TempDir()
	b := faulty.Wrap(openBucket(t, dir))
	o := bounded()
	o.Heartbeat, o.Lease = 500*time.Millisecond, 3*time.Second
	m := boot(t, dir, b, o, true)
	db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
	mounttest.SQL(t, db, "create table w(n integer primary key, v blob);")
	m.WaitShipped(t, "acme")
	away := b.Inject(faulty.Fault{Op: faulty.Put, Key: "*.ltx", Before: errors.Unavailable})
	w := startWriter(t, db, "delete", "full")
	stalls(t, m)
	select {
	case <-w.done:
		t.Fatal("it ends while the lease is valid")
	case <-time.After(time.Second):
	}
	cut := b.Inject(faulty.Fault{Op: faulty.Put, Before: errors.Unavailable})
	select {
	case <-w.done:
	case <-time.After(20 * time.Second):
		t.Fatal("it waits on")
	}
	away.Remove()
	cut.Remove()
	last := w.last.Load()
	query := fmt.Sprintf("select count(*)=max(n), max(n)>=%d from w", last)
	eventually(t, "it is served again", func() bool {
		got, err := mounttest.TrySQL(db, query)
		if err == nil && got != "1|1" {
			t.Fatalf("acknowledged up to %d: %q", last, got)
		}
		return err == nil
	})
	m.WaitShipped(t, "acme")
	m.stop(t)
	if got := state(t, b, "acme", "main.sqlite3", query); got != "ok\n1|1" {
		t.Errorf("the bucket, acknowledged up to %d: %q", last, got)
	}
}

// TestHammerFullSpool has several processes write, check and vacuum through a
// spool that is full most of the time, on a bucket that fails and stalls.
func TestHammerFullSpool(t *testing.T) {
	for seed, c := range []struct{ journal, sync string }{{"wal", "normal"}, {"wal", "full"}, {"delete", "normal"}, {"truncate", "full"}} {
		t.Run(c.journal+" "+c.sync, func(t *testing.T) {
			dir := t.TempDir()
			b := faulty.Wrap(openBucket(t, dir))
			o := bounded()
			o.SpoolLimit = 64 << 10
			m := boot(t, dir, b, o, seed%2 == 0)
			db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
			chaos := b.Chaos(uint64(seed), faulty.Plan{Op: faulty.Put, Key: "*.ltx", Before: .3, After: .1, Delay: .5, MostDelay: 50 * time.Millisecond})
			out, err := exec.Command(mounttest.SQLLoad(t), "hammer", db, "3", "3", c.journal, c.sync).CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			chaos.Calm()
			query := "select count(*), sum(n), sum(length(v)) from h"
			want := mounttest.SQL(t, db, query)
			m.WaitShipped(t, "acme")
			t.Logf("%s in %s transactions", strings.TrimSpace(string(out)), stat(m, "main.sqlite3").TXID)
			m.stop(t)
			if got := state(t, b, "acme", "main.sqlite3", query); got != "ok\n"+want {
				t.Errorf("the bucket holds %q, want %q", got, want)
			}
		})
	}
}
