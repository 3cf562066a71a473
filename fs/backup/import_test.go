package backup_test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"atc/fs/backup"
	"atc/fs/bucket"
	"atc/fs/bucket/litestreamtest"
	"atc/fs/bucket/s3test"
	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/mount/mounttest"
	"atc/fs/tenant"
	"atc/fs/tenant/tenanttest"
)

// fingerprint tells everything about a folder.
func fingerprint(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, p)
		text := fmt.Sprint(info.Mode())
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %x %v", sha256.Sum256(b), info.ModTime().UnixNano())
		case info.Mode()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(p)
			text += " " + to
		}
		all[name] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// unclean makes a database in dir that was not closed: its sidecar holds what
// counts. It is a copy, taken while SQLite had the original open.
func unclean(t testing.TB, dir, name, setup, during string) {
	t.Helper()
	from := filepath.Join(t.TempDir(), name)
	cmd := exec.Command("sqlite3", "-bail", from)
	script := setup + during + fmt.Sprintf("\n.shell cp %s* %s\n", from, dir)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
}

// TestImport takes databases of every kind, clean and not, and files in, and out
// again.
func TestImport(t *testing.T) {
	w := serviceOn(t, openBucket(t))
	dir := t.TempDir()
	for i, mode := range []string{"delete", "wal", "truncate", "persist"} {
		mounttest.SQL(t, filepath.Join(dir, mode+".db"),
			fmt.Sprintf("pragma page_size=%d; pragma journal_mode=%s; create table t(a); insert into t values('%s')", 512<<(2*i), mode, mode))
	}
	unclean(t, dir, "in-wal.db", "pragma journal_mode=wal; pragma wal_autocheckpoint=0; create table t(a);", "insert into t values('only in the log');")
	// A transaction that spilled and never committed: the journal is hot.
	unclean(t, dir, "hot.db", "create table t(a); insert into t values('before'); create table big(b);",
		"pragma cache_size=5; begin; update t set a='not committed'; with recursive n(i) as (select 1 union all select i+1 from n where i<500) insert into big select randomblob(1000) from n;")
	if info, err := os.Stat(filepath.Join(dir, "hot.db-journal")); err != nil || info.Size() == 0 {
		t.Fatalf("the journal is not hot: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "sub", "deep"), 0o750); err != nil {
		t.Fatal(err)
	}
	old := time.Date(2020, 1, 2, 3, 4, 5, 6000, time.UTC)
	for name, text := range map[string]string{"sub/deep/note": "text", "sub/empty": "", "lonely-wal": "a log of nobody"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "sub", "link")); err != nil {
		t.Fatal(err)
	}
	before := fingerprint(t, dir)
	report, err := w.service.Import(t.Context(), dir, "new", nil)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(before, fingerprint(t, dir)) {
		t.Error("the source has changed")
	}
	if len(report.Databases) != 6 {
		t.Errorf("%d databases", len(report.Databases))
	}
	want := map[string]string{
		"delete.db": "ok\ndelete", "wal.db": "ok\nwal", "truncate.db": "ok\ntruncate", "persist.db": "ok\npersist",
		"in-wal.db": "ok\nonly in the log", "hot.db": "ok\nbefore",
	}
	if got := w.contents(t, "new", backup.Point{}); !maps.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if _, findings, err := w.service.Verify(t.Context(), "new", nil); err != nil || len(findings) > 0 {
		t.Errorf("%v %v", findings, err)
	}
	out := filepath.Join(t.TempDir(), "out")
	if _, err := w.service.Export(t.Context(), "new", out, backup.Point{}, nil); err != nil {
		t.Fatal(err)
	}
	after := fingerprint(t, out)
	for name, text := range before {
		if !strings.Contains(name, ".db") && name != "." && after[name] != text {
			t.Errorf("%s was %s, is %s", name, text, after[name])
		}
	}
	for name := range after {
		if strings.Contains(name, "partial") || before[name] == "" {
			t.Errorf("%s was not there", name)
		}
	}
	// The same tenant, mounted and written.
	f := mounttest.Start(t, mounttest.Options{Bucket: w.b})
	for name, text := range want {
		if got := mounttest.SQL(t, filepath.Join(f.Dir, "new", name), "pragma integrity_check; select group_concat(a) from t"); got != text {
			t.Errorf("mounted, %s: %q", name, got)
		}
	}
	mounttest.SQL(t, filepath.Join(f.Dir, "new", "in-wal.db"), "insert into t values('written')")
	f.Stop(t)
	url, _, _ := strings.Cut(w.b.URL(), "?")
	restored := mounttest.LitestreamRestore(t, url, "new", "in-wal.db")
	if got := mounttest.SQL(t, restored, "select group_concat(a) from t"); got != "only in the log,written" {
		t.Errorf("litestream: %q", got)
	}
}

