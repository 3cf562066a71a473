package mount_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/mount/mounttest"
	"atc/fs/tenant"
	"atc/fs/volume"
)

// fileTree is what a folder holds below itself, databases left out: kind, mode,
// time and content by path.
func fileTree(t testing.TB, dir string) map[string]string {
	t.Helper()
	tree := make(map[string]string)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir || strings.HasPrefix(filepath.Ext(p), ".db") {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		what := ""
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			if what, err = os.Readlink(p); err != nil {
				return err
			}
		case d.Type().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			what = string(b)
		}
		rel, _ := filepath.Rel(dir, p)
		tree[rel] = fmt.Sprintf("%v %s %s", info.Mode(), info.ModTime().UTC().Format(time.RFC3339Nano), what)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// indexTree is the same as the bucket's index has it.
func indexTree(t testing.TB, b bucket.Bucket, id string) map[string]string {
	t.Helper()
	files := tenant.NewFiles(b, id)
	x, err := files.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tree := make(map[string]string)
	for _, e := range x.Entries {
		mode, what := fs.FileMode(e.Mode), e.Target
		switch e.Kind {
		case tenant.Directory:
			mode |= fs.ModeDir
		case tenant.Symlink:
			mode |= fs.ModeSymlink
		}
		if e.Content != "" {
			var b bytes.Buffer
			if err := files.Fetch(t.Context(), e.Content, &b); err != nil {
				t.Fatalf("%s: %v", e.Path, err)
			}
			what = b.String()
		}
		tree[e.Path] = fmt.Sprintf("%v %s %s", mode, e.Modified.UTC().Format(time.RFC3339Nano), what)
	}
	return tree
}

func sameTree(t testing.TB, when string, got, want map[string]string) {
	t.Helper()
	for p, w := range want {
		if got[p] != w {
			t.Errorf("%s: %s is %.80q, want %.80q", when, p, got[p], w)
		}
	}
	for p, g := range got {
		if _, ok := want[p]; !ok {
			t.Errorf("%s: %s is there: %.80q", when, p, g)
		}
	}
}

// TestIndexFollowsEveryChange does whatever programs do with files, at random, and
// compares the bucket's index with the tree: at once, after a kill, and on an empty
// cache. What is shipped looks only at what was noted, so anything that is not
// noted shows here.
func TestIndexFollowsEveryChange(t *testing.T) {
	for seed := range uint64(3) {
		dir := t.TempDir()
		b := openBucket(t, dir)
		m := boot(t, dir, b, volume.Options{ShipInterval: tick}, seed%2 == 0)
		acme := m.MakeTenant(t, "acme")
		r := rand.New(rand.NewPCG(seed, 0))
		name := func() string {
			p := acme
			for range r.IntN(3) {
				p = filepath.Join(p, fmt.Sprintf("d%d", r.IntN(3)))
			}
			return filepath.Join(p, fmt.Sprintf("%c%d", "dfx"[r.IntN(3)], r.IntN(3)))
		}
		step := func() {
			p, q := name(), name()
			switch r.IntN(14) {
			case 0, 1, 2:
				_ = os.MkdirAll(filepath.Dir(p), 0o755)
				_ = os.WriteFile(p, bytes.Repeat([]byte{byte(r.IntN(26)) + 'a'}, r.IntN(3000)), 0o640)
			case 3:
				_ = os.Mkdir(p, 0o700)
			case 4, 5:
				_ = os.Rename(p, q)
			case 6:
				_ = os.Remove(p)
			case 7:
				_ = os.Chmod(p, 0o600+fs.FileMode(r.IntN(64)))
			case 8:
				_ = os.Chtimes(p, time.Time{}, time.Unix(int64(r.IntN(1e9)), int64(r.IntN(1e9))))
			case 9:
				_ = os.Symlink("../"+filepath.Base(q), p)
			case 10:
				if f, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0); err == nil {
					fmt.Fprint(f, "appended")
					_ = os.Rename(p, q)
					fmt.Fprint(f, "later")
					f.Close()
				}
			case 11:
				_ = os.Truncate(p, int64(r.IntN(5000)))
			case 12:
				_ = os.RemoveAll(p)
			case 13:
				if f, err := os.OpenFile(p, os.O_RDWR|os.O_CREATE, 0o644); err == nil {
					_ = os.Remove(p)
					fmt.Fprint(f, "nameless")
					f.Close()
				}
			}
		}
		db := filepath.Join(acme, "main.db")
		for round := range 6 {
			for range 60 {
				step()
			}
			mounttest.SQL(t, db, "create table if not exists t(a); insert into t values(1);")
			m.WaitShipped(t, "acme")
			sameTree(t, fmt.Sprintf("seed %d, round %d", seed, round), indexTree(t, b, "acme"), fileTree(t, acme))
			if t.Failed() {
				break
			}
		}
		want := fileTree(t, acme)
		m.stop(t)
		sameTree(t, "released", indexTree(t, b, "acme"), want)
		m = boot(t, t.TempDir(), b, volume.Options{ShipInterval: tick}, true)
		there := filepath.Join(m.FS.Dir, "acme")
		if got := mounttest.SQL(t, filepath.Join(there, "main.db"), "select count(*) from t"); got != "6" {
			t.Errorf("the database has %q rows", got)
		}
		sameTree(t, "on an empty cache", fileTree(t, there), want)
		m.stop(t)
		if t.Failed() {
			return
		}
	}
}

