package mount_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// TestPastThins has the points of a time go while the kernel still knows what it
// found there: whoever opens it then gets the point before, and no broken disk.
func TestPastThins(t *testing.T) {
	p := hurried()
	p.Window1, p.Window2, p.SnapshotFiles = time.Minute, time.Hour, 1000
	p.Keep0, p.Grace = 200*time.Millisecond, 200*time.Millisecond
	begin := time.Now()
	base := begin.Truncate(time.Hour).Add(-2 * time.Hour) // at the beginning of windows
	var later atomic.Int64
	now := func() time.Time { return base.Add(time.Since(begin) + time.Duration(later.Load())) }
	f := mounttest.Start(t, mounttest.Options{Volume: volume.Options{ShipInterval: tick, Policy: p, Now: now}})
	db := filepath.Join(f.MakeTenant(t, "acme"), "main.sqlite3")
	mounttest.SQL(t, db, "create table t(a); create table u(a);")
	f.WaitShipped(t, "acme") // transaction 1, which stays
	s := connect(t, db)
	s.exec("pragma journal_mode=wal;")
	insert := func(n, size int) {
		s.exec(fmt.Sprintf("insert into t values(%d); insert into u values(randomblob(%d));", n, size))
		f.WaitShipped(t, "acme")
	}
	var moment string
	for n := range 10 {
		if insert(n, 200000); n == 5 {
			time.Sleep(2 * time.Millisecond)
			moment = now().UTC().Format(time.RFC3339Nano)
			time.Sleep(2 * time.Millisecond)
		}
	}
	later.Store(int64(10 * time.Minute)) // that time is settled, and its window closed
	path := filepath.Join(f.Dir, ".at", moment, "acme", "main.sqlite3")
	if got := mounttest.SQL(t, path, "select count(*) from t;"); got != "6" {
		t.Fatalf("at %s: %q", moment, got)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	eventually(t, "the commits of that time are merged and deleted", func() bool {
		if n++; n%20 == 0 {
			later.Add(int64(time.Minute))
		}
		insert(100+n, 10)
		// Other states, so that the first one is not kept in memory.
		if _, err := os.Stat(filepath.Join(f.Dir, ".at", now().UTC().Format(time.RFC3339Nano), "acme", "main.sqlite3")); err != nil {
			t.Fatal(err)
		}
		return n > 70 && levels(t, f.Bucket, "acme")["0001"] > 0 && stat2(&machine{FS: f}, "acme", "main.sqlite3").ExpiredFiles >= 8
	})
	if got, err := mounttest.TrySQL(path, "pragma integrity_check; select count(*) from t;"); err != nil || got != "ok\n0" {
		t.Errorf("a point that has gone: %q %v", got, err)
	}
	if again, err := os.Stat(path); err != nil || os.SameFile(info, again) {
		t.Errorf("it is the same file: %v", err)
	}
}
