package mount_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"atc/fs/bucket"
	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// modeCase is a way to use SQLite: what a connection says first, and whether its
// commits are taken while it stays open. What is not is called degraded, and taken
// when it is closed.
type modeCase struct {
	name     string
	create   string // before there is a table
	setup    string // of each connection
	degraded bool
}

// modeCases are the journal modes with each level of synchronous, and what else
// changes how SQLite uses its files.
func modeCases(daemon bool) []modeCase {
	var cases []modeCase
	for _, journal := range []string{"delete", "truncate", "persist", "wal", "memory", "off"} {
		for _, sync := range []string{"off", "normal", "full", "extra"} {
			cases = append(cases, modeCase{
				name:  journal + "-" + sync,
				setup: fmt.Sprintf("pragma journal_mode=%s; pragma synchronous=%s;", journal, sync),
				// Nothing says when such a commit is complete; the zeros that end a
				// journal in PERSIST mode are a write, which only the daemon sees.
				degraded: sync == "off" && (journal == "memory" || journal == "off" || journal == "persist" && !daemon),
			})
		}
	}
	for _, journal := range []string{"wal", "delete"} {
		for _, size := range []int{512, 1024, 8192, 65536} {
			cases = append(cases, modeCase{
				name: fmt.Sprintf("%s-pages-%d", journal, size), create: fmt.Sprintf("pragma page_size=%d;", size),
				setup: fmt.Sprintf("pragma journal_mode=%s;", journal),
			})
		}
		cases = append(cases,
			modeCase{name: journal + "-exclusive", setup: "pragma locking_mode=exclusive; pragma journal_mode=" + journal + ";"},
			modeCase{name: journal + "-mapped", setup: "pragma mmap_size=134217728; pragma journal_mode=" + journal + ";"},
			modeCase{name: journal + "-auto-vacuum", create: "pragma auto_vacuum=full;", setup: "pragma journal_mode=" + journal + ";"},
			modeCase{name: journal + "-incremental-vacuum", create: "pragma auto_vacuum=incremental;", setup: "pragma journal_mode=" + journal + "; pragma incremental_vacuum(20);"},
			modeCase{name: journal + "-spilling", setup: "pragma cache_size=4; pragma journal_mode=" + journal + ";"},
			modeCase{name: journal + "-small-log", setup: "pragma wal_autocheckpoint=5; pragma journal_size_limit=0; pragma journal_mode=" + journal + ";"},
		)
	}
	return cases
}

// modeWork changes a database in every way that pages change: growth, updates in
// place, pages that become free and are used again, shrinking, and what is undone.
const modeWork = `
	with recursive r(i) as (select 1 union all select i+1 from r where i<300) insert into t(a, b) select abs(random() % 1000000), randomblob(400) from r;
	update t set b = randomblob(410) where rowid % 7 = 0;
	begin; delete from t; insert into t(a) values(1); rollback;
	savepoint s; delete from t where rowid < 50; rollback to s; release s;
	delete from t where rowid between 100 and 250;
	insert into t(a, b) select a, randomblob(900) from t limit 40;
`

// TestModes uses a database in each of them, with a connection that stays open:
// what it committed is in the bucket, or the database is called degraded until it
// is closed. Then Litestream and an empty machine have what the application had.
func TestModes(t *testing.T) {
	for _, daemon := range []bool{false, true} {
		t.Run(map[bool]string{false: "passthrough", true: "daemon"}[daemon], func(t *testing.T) {
			dir := t.TempDir()
			store := "file://" + filepath.Join(dir, "bucket")
			b := openBucket(t, dir)
			m := boot(t, dir, b, volume.Options{ShipInterval: tick}, !daemon)
			folder := m.MakeTenant(t, "acme")
			want := make(map[string]string)
			for _, c := range modeCases(daemon) {
				path := filepath.Join(folder, c.name)
				s := connect(t, path)
				s.exec(c.create + "create table t(a, b); create index ta on t(a);" + c.setup)
				s.exec("vacuum;") // with what was created
				s.leave()
				s = connect(t, path)
				s.exec(c.setup)
				s.exec(modeWork)
				if c.degraded {
					eventually(t, c.name+" is called degraded", func() bool { return len(stat(m, c.name).Degraded) > 0 })
				} else {
					eventually(t, c.name+" is shipped while it is open", func() bool {
						d := stat(m, c.name)
						return len(d.Degraded) == 0 && d.PendingPages == 0 && d.TXID > 0 && m.Volume.Shipped("acme")
					})
					open := mounttest.SQL(t, mounttest.LitestreamRestore(t, store, "acme", c.name), "pragma integrity_check; select count(*), sum(a), sum(length(b)) from t;")
					if got := s.exec("pragma integrity_check; select count(*), sum(a), sum(length(b)) from t;"); got != open {
						t.Errorf("%s: while it is open litestream restores %q, the application reads %q", c.name, open, got)
					}
				}
				s.leave()
				want[c.name] = mounttest.SQL(t, path, "pragma integrity_check; select * from t order by rowid;")
			}
			m.WaitShipped(t, "acme")
			for _, c := range modeCases(daemon) {
				if d := stat(m, c.name); len(d.Degraded) > 0 {
					t.Errorf("%s is degraded although it is closed: %v", c.name, d.Degraded)
				}
			}
			m.stop(t)
			sameEverywhere(t, b, store, want, !daemon)
		})
	}
}

