package backup_test

import (
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"atc/fs/backup"
	"atc/fs/bucket"
	"atc/fs/bucket/faulty"
	"atc/fs/errors"
	"atc/fs/history/historytest"
	"atc/fs/mount/mounttest"
	"atc/fs/tenant"
	"atc/fs/tenant/tenanttest"
)

// world is a bucket with tenant acme: main.sqlite3 with a row a minute,
// from the third on in WAL mode, sub/second.sqlite3, one that was removed, and files.
type world struct {
	b        bucket.Bucket
	registry *tenant.Registry
	service  *backup.Service
}

var epoch = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

// minute is n minutes after the first commit.
func minute(n int) time.Time { return epoch.Add(time.Duration(n) * time.Minute) }

func serviceOn(t testing.TB, b bucket.Bucket) world {
	t.Helper()
	now := func() time.Time { return minute(100) }
	r := tenanttest.Registry(t, b, "m-test", "s-test", now)
	return world{b, r, backup.New(b, r, now)}
}

func newWorld(t testing.TB, b bucket.Bucket) world {
	t.Helper()
	ctx := t.Context()
	w := serviceOn(t, b)
	add := func(folder string, rows ...int) {
		d := historytest.New(t, b, tenant.DatabaseFolder("acme", folder))
		for i, n := range rows {
			if i == 0 {
				d.Exec(t, "create table t(a)")
			}
			if i == 2 {
				d.Exec(t, "pragma journal_mode=wal")
			}
			d.Exec(t, fmt.Sprintf("insert into t values(%d)", n))
			d.Ship(t, minute(n))
		}
	}
	add("main.sqlite3-1", 0, 1, 2, 3, 4)
	add("second.sqlite3-2", 3, 4)
	add("main.sqlite3-gone", 10, 11)
	add("old.sqlite3-3", 1, 2)
	if err := w.registry.CreateWith(ctx, "acme", map[string]*tenant.Database{
		"main.sqlite3":       {Folder: "main.sqlite3-1", Mode: 0o644, TXID: 5},
		"sub/second.sqlite3": {Folder: "second.sqlite3-2", Mode: 0o600, TXID: 2},
	}); err != nil {
		t.Fatal(err)
	}
	held, err := w.registry.Load(ctx, "acme")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.registry.Update(ctx, held, func(r *tenant.Record) {
		r.Removed = []tenant.Removed{{Path: "old.sqlite3", At: minute(3), Database: tenant.Database{Folder: "old.sqlite3-3", Mode: 0o644}}}
	}); err != nil {
		t.Fatal(err)
	}
	files := tenant.NewFiles(b, "acme")
	content, err := files.Put(ctx, strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	index, _ := files.Load(ctx)
	index.Epoch = 1
	index.Entries = []tenant.FileEntry{
		{Path: "docs", Kind: tenant.Directory, Mode: 0o750, Modified: minute(1)},
		{Path: "docs/hello", Kind: tenant.Regular, Mode: 0o640, Size: 5, Modified: minute(2), Content: content},
		{Path: "docs/empty", Kind: tenant.Regular, Mode: 0o644, Modified: minute(2)},
		{Path: "link", Kind: tenant.Symlink, Mode: 0o777, Target: "docs/hello"},
	}
	if err := files.Save(ctx, index); err != nil {
		t.Fatal(err)
	}
	return w
}

func openBucket(t testing.TB) bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// contents exports a tenant and tells what is in its databases, by path.
func (w world) contents(t testing.TB, id string, at backup.Point) map[string]string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	report, err := w.service.Export(t.Context(), id, dir, at, nil)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, d := range report.Databases {
		all[d.Path] = mounttest.SQL(t, filepath.Join(dir, d.Path), "pragma integrity_check; select group_concat(a) from t")
	}
	return all
}

// objects are all keys and bytes below a prefix.
func objects(t testing.TB, b bucket.Bucket, prefix string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for e, err := range b.List(t.Context(), prefix, bucket.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		body, _, err := b.Get(t.Context(), e.Key)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(body)
		body.Close()
		if err != nil {
			t.Fatal(err)
		}
		all[e.Key] = string(text)
	}
	return all
}

var points = []struct {
	name string
	at   backup.Point
	want map[string]string
}{
	{"last", backup.Point{}, map[string]string{"main.sqlite3": "ok\n0,1,2,3,4", "sub/second.sqlite3": "ok\n3,4"}},
	{"before the second", backup.Point{Time: minute(2)}, map[string]string{"main.sqlite3": "ok\n0,1,2", "old.sqlite3": "ok\n1,2"}},
	{"between", backup.Point{Time: minute(1).Add(time.Second)}, map[string]string{"main.sqlite3": "ok\n0,1", "old.sqlite3": "ok\n1"}},
	{"when the old one was removed", backup.Point{Time: minute(3)}, map[string]string{"main.sqlite3": "ok\n0,1,2,3", "sub/second.sqlite3": "ok\n3"}},
	{"one database", backup.Point{Time: minute(3), Database: "main.sqlite3"}, map[string]string{"main.sqlite3": "ok\n0,1,2,3"}},
	{"a transaction", backup.Point{TXID: 2, Database: "main.sqlite3"}, map[string]string{"main.sqlite3": "ok\n0,1"}},
}

