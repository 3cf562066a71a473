package mount_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"atc/fs/mount"
	"atc/fs/mount/mounttest"
	"atc/fs/tenant/tenanttest"
	"atc/fs/volume"
)

// logged is a log that a test reads.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// visit mounts a second machine's volume on the bucket of f, with its log.
func visit(t *testing.T, f *mounttest.FS) (dir string, log *logged) {
	t.Helper()
	base := t.TempDir()
	log = &logged{}
	logger := slog.New(slog.NewTextHandler(log, nil))
	v, err := volume.Open(t.Context(), volume.Options{Bucket: f.Bucket, Cache: filepath.Join(base, "cache"), Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	m, err := mount.Mount(t.Context(), filepath.Join(base, "mnt"), v, mount.Options{Name: base, Logger: logger})
	if err != nil {
		v.Close(t.Context())
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Unmount(context.Background()); err != nil {
			t.Error(err)
		}
		if err := v.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m.Dir(), log
}

// TestTimeTravel looks back at a tenant that is being written, on its own machine
// and on another one, with the plain sqlite3 shell.
func TestTimeTravel(t *testing.T) {
	f := mounttest.Start(t, mounttest.Options{Volume: volume.Options{ShipInterval: tick}})
	acme := f.MakeTenant(t, "acme")
	begin := time.Now()
	time.Sleep(5 * time.Millisecond)
	moments := make(map[string]string) // time → the rows that were there
	note := func(rows string) {
		t.Helper()
		f.WaitShipped(t, "acme")
		time.Sleep(5 * time.Millisecond)
		moments[time.Now().UTC().Format(time.RFC3339Nano)] = rows
		time.Sleep(5 * time.Millisecond)
	}
	db := filepath.Join(acme, "main.sqlite3")
	mounttest.SQL(t, db, "pragma journal_mode=wal; create table t(a, b); insert into t values('one', zeroblob(300000));")
	note("one")
	if err := os.Mkdir(filepath.Join(acme, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(acme, "sub", "rollback.sqlite3")
	mounttest.SQL(t, other, "pragma page_size=1024; create table t(a); insert into t values('in sub');")
	mounttest.SQL(t, db, "insert into t values('two', zeroblob(300000));")
	note("one,two")
	withBoth := time.Now().UTC().Format(time.RFC3339Nano)
	mounttest.SQL(t, db, "delete from t where a='one'; vacuum;")
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	note("two")
	if err := os.WriteFile(filepath.Join(acme, "plain"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.WaitShipped(t, "acme")

	there, log := visit(t, f)
	registry := tenanttest.Registry(t, f.Bucket, "m", "s", time.Now)
	before, err := registry.Load(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	for _, mnt := range []string{f.Dir, there} {
		for at, want := range moments {
			path := filepath.Join(mnt, ".at", at, "acme", "main.sqlite3")
			got := mounttest.SQL(t, path, "pragma integrity_check; select group_concat(a) from t;")
			if got != "ok\n"+want {
				t.Errorf("%s: %q, want %q", path, got, want)
			}
			if out, err := mounttest.TrySQL(path, "insert into t values(1,1);"); err == nil || !strings.Contains(out, "readonly") {
				t.Errorf("writing: %v %s", err, out)
			}
			// A second connection, while one is open, and without the page cache.
			if out, err := exec.Command("sqlite3", "-readonly", "file:"+path+"?mode=ro", "select count(*) from t").CombinedOutput(); err != nil {
				t.Errorf("%v %s", err, out)
			}
		}
		past := filepath.Join(mnt, ".at", withBoth)
		if got := mounttest.SQL(t, filepath.Join(past, "acme/sub/rollback.sqlite3"), "select a from t"); got != "in sub" {
			t.Errorf("a database that was removed since: %q", got)
		}
		for dir, want := range map[string]string{
			mnt: "acme", filepath.Join(mnt, ".at"): "", past: "acme",
			filepath.Join(past, "acme"): "main.sqlite3 sub", filepath.Join(past, "acme", "sub"): "rollback.sqlite3",
		} {
			entries, err := os.ReadDir(dir)
			var names []string
			for _, e := range entries {
				names = append(names, e.Name())
			}
			if got := strings.Join(names, " "); err != nil || got != want {
				t.Errorf("%s holds %q, %v; want %q", dir, got, err, want)
			}
		}
		refusesChange(t, filepath.Join(past, "acme"))
	}
	after, err := registry.Load(t.Context(), "acme")
	if err != nil || after.Epoch != before.Epoch || after.Owner.Session != before.Owner.Session {
		t.Errorf("looking back took the tenant: %+v, %v", after.Owner, err)
	}
	for name, want := range map[string]string{
		begin.UTC().Add(-time.Hour).Format(time.RFC3339) + "/acme": "its history goes from " + begin.UTC().Format("2006-01-02T15:04"),
		time.Now().Add(time.Hour).UTC().Format(time.RFC3339):       "in the future",
		"yesterday": "found by a time like",
		time.Now().UTC().Format(time.RFC3339) + "/nobody": "nobody",
		withBoth + "/acme/plain":                          "",
		withBoth + "/acme/main.sqlite3-wal":               "",
		time.Now().Format("2006-01-02 15:04:05"):          "found by a time like",
	} {
		if _, err := os.Stat(filepath.Join(there, ".at", name)); !os.IsNotExist(err) {
			t.Errorf("%s: %v", name, err)
		}
		if !strings.Contains(log.String(), want) {
			t.Errorf("%s: nothing in the log of %q:\n%s", name, want, log)
		}
	}
	zone := time.FixedZone("", 5*3600+1800)
	local, _ := time.Parse(time.RFC3339Nano, withBoth)
	path := filepath.Join(there, ".at", local.In(zone).Format(time.RFC3339Nano), "acme", "main.sqlite3")
	if got := mounttest.SQL(t, path, "select group_concat(a) from t"); got != "one,two" {
		t.Errorf("with an offset: %q", got)
	}
}

func refusesChange(t *testing.T, dir string) {
	t.Helper()
	db := filepath.Join(dir, "main.sqlite3")
	if info, err := os.Stat(db); err != nil || info.Mode().Perm() != 0o444 {
		t.Errorf("%v %v", info, err)
	}
	_, create := os.Create(filepath.Join(dir, "new"))
	_, open := os.OpenFile(db, os.O_RDWR, 0)
	for what, err := range map[string]error{
		"create": create, "open": open,
		"mkdir":    os.Mkdir(filepath.Join(dir, "new"), 0o755),
		"remove":   syscall.Unlink(db),
		"rmdir":    syscall.Rmdir(filepath.Join(dir, "sub")),
		"rename":   os.Rename(db, db+"2"),
		"symlink":  os.Symlink("x", filepath.Join(dir, "new")),
		"link":     os.Link(db, db+"2"),
		"chmod":    os.Chmod(db, 0o644),
		"truncate": os.Truncate(db, 0),
		"access":   syscall.Access(db, 2),
	} {
		if e := errnoOf(err); e != syscall.EROFS {
			t.Errorf("%s: %v, want EROFS", what, err)
		}
	}
}

func errnoOf(err error) syscall.Errno {
	for err != nil {
		if e, ok := err.(syscall.Errno); ok {
			return e
		}
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			break
		}
		err = u.Unwrap()
	}
	return 0
}

// TestTimeTravelIsLazy counts what one row of a large past database costs, and
// what the second read does.
func TestTimeTravelIsLazy(t *testing.T) {
	f := mounttest.Start(t, mounttest.Options{Volume: volume.Options{ShipInterval: tick}})
	db := filepath.Join(f.MakeTenant(t, "acme"), "main.sqlite3")
	mounttest.SQL(t, db, `pragma journal_mode=wal; create table t(a integer primary key, b);
		with recursive n(i) as (select 1 union all select i+1 from n where i<40000) insert into t select i, randomblob(400) from n;`)
	f.WaitShipped(t, "acme")
	time.Sleep(5 * time.Millisecond)
	at := time.Now().UTC().Format(time.RFC3339Nano)
	path := filepath.Join(f.Dir, ".at", at, "acme", "main.sqlite3")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	before := f.Volume.Stat("").Bucket
	if got := mounttest.SQL(t, path, "select length(b) from t where a=20000"); got != "400" {
		t.Fatal(got)
	}
	used := f.Volume.Stat("").Bucket.Sub(before)
	t.Logf("%d bytes of %d, %d requests", used.BytesIn, info.Size(), used.Requests())
	if used.BytesIn > 1<<20 || used.Requests() > 12 {
		t.Errorf("one row costs %d bytes and %d requests", used.BytesIn, used.Requests())
	}
	before = f.Volume.Stat("").Bucket
	if got := mounttest.SQL(t, path, "select length(b) from t where a=20000"); got != "400" {
		t.Fatal(got)
	}
	if used := f.Volume.Stat("").Bucket.Sub(before); used.Requests() > 2 {
		t.Errorf("the second time it costs %d requests", used.Requests())
	}
}
