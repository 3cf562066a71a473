package mount_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"atc/fs/backup"
	"atc/fs/bucket"
	"atc/fs/bucket/s3test"
	"atc/fs/mount/mounttest"
	"atc/fs/tenant"
	"atc/fs/tenant/tenanttest"
	"atc/fs/volume"
)

// TestLitestreamRestoresEveryStep goes through everything that is done to a
// tenant in the bucket, and after each step has Litestream restore its databases
// with nothing but the bucket: the same content as on the mount.
func TestLitestreamRestoresEveryStep(t *testing.T) {
	stores := map[string]func(*testing.T) string{
		"directory": func(t *testing.T) string { return "file://" + filepath.Join(t.TempDir(), "bucket") },
		"S3":        func(t *testing.T) string { return s3test.Start(t) },
	}
	for name, store := range stores {
		t.Run(name, func(t *testing.T) { litestreamSteps(t, store(t)) })
	}
}

// stepNames are the databases of the story: one in WAL mode, one with a rollback
// journal and small pages.
var stepNames = []string{"main.sqlite3", "other.sqlite3"}

func litestreamSteps(t *testing.T, store string) {
	b, err := bucket.Open(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	o := volume.Options{ShipInterval: tick, Policy: hurried(), HydrateAfter: -1}
	m := boot(t, t.TempDir(), b, sure(o), true)
	path := func(id, name string) string { return filepath.Join(m.FS.Dir, id, name) }
	// checked compares what Litestream restores of a tenant with what the mount
	// shows.
	checked := func(step, id string) {
		t.Helper()
		m.WaitShipped(t, id)
		for _, name := range stepNames {
			want := mounttest.SQL(t, path(id, name), "pragma integrity_check; select * from t order by a;")
			m.WaitShipped(t, id)
			got := mounttest.SQL(t, mounttest.LitestreamRestore(t, store, id, name), "pragma integrity_check; select * from t order by a;")
			if got != want || !strings.HasPrefix(want, "ok\n") {
				t.Errorf("%s: of %s/%s litestream restores %d bytes, the mount has %d: %.80q", step, id, name, len(got), len(want), want)
			}
		}
		t.Logf("%s: %v", step, levels(t, b, id))
	}
	rest := func() { // lets go of everything
		t.Helper()
		m.stop(t)
	}
	wake := func() {
		t.Helper()
		m = boot(t, t.TempDir(), b, sure(o), true)
	}

	m.MakeTenant(t, "acme")
	mounttest.SQL(t, path("acme", "main.sqlite3"), "pragma journal_mode=wal; create table t(a integer primary key, b); insert into t select value, randomblob(700) from generate_series(1,3000);")
	mounttest.SQL(t, path("acme", "other.sqlite3"), "pragma page_size=1024; pragma auto_vacuum=full; create table t(a integer primary key, b); insert into t select value, randomblob(100) from generate_series(1,200);")
	checked("first ship", "acme")

	n := 3000
	commits := func(count int) {
		t.Helper()
		var one, two *session
		one, two = connect(t, path("acme", stepNames[0])), connect(t, path("acme", stepNames[1]))
		for range count {
			n++
			statements := fmt.Sprintf("insert into t values(%d, randomblob(300)); update t set b=randomblob(200) where a=%d; ", n, 1+n%97)
			if n%7 == 0 {
				statements += fmt.Sprintf("delete from t where a between %d and %d;", n-20, n-10)
			}
			one.exec(statements)
			two.exec(statements)
			time.Sleep(5 * time.Millisecond)
		}
		one.leave()
		two.leave()
	}
	commits(20)
	checked("many commits", "acme")
	eventually(t, "both are compacted and pruned", func() bool {
		commits(10)
		for _, name := range stepNames {
			if stat(m, name).ExpiredFiles < 20 {
				return false
			}
		}
		return levels(t, b, "acme")["0009"] > 1
	})
	checked("compaction and retention", "acme")
	mounttest.SQL(t, path("acme", "other.sqlite3"), "pragma page_size=4096; vacuum;")
	checked("another page size", "acme")
	commits(20)
	checked("commits behind it", "acme")
	rest()
	wake()
	checked("a clean close", "acme")

	commits(10)
	m.WaitShipped(t, "acme")
	before := m
	wake()
	disown(t, b, before)
	checked("a take-over", "acme")
	_ = before.halt(0)
	commits(10)
	checked("commits behind a barrier", "acme")

	registry := tenanttest.Registry(t, b, "m-steps", "s-steps", time.Now)
	service := backup.New(b, registry, time.Now)
	do := func(step string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
	}
	time.Sleep(5 * time.Millisecond)
	at := backup.Point{Time: time.Now()}
	time.Sleep(5 * time.Millisecond)
	commits(3)
	m.WaitShipped(t, "acme")
	_, err = service.Fork(t.Context(), "acme", "fork", backup.Point{}, nil)
	do("fork", err)
	_, err = service.Fork(t.Context(), "acme", "earlier", at, nil) // restore --as
	do("restore as another", err)
	checked("a fork", "fork")
	checked("restored as another", "earlier")
	for _, id := range []string{"fork", "earlier"} {
		for _, name := range stepNames {
			mounttest.SQL(t, path(id, name), "insert into t values(900000, 'of the copy'); delete from t where a < 50;")
		}
		checked("a copy that goes on", id)
	}
	eventually(t, "a copy is compacted", func() bool {
		mounttest.SQL(t, path("fork", "main.sqlite3"), "insert into t(b) values('more');")
		mounttest.SQL(t, path("fork", "other.sqlite3"), "insert into t(b) values('more');")
		return stat2(m, "fork", "main.sqlite3").Compactions > 3
	})
	checked("a fork that was compacted", "fork")
	_, err = service.Fork(t.Context(), "fork", "second", backup.Point{}, nil)
	do("fork of the fork", err)
	checked("a fork of a fork", "second")

	dir := filepath.Join(t.TempDir(), "out")
	_, err = service.Export(t.Context(), "acme", dir, backup.Point{}, nil)
	do("export", err)
	_, err = service.Import(t.Context(), dir, "plain", nil)
	do("import", err)
	checked("an import of plain files", "plain")
	held, err := registry.Load(t.Context(), "acme")
	do("load", err)
	address, query, _ := strings.Cut(store, "?")
	replica := address + "/" + tenant.DatabaseFolder("acme", held.Databases["main.sqlite3"].Folder)
	if query != "" {
		replica += "?" + query
	}
	_, err = service.ImportLitestream(t.Context(), replica, "adopted", "main.sqlite3", nil)
	do("import a replica", err)
	mounttest.SQL(t, path("adopted", "main.sqlite3"), "insert into t values(900000, 'adopted');")
	mounttest.SQL(t, path("adopted", "other.sqlite3"), "create table t(a); insert into t values(1);")
	checked("an import of a replica", "adopted")

	want := mounttest.SQL(t, path("earlier", "main.sqlite3"), "select max(a) from t where a < 900000;")
	rest()
	_, err = service.Restore(t.Context(), "acme", at, nil)
	do("restore in place", err)
	wake()
	if got := mounttest.SQL(t, path("acme", "main.sqlite3"), "select max(a) from t;"); got != want {
		t.Errorf("restored to %s, want %s", got, want)
	}
	checked("a restore in place", "acme")
	commits(5)
	checked("commits after it", "acme")

	if err := os.RemoveAll(filepath.Join(m.FS.Dir, "earlier")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the tenant is removed", func() bool {
		held, err := registry.LoadAny(context.Background(), "earlier")
		return err == nil && !held.Deleted.IsZero()
	})
	held, err = registry.LoadAny(t.Context(), "earlier")
	do("load", err)
	_, err = service.Undelete(t.Context(), "earlier", nil)
	do("undelete", err)
	_, err = service.Restore(t.Context(), "earlier", backup.Point{Time: held.Removed[0].At.Add(-time.Millisecond)}, nil)
	do("restore what was removed", err)
	eventually(t, "it is seen again", func() bool {
		_, err := os.Stat(path("earlier", "main.sqlite3"))
		return err == nil
	})
	checked("an undelete", "earlier")
	rest()
	for _, id := range []string{"acme", "fork", "earlier", "second", "plain", "adopted"} {
		if _, findings, err := service.Verify(t.Context(), id, nil); err != nil || len(findings) > 0 {
			t.Errorf("%s: %v %v", id, findings, err)
		}
	}
}

// stat2 is stat for where several tenants have a database of that name.
func stat2(m *machine, id, path string) volume.DatabaseStat {
	for _, t := range m.Volume.Stat(id).Tenants {
		for _, d := range t.Databases {
			if d.Path == path {
				return d
			}
		}
	}
	return volume.DatabaseStat{}
}