// TestFilesAfterAKill kills atc while files are written, and has the next run on
// the same cache ship what the first one could not.
func TestFilesAfterAKill(t *testing.T) {
	dir, store := t.TempDir(), t.TempDir()
	d := startDaemon(t, dir, store, daemonEnv+"_SHIP=20ms")
	acme := d.path("acme")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(acme, "a", "b"), 0o755))
	for i := range 50 {
		must(os.WriteFile(filepath.Join(acme, "a", fmt.Sprint(i)), fmt.Appendf(nil, "first %d", i), 0o644))
	}
	time.Sleep(200 * time.Millisecond) // some are shipped, some may not be
	past := time.Now().Add(-time.Hour)
	for i := range 10 {
		p := filepath.Join(acme, "a", fmt.Sprint(i))
		must(os.WriteFile(p, fmt.Appendf(nil, "SECOND%d", i), 0o644)) // of the same size
		must(os.Chtimes(p, past, past))
	}
	must(os.Remove(filepath.Join(acme, "a", "20")))
	must(os.Rename(filepath.Join(acme, "a", "30"), filepath.Join(acme, "a", "b", "moved")))
	want := fileTree(t, acme)
	d.kill()

	d = startDaemon(t, dir, store, daemonEnv+"_SHIP=20ms")
	sameTree(t, "after the kill", fileTree(t, d.path("acme")), want)
	d.kill()
	d = startDaemon(t, dir, store, daemonEnv+"_SHIP=20ms")
	b := openBucket(t, store)
	eventually(t, "the bucket has it", func() bool {
		got := indexTree(t, b, "acme")
		for p, w := range want {
			if got[p] != w {
				return false
			}
		}
		return len(got) == len(want)
	})
	d.kill()
}

// TestUnreadableInodes has a killed run leave a log of inodes that nobody can read,
// so that holes could be taken for contents: its files are kept aside, and the
// bucket's are right.
func TestUnreadableInodes(t *testing.T) {
	dir, store := t.TempDir(), t.TempDir()
	b := openBucket(t, store)
	d := startDaemon(t, dir, store, daemonEnv+"_SHIP=20ms")
	if err := os.Mkdir(d.path("acme"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.path("acme", "a"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is shipped", func() bool { return len(indexTree(t, b, "acme")) == 1 })
	want := indexTree(t, b, "acme")
	d.kill()
	if err := os.WriteFile(filepath.Join(dir, "cache", "tenants", "acme", "inodes"), []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := boot(t, dir, b, volume.Options{ShipInterval: tick}, true)
	sameTree(t, "after it", fileTree(t, filepath.Join(m.FS.Dir, "acme")), want)
	if lost := m.Volume.Lost(); len(lost) != 1 || lost[0].Folder == "" {
		t.Errorf("it reports %+v", lost)
	}
	_ = m.halt(20 * time.Second) // which names what is kept aside
	sameTree(t, "in the bucket", indexTree(t, b, "acme"), want)
}
