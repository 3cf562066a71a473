package mount_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/bucket/faulty"
	"atc/fs/errors"
	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// This file does to the mount what activerecord-tenanted does to its folder of
// tenants. It finds them with a glob over their databases, makes one with mkdir,
// a lock on a file beside the database, a touch and migrations, and destroys one
// by removing the database with its log and shared memory.

// rails is an application's view of the mount.
type rails struct{ dir string }

func (r rails) database(id string) string { return filepath.Join(r.dir, id, "main.sqlite3") }
func (r rails) ready(id string) string    { return r.database(id) + ".ready_lock" }

// tenants lists them as a glob over */main.sqlite3 does: it reads the folder of
// tenants and looks for the database of each.
func (r rails) tenants(t testing.TB) (ids []string) {
	t.Helper()
	all, err := os.ReadDir(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if _, err := os.Lstat(r.database(e.Name())); err == nil {
			ids = append(ids, e.Name())
		} else if !os.IsNotExist(err) {
			t.Error(err)
		}
	}
	return ids
}

// create makes a tenant, and does what it is given while it holds the lock.
func (r rails) create(t testing.TB, id string, touched func()) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(r.database(id)), 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(r.ready(id), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("touch", r.database(id)).CombinedOutput(); err != nil {
		t.Fatalf("touch: %v\n%s", err, out)
	}
	if touched != nil {
		touched()
	}
	mounttest.SQL(t, r.database(id), "pragma journal_mode=wal; create table schema_migrations(version); create table notes(text);")
	if err := os.Remove(r.ready(id)); err != nil {
		t.Fatal(err)
	}
}

// destroy removes a tenant's database.
func (r rails) destroy(t testing.TB, id string) {
	t.Helper()
	if out, err := exec.Command("rm", "-f", r.database(id), r.database(id)+"-wal", r.database(id)+"-shm").CombinedOutput(); err != nil {
		t.Fatalf("rm: %v\n%s", err, out)
	}
}

// locked reports whether another process is told that a file is locked.
func locked(t testing.TB, path string) bool {
	t.Helper()
	err := exec.Command("flock", "--nonblock", path, "true").Run()
	if exit, ok := err.(*exec.ExitError); ok && exit.ExitCode() == 1 {
		return true
	}
	if err != nil {
		t.Fatal(err)
	}
	return false
}

func sameTenants(t testing.TB, where string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: the tenants are %q, want %q", where, got, want)
	}
}

// TestListingTenantsTakesNone lists tenants as the application does when it
// starts: where they are in use, on a machine that has nothing of them, and there
// again when they were let go. A record each is read and no more.
func TestListingTenantsTakesNone(t *testing.T) {
	const n = 10
	dir := t.TempDir()
	b := openBucket(t, dir)
	one := boot(t, dir, b, volume.Options{ShipInterval: tick}, true)
	here := rails{one.FS.Dir}
	var want []string
	for i := range n {
		id := fmt.Sprintf("tenant-%02d", i)
		want = append(want, id)
		here.create(t, id, nil)
	}
	for _, id := range want {
		one.WaitShipped(t, id)
	}

	// The other machine's requests fail which it has no business to make.
	watched := faulty.Wrap(b)
	var needless []*faulty.Injected
	for _, f := range []faulty.Fault{
		{Key: "tenants/*/db/*"}, {Op: faulty.Put, Key: "tenants/*"}, {Op: faulty.Delete, Key: "tenants/*"}, {Op: faulty.Copy},
	} {
		f.Before = errors.Unavailable
		needless = append(needless, watched.Inject(f))
	}
	two := boot(t, t.TempDir(), watched, volume.Options{ShipInterval: tick}, true)
	there := rails{two.FS.Dir}
	for _, c := range []struct {
		name    string
		machine *machine
		records int64 // that are read
	}{
		{"where they are open", one, 0},
		{"on another machine", two, n},
		{"and there again", two, n},
	} {
		before, taken := c.machine.Volume.Stat("").Bucket, epochs(t, b, want)
		began := time.Now()
		sameTenants(t, c.name, rails{c.machine.FS.Dir}.tenants(t), want...)
		seconds := int64(time.Since(began) / time.Second) // a record is good for one
		cost := c.machine.Volume.Stat("").Bucket.Sub(before)
		t.Logf("%d tenants %s: %+v", n, c.name, cost)
		// Beside it, heartbeats.
		records := c.records * (1 + seconds)
		if cost.List > 1 || cost.Get > records+1 || cost.Put > 1+seconds || cost.BytesIn > 1000*(records+1) {
			t.Errorf("listing %d tenants %s costs %+v", n, c.name, cost)
		}
		if after := epochs(t, b, want); !slices.Equal(taken, after) {
			t.Errorf("listing %s took tenants: epochs %v, then %v", c.name, taken, after)
		}
	}
	mounttest.SQL(t, here.database(want[0]), "insert into notes values('still mine')")
	sizes := make(map[string]int64)
	for _, id := range want {
		info, err := os.Stat(here.database(id))
		if err != nil {
			t.Fatal(err)
		}
		sizes[id] = info.Size()
	}
	one.stop(t)

	time.Sleep(1100 * time.Millisecond) // what it saw may be shown for a second
	for _, id := range want {
		if info, err := os.Stat(there.database(id)); err != nil || info.Size() != sizes[id] {
			t.Errorf("%s has %d bytes, and on the other machine %v %v", id, sizes[id], info, err)
		}
		if _, err := os.Stat(there.ready(id)); !os.IsNotExist(err) {
			t.Errorf("the lock of %s: %v", id, err)
		}
	}
	for _, i := range needless {
		if i.Hits() > 0 {
			t.Errorf("looking made %d requests that it has no business to make", i.Hits())
		}
	}
	two.stop(t)
}