// sameEverywhere compares databases of the tenant acme with what an empty machine
// and Litestream make of the bucket.
func sameEverywhere(t *testing.T, b bucket.Bucket, store string, want map[string]string, passthrough bool) {
	t.Helper()
	m := boot(t, t.TempDir(), b, volume.Options{}, passthrough)
	defer m.stop(t)
	for name, content := range want {
		const query = "pragma integrity_check; select * from t order by rowid;"
		if !strings.HasPrefix(content, "ok\n") {
			t.Errorf("%s was no sound database: %.80q", name, content)
		}
		if got := mounttest.SQL(t, filepath.Join(m.FS.Dir, "acme", name), query); got != content {
			t.Errorf("%s: an empty machine reads %d bytes, want %d: %.80q", name, len(got), len(content), got)
		}
		if got := mounttest.SQL(t, mounttest.LitestreamRestore(t, store, "acme", name), query); got != content {
			t.Errorf("%s: litestream restores %d bytes, want %d: %.80q", name, len(got), len(content), got)
		}
	}
}

// TestWaysToReplace makes databases in other ways than by commits: a copy that is
// renamed over one in use by nobody, by VACUUM INTO and by the backup API, a
// vacuum into another page size, and transactions over two of them.
func TestWaysToReplace(t *testing.T) {
	for _, daemon := range []bool{false, true} {
		for _, journal := range []string{"wal", "delete"} {
			t.Run(fmt.Sprintf("%s daemon=%v", journal, daemon), func(t *testing.T) {
				dir := t.TempDir()
				store := "file://" + filepath.Join(dir, "bucket")
				b := openBucket(t, dir)
				m := boot(t, dir, b, volume.Options{ShipInterval: tick}, !daemon)
				folder := m.MakeTenant(t, "acme")
				path := func(name string) string { return filepath.Join(folder, name) }
				begin := "pragma journal_mode=" + journal + "; create table t(a, b);" + modeWork

				mounttest.SQL(t, path("into"), begin+modeWork)
				m.WaitShipped(t, "acme")
				mounttest.SQL(t, path("into"), "delete from t where rowid % 2; vacuum into '"+path("new")+"'; insert into t(a) values('not in the copy');")
				if err := os.Rename(path("new"), path("into")); err != nil {
					t.Fatal(err)
				}
				mounttest.SQL(t, path("into"), "pragma journal_mode="+journal+"; insert into t(a) values('behind the copy');")

				mounttest.SQL(t, path("backup"), begin)
				mounttest.SQL(t, path("source"), begin+modeWork)
				m.WaitShipped(t, "acme")
				mounttest.SQL(t, path("source"), ".backup '"+path("backup")+"'") // the backup API, over a database

				if journal == "delete" { // SQLite changes no page size in WAL mode
					mounttest.SQL(t, path("resized"), "pragma page_size=1024;"+begin)
					m.WaitShipped(t, "acme")
					mounttest.SQL(t, path("resized"), "pragma page_size=8192; vacuum;"+modeWork)
				}
				for _, name := range []string{"first", "second"} {
					mounttest.SQL(t, path(name), begin)
				}
				mounttest.SQL(t, path("first"), "attach '"+path("second")+"' as s; begin; insert into main.t(a) values('both'); insert into s.t(a) values('both'); commit; begin; insert into main.t(a) values('never'); insert into s.t(a) values('never'); rollback;")

				names, err := filepath.Glob(path("*"))
				if err != nil {
					t.Fatal(err)
				}
				want := make(map[string]string)
				for _, name := range names {
					if !strings.Contains(filepath.Base(name), "-") {
						want[filepath.Base(name)] = mounttest.SQL(t, name, "pragma integrity_check; select * from t order by rowid;")
					}
				}
				m.WaitShipped(t, "acme")
				m.stop(t)
				sameEverywhere(t, b, store, want, !daemon)
			})
		}
	}
}