// TestPoints exports and forks acme at several points; the fork and its past
// have to be the same.
func TestPoints(t *testing.T) {
	for _, p := range points {
		t.Run(p.name, func(t *testing.T) {
			w := newWorld(t, openBucket(t))
			before := objects(t, w.b, "tenants/acme/")
			if got := w.contents(t, "acme", p.at); !maps.Equal(got, p.want) {
				t.Errorf("exported %q, want %q", got, p.want)
			}
			if _, err := w.service.Fork(t.Context(), "acme", "copy", p.at, nil); err != nil {
				t.Fatal(err)
			}
			if got := w.contents(t, "copy", backup.Point{}); !maps.Equal(got, p.want) {
				t.Errorf("forked %q, want %q", got, p.want)
			}
			if _, findings, err := w.service.Verify(t.Context(), "copy", nil); err != nil || len(findings) > 0 {
				t.Errorf("the fork: %v, %v", findings, err)
			}
			if !maps.Equal(before, objects(t, w.b, "tenants/acme/")) {
				t.Error("the source has changed")
			}
			url, _, _ := strings.Cut(w.b.URL(), "?")
			for path, want := range p.want {
				restored := mounttest.LitestreamRestore(t, url, "copy", filepath.Base(path))
				if got := mounttest.SQL(t, restored, "pragma integrity_check; select group_concat(a) from t"); got != want {
					t.Errorf("litestream restores %q of %s", got, path)
				}
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t, openBucket(t))
	ctx := t.Context()
	s := w.service
	fork := func(from, to string, at backup.Point) error { _, err := s.Fork(ctx, from, to, at, nil); return err }
	restore := func(at backup.Point) error { _, err := s.Restore(ctx, "acme", at, nil); return err }
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	export := func(dir string) error { _, err := s.Export(ctx, "acme", dir, backup.Point{}, nil); return err }
	for _, c := range []struct {
		err  error
		kind errors.Kind
		text string
	}{
		{fork("nobody", "x", backup.Point{}), errors.NotExist, "nobody"},
		{fork("acme", "acme", backup.Point{}), errors.Exist, "choose another"},
		{fork("acme", "No", backup.Point{}), errors.Invalid, "lower-case"},
		{fork("acme", "x", backup.Point{Time: minute(-1)}), errors.NotExist, "2026-11-21T10:00:00Z to 2026-11-21T10:04:00Z"},
		{fork("acme", "x", backup.Point{Time: minute(101)}), errors.Invalid, "future"},
		{fork("acme", "x", backup.Point{TXID: 2}), errors.Invalid, "--db"},
		{fork("acme", "x", backup.Point{TXID: 99, Database: "main.sqlite3"}), errors.NotExist, "nearest"},
		{fork("acme", "x", backup.Point{Time: minute(2), Database: "nope"}), errors.NotExist, "main.sqlite3, sub/second.sqlite3"},
		{restore(backup.Point{}), errors.Invalid, "--at"},
		{restore(backup.Point{Time: minute(-1)}), errors.NotExist, "10:00:00Z"},
		{export(full), errors.Exist, "not empty"},
	} {
		if !errors.Is(c.kind, c.err) || !strings.Contains(fmt.Sprint(c.err), c.text) {
			t.Errorf("want kind %v and %q: %v", c.kind, c.text, c.err)
		}
	}
	if _, err := w.registry.Load(ctx, "x"); !errors.Is(errors.NotExist, err) {
		t.Errorf("a refused fork left %v", err)
	}
}

// TestRestoreInPlace goes back, and back to where it was before.
func TestRestoreInPlace(t *testing.T) {
	w := newWorld(t, openBucket(t))
	now := minute(50)
	clock := func() time.Time { return now }
	w.registry = tenanttest.Registry(t, w.b, "m", "s", clock)
	w.service = backup.New(w.b, w.registry, clock)
	for _, step := range []struct {
		at   backup.Point
		want string
	}{
		{backup.Point{Time: minute(2)}, "map[main.sqlite3:ok\n0,1,2 old.sqlite3:ok\n1,2]"},
		{backup.Point{Time: minute(49)}, "map[main.sqlite3:ok\n0,1,2,3,4 sub/second.sqlite3:ok\n3,4]"},
		{backup.Point{TXID: 1, Database: "sub/second.sqlite3"}, "map[main.sqlite3:ok\n0,1,2,3,4 sub/second.sqlite3:ok\n3]"},
		{backup.Point{Time: minute(51)}, "map[main.sqlite3:ok\n0,1,2 old.sqlite3:ok\n1,2]"}, // after the first restore
	} {
		if _, err := w.service.Restore(t.Context(), "acme", step.at, nil); err != nil {
			t.Fatal(err)
		}
		now = now.Add(2 * time.Minute)
		if got := fmt.Sprint(w.contents(t, "acme", backup.Point{})); got != step.want {
			t.Errorf("at %v: %q, want %q", step.at, got, step.want)
		}
		held, err := w.registry.Load(t.Context(), "acme")
		if err != nil || held.Owner != nil {
			t.Errorf("it stays taken: %+v, %v", held.Owner, err)
		}
		if _, findings, err := w.service.Verify(t.Context(), "acme", nil); err != nil || len(findings) > 0 {
			t.Errorf("%v, %v", findings, err)
		}
	}
}

// TestInterrupted fails every request from one on, one run for each: nobody sees
// half of what was begun, the source is as it was, and doing it again does it.
func TestInterrupted(t *testing.T) {
	at := backup.Point{Time: minute(2)}
	source := t.TempDir()
	mounttest.SQL(t, filepath.Join(source, "a.db"), "create table t(a); insert into t values('a')")
	if err := os.WriteFile(filepath.Join(source, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	template := t.TempDir() // made once: it takes longer than all else
	b, err := bucket.Open(t.Context(), "file://"+template)
	if err != nil {
		t.Fatal(err)
	}
	newWorld(t, b)
	for name, op := range map[string]struct {
		do     func(world) error
		result string
		want   map[string]string
		files  int
	}{
		"fork": {func(w world) error {
			_, err := w.service.Fork(t.Context(), "acme", "copy", at, nil)
			return err
		}, "copy", points[1].want, 4},
		"restore": {func(w world) error {
			_, err := w.service.Restore(t.Context(), "acme", at, nil)
			return err
		}, "acme", points[1].want, 4},
		"import": {func(w world) error {
			_, err := w.service.Import(t.Context(), source, "new", nil)
			return err
		}, "new", map[string]string{"a.db": "ok\na"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			for n, hit := 0, true; hit; n++ {
				dir := filepath.Join(t.TempDir(), "bucket")
				if out, err := exec.Command("cp", "-a", template, dir).CombinedOutput(); err != nil {
					t.Fatalf("%v %s", err, out)
				}
				b, err := bucket.Open(t.Context(), "file://"+dir)
				if err != nil {
					t.Fatal(err)
				}
				f := faulty.Wrap(b)
				w := serviceOn(t, f)
				histories := objects(t, f, "tenants/acme/db/")
				fault := f.Inject(faulty.Fault{Skip: n, Before: errors.Unavailable})
				err = op.do(w)
				fault.Remove()
				hit = fault.Hits() > 0
				done := w.holds(t, op.result, op.want)
				if (err == nil) != done && !(done && hit) { // its last answer may be missing
					t.Fatalf("request %d: done is %v, and it says %v", n, done, err)
				}
				if index, err := tenant.NewFiles(f, op.result).Load(t.Context()); done && (err != nil || len(index.Entries) != op.files) {
					t.Fatalf("request %d: it is to be seen without its files: %v", n, err)
				}
				if !done && op.result != "acme" {
					if _, err := w.registry.Load(t.Context(), op.result); !errors.Is(errors.NotExist, err) {
						t.Fatalf("request %d: something of it is to be seen: %v", n, err)
					}
				}
				if !(done && op.result == "acme") && !w.holds(t, "acme", points[0].want) {
					t.Fatalf("request %d: the source is another one", n)
				}
				now := objects(t, f, "tenants/acme/db/")
				for key, was := range histories {
					if now[key] != was {
						t.Fatalf("request %d: %s has changed", n, key)
					}
				}
				if err := op.do(w); err != nil && !(done && errors.Is(errors.Exist, err)) {
					t.Fatalf("request %d: again: %v", n, err)
				}
				if !w.holds(t, op.result, op.want) {
					t.Fatalf("request %d: again: %q", n, w.contents(t, op.result, backup.Point{}))
				}
				if !hit {
					t.Logf("%d requests", n)
				}
			}
		})
	}
}

// holds reports whether a tenant is there and has these contents.
func (w world) holds(t testing.TB, id string, want map[string]string) bool {
	t.Helper()
	if _, err := w.registry.Load(t.Context(), id); errors.Is(errors.NotExist, err) {
		return false
	}
	return maps.Equal(w.contents(t, id, backup.Point{}), want)
}
