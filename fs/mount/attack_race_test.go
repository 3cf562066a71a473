package mount_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// Programs come and go while idle databases are closed at once.
func TestIdleCloseRacesWithOpen(t *testing.T) {
	for _, mode := range []string{"wal", "delete"} {
		t.Run(mode, func(t *testing.T) {
			const programs, runs = 3, 25
			dir := t.TempDir()
			b := openBucket(t, dir)
			m := boot(t, dir, b, volume.Options{ShipInterval: 2 * time.Millisecond, CloseAfter: time.Millisecond}, true)
			db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
			mounttest.SQL(t, db, "pragma journal_mode="+mode+"; create table t(a);")
			var wg sync.WaitGroup
			for p := range programs {
				wg.Go(func() {
					for r := range runs {
						if out, err := mounttest.TrySQL(db, fmt.Sprintf("insert into t values('%d-%d');", p, r)); err != nil {
							t.Errorf("%v: %s", err, out)
						}
						time.Sleep(time.Duration(p*r%4) * time.Millisecond) // so that all are away now and then
					}
				})
			}
			wg.Wait()
			m.stop(t)
			if got, want := state(t, b, "acme", "main.sqlite3", "select count(distinct a) from t"), fmt.Sprintf("ok\n%d", programs*runs); got != want {
				t.Errorf("the bucket holds %q, want %q", got, want)
			}
		})
	}
}

// Tenants and databases that are gone leave nothing open.
func TestNothingStaysOpen(t *testing.T) {
	m := boot(t, t.TempDir(), openBucket(t, t.TempDir()), volume.Options{ShipInterval: tick, CloseAfter: tick}, true)
	round := func() {
		home := m.MakeTenant(t, "acme")
		db := filepath.Join(home, "main.sqlite3")
		mounttest.SQL(t, db, "pragma journal_mode=wal; create table t(a); insert into t values(1);")
		mounttest.SQL(t, filepath.Join(home, "kept.sqlite3"), "create table t(a);")
		for _, name := range []string{"main.sqlite3", "kept.sqlite3"} {
			if err := os.Remove(filepath.Join(home, name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Remove(home); err != nil {
			left, _ := os.ReadDir(home)
			t.Fatalf("%v; there are %v", err, left)
		}
	}
	round()
	open := func() (local []string) {
		fds, _ := os.ReadDir("/proc/self/fd")
		for _, fd := range fds {
			if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.Contains(to, m.Cache) {
				local = append(local, to)
			}
		}
		return local
	}
	before, goroutines := len(open()), runtime.NumGoroutine()
	for range 20 {
		round()
	}
	for until := time.Now().Add(5 * time.Second); len(open()) > before+8 && time.Now().Before(until); time.Sleep(tick) {
	}
	if now := open(); len(now) > before+8 {
		t.Errorf("%d files are open, %d were after the first round, e.g. %q", len(now), before, now[len(now)-1])
	}
	if n := runtime.NumGoroutine(); n > goroutines+30 {
		t.Errorf("%d goroutines, %d were", n, goroutines)
	}
	m.stop(t)
}
