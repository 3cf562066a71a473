package mount_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"atc/fs/bucket/faulty"
	"atc/fs/errors"
	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// onDisk is what a folder takes of the disk.
func onDisk(t testing.TB, dir string) (bytes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // gone meanwhile
		}
		if info, err := d.Info(); err == nil {
			bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// TestBudget has a cache folder for a quarter of the data. Every tenant can be
// read in turn, and the one whose commits the bucket did not take stays whole.
func TestBudget(t *testing.T) {
	const tenants, each = 8, 2 << 20
	const limit = tenants * each / 4
	dir := t.TempDir()
	b := faulty.Wrap(openBucket(t, dir))
	m := boot(t, dir, b, volume.Options{ShipInterval: tick, ReleaseAfter: time.Hour, CloseAfter: tick, CacheLimit: limit}, true)
	path := func(i int) string { return filepath.Join(m.FS.Dir, fmt.Sprint("t", i), "main.sqlite3") }
	for i := range tenants {
		m.MakeTenant(t, fmt.Sprint("t", i))
		mounttest.SQL(t, path(i), fmt.Sprintf("create table t(a, b); insert into t select %d, randomblob(100000) from generate_series(1, 20);", i))
	}
	within := func() {
		t.Helper()
		eventually(t, "the cache is within its budget", func() bool { return onDisk(t, filepath.Join(m.Cache, "tenants")) <= limit })
	}
	within()
	for round := range 2 {
		for i := range tenants {
			if got := mounttest.SQL(t, path(i), "select count(*), sum(a), sum(length(b)) from t"); got != fmt.Sprintf("20|%d|2000000", 20*i) {
				t.Errorf("round %d: tenant %d holds %s", round, i, got)
			}
		}
		within()
	}

	stuck := b.Inject(faulty.Fault{Op: faulty.Put, Key: "tenants/t0/*.ltx", Before: errors.Unavailable})
	mounttest.SQL(t, path(0), "insert into t values(1000, randomblob(10));")
	for i := 1; i < tenants; i++ {
		mounttest.SQL(t, path(i), "select count(*), sum(length(b)) from t")
	}
	within()
	if got := mounttest.SQL(t, path(0), "select max(a) from t"); got != "1000" {
		t.Errorf("what was not shipped is %q", got)
	}
	stuck.Remove()
	m.stop(t)
	if got := state(t, b, "t0", "main.sqlite3", "select max(a) from t"); got != "ok\n1000" {
		t.Errorf("the bucket holds %q", got)
	}
}

// TestFullCacheIsNotHydrated opens a database that is larger than the budget: what
// nobody asked for is not fetched, and what somebody asks for is.
func TestFullCacheIsNotHydrated(t *testing.T) {
	dir := bigDatabase(t)
	if err := os.RemoveAll(filepath.Join(dir, "cache")); err != nil {
		t.Fatal(err)
	}
	const after = 2500 * time.Millisecond // the disk was looked at by then
	f := mounttest.Start(t, mounttest.Options{Dir: dir, Volume: volume.Options{HydrateAfter: after, CacheLimit: 1 << 10}})
	s := connect(t, filepath.Join(f.Dir, "acme", "main.sqlite3"))
	s.exec("select length(v) from kv where k=333333;")
	time.Sleep(after + time.Second)
	if d := f.Volume.Stat("").Tenants[0].Databases[0]; d.Present == 0 || d.Present > d.Pages/2 {
		t.Errorf("%d of %d pages were fetched", d.Present, d.Pages)
	}
	s.exec("select count(*) from kv where length(v)<>100;")
	if d := f.Volume.Stat("").Tenants[0].Databases[0]; d.Present < d.Pages/2 {
		t.Errorf("a scan fetched %d of %d pages", d.Present, d.Pages)
	}
	s.leave()
	f.Stop(t)
}