// epochs counts how often each tenant was taken.
func epochs(t testing.TB, b bucket.Bucket, ids []string) (all []uint64) {
	t.Helper()
	for _, id := range ids {
		all = append(all, record(t, b, id).Epoch)
	}
	return all
}

// TestTenantsComeAndGo makes and destroys tenants, and goes on with an empty cache
// after each step, when the machine before was stopped or died.
func TestTenantsComeAndGo(t *testing.T) {
	next := func(t *testing.T, b bucket.Bucket) *machine {
		return boot(t, t.TempDir(), b, sure(volume.Options{ShipInterval: tick}), true)
	}
	t.Run("stopped", func(t *testing.T) {
		comeAndGo(t, func(m *machine) *machine {
			m.stop(t)
			return next(t, m.Bucket)
		})
	})
	t.Run("died", func(t *testing.T) {
		comeAndGo(t, func(m *machine) *machine {
			for _, id := range []string{"acme", "globex"} {
				m.WaitShipped(t, id)
			}
			disown(t, m.Bucket, m)
			return next(t, m.Bucket)
		})
	})
}

// comeAndGo is the story; replace gives another machine for one.
func comeAndGo(t *testing.T, replace func(*machine) *machine) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	store := "file://" + filepath.Join(dir, "bucket")
	m := boot(t, dir, b, sure(volume.Options{ShipInterval: tick}), true)
	again := func() rails {
		m = replace(m)
		return rails{m.FS.Dir}
	}
	r := rails{m.FS.Dir}
	databases := func(id string) string { return strings.Join(mounttest.Databases(t, store, id), " ") }

	sameTenants(t, "in the beginning", r.tenants(t))
	r.create(t, "acme", func() {
		if !locked(t, r.ready("acme")) {
			t.Error("another process gets the lock of a tenant that is being made")
		}
		sameTenants(t, "touched", r.tenants(t), "acme")
		m.WaitShipped(t, "acme")
		if d := databases("acme"); d != "" {
			t.Errorf("an empty file counts as the database %s", d)
		}
	})
	if err := os.WriteFile(r.ready("acme"), nil, 0o644); err != nil || locked(t, r.ready("acme")) {
		t.Errorf("the lock of a tenant that is made: %v, or another process does not get it", err)
	}
	m.WaitShipped(t, "acme")
	if d := databases("acme"); d != "main.sqlite3" {
		t.Errorf("after the first migration the databases are %q", d)
	}
	mounttest.SQL(t, r.database("acme"), "insert into notes values('of the first')")
	// One that is touched and no more, as when the application dies then.
	if err := os.MkdirAll(filepath.Join(r.dir, "globex"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.database("globex"), nil, 0o644); err != nil {
		t.Fatal(err)
	}

	r = again()
	sameTenants(t, "after a restart", r.tenants(t), "acme", "globex")
	if info, err := os.Stat(r.database("globex")); err != nil || info.Size() != 0 {
		t.Errorf("what was touched: %v, %v", info, err)
	}
	if got := mounttest.SQL(t, r.database("acme"), "select text from notes"); got != "of the first" {
		t.Errorf("acme has the notes %q", got)
	}
	r.create(t, "globex", nil)
	mounttest.SQL(t, r.database("globex"), "insert into notes values('of globex')")
	s := connect(t, r.database("acme")) // leaves a log, as a server that runs does
	s.exec("insert into notes values('the last');")
	r.destroy(t, "acme")
	s.leave()
	sameTenants(t, "destroyed", r.tenants(t), "globex")

	r = again()
	sameTenants(t, "destroyed, after a restart", r.tenants(t), "globex")
	if d := databases("acme"); d != "" {
		t.Errorf("the bucket still names the database %s of acme", d)
	}
	if names, err := os.ReadDir(filepath.Join(r.dir, "acme")); err != nil || len(names) != 1 || names[0].Name() != "main.sqlite3.ready_lock" {
		t.Errorf("what is left of acme: %v, %v", names, err)
	}
	r.create(t, "acme", func() {
		if info, err := os.Stat(r.database("acme")); err != nil || info.Size() != 0 {
			t.Errorf("touched again: %v, %v", info, err)
		}
	})
	if got := mounttest.SQL(t, r.database("acme"), "select count(*) from notes; insert into notes values('of the second')"); got != "0" {
		t.Errorf("the new acme has %s notes", got)
	}

	r = again()
	sameTenants(t, "made again", r.tenants(t), "acme", "globex")
	for id, want := range map[string]string{"acme": "of the second", "globex": "of globex"} {
		if got := mounttest.SQL(t, r.database(id), "pragma integrity_check; select text from notes"); got != "ok\n"+want {
			t.Errorf("%s has the notes %q", id, got)
		}
	}
	m.stop(t)
	copied := mounttest.LitestreamRestore(t, store, "acme", "main.sqlite3")
	if got := mounttest.SQL(t, copied, "pragma integrity_check; select text from notes"); got != "ok\nof the second" {
		t.Errorf("litestream's copy holds %q", got)
	}
}