// TestExportStaysInside has the bucket name paths that lead out of the folder.
func TestExportStaysInside(t *testing.T) {
	for name, entries := range map[string][]tenant.FileEntry{
		"through a symlink":  {{Path: "a", Kind: tenant.Symlink, Target: ".."}, {Path: "a/escaped", Kind: tenant.Regular, Mode: 0o644}},
		"chmod of a symlink": {{Path: "d", Kind: tenant.Directory, Mode: 0o700}, {Path: "d", Kind: tenant.Symlink, Target: ".."}},
		"a folder below one": {{Path: "a", Kind: tenant.Symlink, Target: ".."}, {Path: "a/escaped", Kind: tenant.Directory, Mode: 0o700}},
		"twice":              {{Path: "a", Kind: tenant.Regular}, {Path: "a", Kind: tenant.Regular}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, openBucket(t))
			files := tenant.NewFiles(w.b, "acme")
			index, err := files.Load(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			index.Entries = entries
			if err := files.Save(t.Context(), index); err != nil {
				t.Fatal(err)
			}
			base := t.TempDir()
			if _, err := w.service.Export(t.Context(), "acme", filepath.Join(base, "out"), backup.Point{}, nil); err == nil {
				t.Error("it was exported")
			}
			if there, _ := os.ReadDir(base); len(there) != 0 {
				t.Errorf("it left %v", there)
			}
		})
	}
}

// TestImportRefuses what it cannot take.
func TestImportRefuses(t *testing.T) {
	w := newWorld(t, openBucket(t))
	dir := t.TempDir()
	if err := exec.Command("mkfifo", filepath.Join(dir, "pipe")).Run(); err != nil {
		t.Fatal(err)
	}
	short := t.TempDir()
	mounttest.SQL(t, filepath.Join(short, "a.db"), "create table t(a); create table u(a)")
	if err := os.Truncate(filepath.Join(short, "a.db"), 4096); err != nil {
		t.Fatal(err)
	}
	for dir, kind := range map[string]errors.Kind{dir: errors.Unsupported, short: errors.Corrupt, filepath.Join(dir, "nope"): errors.NotExist} {
		if _, err := w.service.Import(t.Context(), dir, "new", nil); !errors.Is(kind, err) {
			t.Errorf("%s: %v, want %v", dir, err, kind)
		}
	}
	if _, err := w.service.Import(t.Context(), t.TempDir(), "acme", nil); !errors.Is(errors.Exist, err) {
		t.Errorf("over a tenant: %v", err)
	}
}

// replicate runs a version of litestream on a database while rows are added.
func replicate(t *testing.T, program, replica string) {
	t.Helper()
	db := filepath.Join(t.TempDir(), "app.db")
	mounttest.SQL(t, db, "pragma journal_mode=wal; create table t(a); insert into t values(1)")
	config := filepath.Join(t.TempDir(), "litestream.yml")
	text := fmt.Sprintf("dbs:\n  - path: %s\n    replica:\n      url: %s\n      sync-interval: 50ms\n", db, replica)
	if strings.Contains(replica, "?") {
		text += "      force-path-style: true\n"
	}
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "replicate", "-config", config)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	seen := 0
	synced := func() {
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if n := shipped(t, replica); n > seen {
				seen = n
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("litestream does not replicate: %s", out.String())
			}
		}
	}
	synced()
	for n := 2; n <= 6; n++ {
		mounttest.SQL(t, db, fmt.Sprintf("insert into t values(%d)", n))
		synced()
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if t.Failed() {
		t.Log(out.String())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(out.String())
		}
	})
}

