package mount_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/history"
	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// hurried is the default policy at a pace that a test can wait for.
func hurried() *history.Policy {
	p := history.DefaultPolicy()
	p.Window1, p.Window2 = 300*time.Millisecond, 1500*time.Millisecond
	p.Keep0, p.Keep1, p.Keep2, p.Grace = time.Second, 2*time.Second, 4*time.Second, time.Second
	p.SnapshotEvery, p.SnapshotFiles, p.Every = time.Second, 4, 4
	return &p
}

// levels counts a tenant's LTX files by level.
func levels(t testing.TB, b bucket.Bucket, id string) map[string]int {
	t.Helper()
	n := make(map[string]int)
	for e, err := range b.List(t.Context(), "tenants/"+id+"/db/", bucket.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(e.Key, ".ltx") {
			n[filepath.Base(filepath.Dir(e.Key))]++
		}
	}
	return n
}

// TestCompactsInUse writes for longer than everything is kept at a test's pace:
// what is deleted was replaced, and machines with and without local files, one
// that is still reading pages by an old index among them, find all rows.
func TestCompactsInUse(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	o := volume.Options{ShipInterval: 20 * time.Millisecond, Policy: hurried()}
	m := boot(t, dir, b, o, true)
	db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
	s := connect(t, db)
	s.exec("pragma journal_mode=wal; create table t(a integer primary key, b); insert into t select value, randomblob(600) from generate_series(1,6000);")
	m.WaitShipped(t, "acme")
	s.leave()
	m.stop(t)

	// No hydration: most pages stay in the bucket and have to be found there.
	o.HydrateAfter = -1
	m = boot(t, t.TempDir(), b, o, true)
	db = filepath.Join(m.FS.Dir, "acme", "main.sqlite3")
	s = connect(t, db)
	n := 0
	eventually(t, "files were merged, made a snapshot and deleted", func() bool {
		n++
		s.exec(fmt.Sprintf("update t set b=randomblob(500) where a=%d; insert into t values(%d, 'more');", 1+n%100, 6000+n))
		time.Sleep(5 * time.Millisecond)
		st := stat(m, "main.sqlite3")
		return st.ExpiredFiles > 20 && levels(t, b, "acme")["0009"] > 0
	})
	want := s.exec("select count(*), sum(length(b)) from t where a > 5000;")
	if got := levels(t, b, "acme"); got["0000"] >= n {
		t.Errorf("%d commits left %v", n, got)
	}
	if got := s.exec("pragma integrity_check;"); got != "ok" {
		t.Errorf("in use: %s", got)
	}
	s.leave()
	m.stop(t)
	t.Logf("%d commits left %v", n, levels(t, b, "acme"))

	query := "select count(*), sum(length(b)) from t where a > 5000"
	if got := state(t, b, "acme", "main.sqlite3", query); got != "ok\n"+want {
		t.Errorf("a machine with nothing reads %q, want %q", got, want)
	}
	restored := mounttest.LitestreamRestore(t, "file://"+filepath.Join(dir, "bucket"), "acme", "main.sqlite3")
	if got := mounttest.SQL(t, restored, "pragma integrity_check; "+query); got != "ok\n"+want {
		t.Errorf("litestream restores %q, want %q", got, want)
	}
}
