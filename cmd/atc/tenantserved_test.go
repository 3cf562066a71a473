package main

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"atc/fs/history"
	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// TestTenantWhileServed uses the commands on a tenant that a machine writes and
// compacts at a pace at which files go while they are read, and then restores it
// in place, with two machines that have it in their caches.
func TestTenantWhileServed(t *testing.T) {
	p := history.DefaultPolicy()
	p.Window1, p.Window2 = 200*time.Millisecond, time.Second
	p.Keep0, p.Keep1, p.Keep2, p.Grace = 500*time.Millisecond, time.Second, 2*time.Second, 500*time.Millisecond
	p.SnapshotEvery, p.SnapshotFiles, p.Every = time.Second, 4, 4
	dir := t.TempDir()
	o := volume.Options{ShipInterval: 10 * time.Millisecond, Policy: &p, ReleaseAfter: 300 * time.Millisecond}
	store := "file://" + filepath.Join(dir, "bucket")
	one := mounttest.Start(t, mounttest.Options{Store: store, Volume: o})
	two := mounttest.Start(t, mounttest.Options{Store: store, Volume: o})
	db := filepath.Join(one.MakeTenant(t, "acme"), "main.sqlite3")
	mounttest.SQL(t, db, "pragma journal_mode=wal; create table t(a integer primary key, b);")
	stop, done := make(chan struct{}), make(chan error, 1)
	rows := 0
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			rows++
			if out, err := mounttest.TrySQL(db, fmt.Sprintf("insert into t values(%d, randomblob(3000)); update t set b=randomblob(2000) where a=%d;", rows, 1+rows%50)); err != nil {
				done <- fmt.Errorf("%w: %s", err, out)
				return
			}
		}
	}()
	one.WaitShipped(t, "acme")
	run := func(want int, args ...string) string {
		t.Helper()
		status, text := tenantRun(t, dir, args...)
		if status != want {
			t.Errorf("%q: status %d: %s", args, status, text)
		}
		return text
	}
	last := 0
	whole := func(path string) { // every row up to some one, and not fewer than before
		t.Helper()
		got := mounttest.SQL(t, path, "pragma integrity_check; select count(*), max(a) from t;")
		count, most, ok := strings.Cut(strings.TrimPrefix(got, "ok\n"), "|")
		n, err := strconv.Atoi(count)
		if !ok || count != most || err != nil || n < last {
			t.Errorf("%s: %q, after %d rows", path, got, last)
		}
		last = n
	}
	for n, begin := 0, time.Now(); time.Since(begin) < 6*time.Second; n++ {
		if text := run(0, "verify", "acme"); !strings.Contains(text, "acme: sound") {
			t.Error(text)
		}
		copied, out := fmt.Sprintf("copy%d", n), filepath.Join(dir, fmt.Sprintf("out%d", n))
		run(0, "fork", "acme", copied)
		whole(filepath.Join(two.Dir, copied, "main.sqlite3"))
		run(0, "export", "acme", out)
		whole(filepath.Join(out, "main.sqlite3"))
		run(0, "list", "acme")
		at := time.Now().UTC().Format(time.RFC3339Nano)
		whole(filepath.Join(two.Dir, ".at", at, "acme", "main.sqlite3"))
	}
	at := time.Now()
	if text := run(1, "restore", "acme", "--at", at.Add(-time.Second).UTC().Format(time.RFC3339Nano)); !strings.Contains(text, "--as") {
		t.Errorf("no advice: %s", text)
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	one.WaitShipped(t, "acme")
	want := mounttest.SQL(t, db, "select count(*), sum(length(b)) from t;")
	time.Sleep(5 * time.Millisecond)
	at = time.Now()
	time.Sleep(5 * time.Millisecond)
	mounttest.SQL(t, db, "delete from t where a > 10; insert into t values(5000, 'a mistake');")
	wrong := mounttest.SQL(t, db, "select count(*), sum(length(b)) from t;")
	other := filepath.Join(two.Dir, "acme", "main.sqlite3")
	seen := func(path, want string) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for {
			got, err := mounttest.TrySQL(path, "select count(*), sum(length(b)) from t;")
			if err == nil && got == want {
				return
			}
			// Another machine may have it still; what is wrong is never right.
			if err == nil || time.Now().After(deadline) {
				t.Fatalf("%s: %q %v, want %q", path, got, err, want)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	seen(other, wrong)
	seen(db, wrong)
	seen(other, wrong)
	var text string
	status := 1
	for deadline := time.Now().Add(20 * time.Second); status == 1 && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		status, text = tenantRun(t, dir, "restore", "acme", "--at", at.UTC().Format(time.RFC3339Nano))
	}
	if status != 0 {
		t.Fatalf("status %d: %s", status, text)
	}
	seen(other, want)
	seen(db, want)
	mounttest.SQL(t, db, "insert into t values(6000, 'goes on');")
	seen(other, mounttest.SQL(t, db, "select count(*), sum(length(b)) from t;"))
	if got := mounttest.SQL(t, filepath.Join(one.Dir, ".at", at.UTC().Format(time.RFC3339Nano), "acme", "main.sqlite3"), "select count(*), sum(length(b)) from t;"); got != want {
		t.Errorf("of the past: %q, want %q", got, want)
	}
	run(0, "verify", "--all")
}