// TestListingAsksForManyAtOnce lists tenants of a bucket that takes its time: the
// waits are not one after the other, and one that fails is not left out.
func TestListingAsksForManyAtOnce(t *testing.T) {
	const n = 64
	dir := t.TempDir()
	b := openBucket(t, dir)
	one := boot(t, dir, b, volume.Options{}, true)
	var want []string
	for i := range n {
		want = append(want, fmt.Sprintf("tenant-%02d", i))
		one.MakeTenant(t, want[i])
	}
	one.stop(t)

	slow := faulty.Wrap(b)
	waits := slow.Inject(faulty.Fault{Op: faulty.Get, Key: "tenants/*/tenant.json", Latency: 100 * time.Millisecond})
	two := boot(t, t.TempDir(), slow, volume.Options{}, true)
	began := time.Now()
	entries, err := os.ReadDir(two.FS.Dir)
	took := time.Since(began)
	if err != nil || len(entries) != n || waits.Hits() != n {
		t.Errorf("%d tenants, %d records, %v", len(entries), waits.Hits(), err)
	}
	if all := n * 100 * time.Millisecond; took > all/2 {
		t.Errorf("it took %v, and %v one after the other", took, all)
	}
	two.stop(t)

	waits.Remove()
	slow.Inject(faulty.Fault{Op: faulty.Get, Key: "tenants/tenant-40/tenant.json", Before: errors.Unavailable})
	three := boot(t, t.TempDir(), slow, volume.Options{}, true)
	if entries, err := os.ReadDir(three.FS.Dir); err == nil {
		t.Errorf("without one record it lists %d tenants", len(entries))
	}
	three.stop(t)
}