// shipped counts what a replica holds.
func shipped(t *testing.T, replica string) (n int) {
	t.Helper()
	if dir, ok := strings.CutPrefix(replica, "file://"); ok {
		_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(d.Name(), ".ltx") {
				n++
			}
			return nil
		})
		return n
	}
	b, err := bucket.Open(t.Context(), replica)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range b.List(t.Context(), "", bucket.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// TestImportLitestream adopts a replica in a directory and one in S3, with its
// past.
func TestImportLitestream(t *testing.T) {
	for _, program := range litestreamtest.Programs(t) {
		t.Run(filepath.Base(filepath.Dir(program)), func(t *testing.T) { importLitestream(t, program) })
	}
}

func importLitestream(t *testing.T, program string) {
	s3 := s3test.Start(t)
	address, query, _ := strings.Cut(s3, "?")
	dir := t.TempDir()
	for _, c := range []struct{ name, replica, store string }{
		{"directory", "file://" + dir + "/replica", "file://" + dir + "/bucket"},
		{"the same S3 store", address + "/theirs/app?" + query, address + "/ours?" + query},
		{"from S3 into a directory", address + "/theirs/app?" + query, "file://" + dir + "/bucket2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name != "from S3 into a directory" {
				replicate(t, program, c.replica)
			}
			b, err := bucket.Open(t.Context(), c.store)
			if err != nil {
				t.Fatal(err)
			}
			r := tenanttest.Registry(t, b, "m", "s", time.Now)
			w := world{b, r, backup.New(b, r, time.Now)}
			report, err := w.service.ImportLitestream(t.Context(), c.replica, "new", "data/main.sqlite3", nil)
			if err != nil {
				t.Fatal(err)
			}
			const want = "map[data/main.sqlite3:ok\n1,2,3,4,5,6]"
			if got := fmt.Sprint(w.contents(t, "new", backup.Point{})); got != want {
				t.Errorf("%q", got)
			}
			held, err := r.Load(t.Context(), "new")
			if err != nil {
				t.Fatal(err)
			}
			first, last, err := history.NewLog(b, tenant.DatabaseFolder("new", held.Databases["data/main.sqlite3"].Folder)).Range(t.Context())
			if err != nil || last != report.Databases[0].At {
				t.Errorf("it ends at %v, the report says %v (%v)", last, report.Databases[0].At, err)
			}
			past := w.contents(t, "new", backup.Point{Time: first.Time})
			if got := past["data/main.sqlite3"]; !strings.HasPrefix(got, "ok\n1") || strings.Contains(got, "6") {
				t.Errorf("its past: %q", got)
			}
			f := mounttest.Start(t, mounttest.Options{Bucket: b})
			mounttest.SQL(t, filepath.Join(f.Dir, "new/data/main.sqlite3"), "insert into t values(7)")
			f.Stop(t)
			restored := mounttest.LitestreamRestore(t, c.store, "new", "main.sqlite3")
			if got := mounttest.SQL(t, restored, "pragma integrity_check; select group_concat(a) from t"); got != "ok\n1,2,3,4,5,6,7" {
				t.Errorf("litestream: %q", got)
			}
		})
	}
}

// TestForkAndRestoreOnS3 does both on a real S3 server, around a mount.
func TestForkAndRestoreOnS3(t *testing.T) {
	store := s3test.Start(t)
	f := mounttest.Start(t, mounttest.Options{Store: store})
	dir := f.MakeTenant(t, "acme")
	db := filepath.Join(dir, "main.sqlite3")
	mounttest.SQL(t, db, "pragma journal_mode=wal; create table t(a); insert into t values(1)")
	f.WaitShipped(t, "acme")
	time.Sleep(5 * time.Millisecond)
	at := time.Now()
	mounttest.SQL(t, db, "insert into t values(2)")
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.WaitShipped(t, "acme")
	var counters bucket.Counters
	b := bucket.Count(f.Bucket, &counters)
	r := tenanttest.Registry(t, b, "other", "session", time.Now)
	s := backup.New(b, r, time.Now)
	if _, err := s.Fork(t.Context(), "acme", "copy", backup.Point{Time: at}, nil); err != nil {
		t.Fatal(err)
	}
	if n := counters.Snapshot(); n.Copy < 2 || n.Put > 3 {
		t.Errorf("a fork took %+v", n)
	}
	if got := mounttest.SQL(t, filepath.Join(f.Dir, "copy", "main.sqlite3"), "insert into t values('fork'); select group_concat(a) from t"); got != "1,fork" {
		t.Errorf("the fork: %q", got)
	}
	if b, err := os.ReadFile(filepath.Join(f.Dir, "copy", "file")); string(b) != "content" {
		t.Errorf("its file: %q, %v", b, err)
	}
	f.Stop(t) // releases acme
	if _, err := s.Restore(t.Context(), "acme", backup.Point{Time: at}, nil); err != nil {
		t.Fatal(err)
	}
	restored := mounttest.LitestreamRestore(t, store, "copy", "main.sqlite3")
	if got := mounttest.SQL(t, restored, "select group_concat(a) from t"); got != "1,fork" {
		t.Errorf("litestream, of the fork: %q", got)
	}
	g := mounttest.Start(t, mounttest.Options{Store: store})
	if got := mounttest.SQL(t, filepath.Join(g.Dir, "acme", "main.sqlite3"), "select group_concat(a) from t; insert into t values(3)"); got != "1" {
		t.Errorf("restored: %q", got)
	}
	g.Stop(t)
	if _, findings, err := s.Verify(t.Context(), "acme", nil); err != nil || len(findings) > 0 {
		t.Errorf("%v %v", findings, err)
	}
}
