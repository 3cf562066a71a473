package backup_test

import (
	"fmt"
	"os"
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
	"atc/fs/volume"
)

const mainFolder = "tenants/acme/db/main.sqlite3-1/"

// TestVerifyFinds damages one thing at a time.
func TestVerifyFinds(t *testing.T) {
	flip := func(op faulty.Op, key string, skip int) func(*testing.T, world, *faulty.Bucket) {
		return func(_ *testing.T, _ world, f *faulty.Bucket) {
			f.Inject(faulty.Fault{Op: op, Key: key, Skip: skip, Mangle: func(b []byte) []byte { return faulty.Flip(len(b) / 2)(b) }})
		}
	}
	remove := func(key string) func(*testing.T, world, *faulty.Bucket) {
		return func(t *testing.T, w world, _ *faulty.Bucket) {
			if err := w.b.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		do     func(*testing.T, world, *faulty.Bucket)
		path   string
		damage bool
		text   string
	}{
		"a file of the log":  {flip(faulty.Get, mainFolder+"0000/*2.ltx", 0), "main.sqlite3", true, "corrupt"},
		"a page":             {flip(faulty.GetRange, mainFolder+"0000/*5.ltx", 1), "main.sqlite3", true, "acme/main.sqlite3 page"},
		"a gap":              {remove(mainFolder + "0000/0000000000000003-0000000000000003.ltx"), "main.sqlite3", true, "ends at transaction"},
		"the end is missing": {remove(mainFolder + "0000/0000000000000005-0000000000000005.ltx"), "main.sqlite3", true, "ends at transaction 0000000000000004"},
		"a content is missing": {func(t *testing.T, w world, f *faulty.Bucket) {
			for key := range objects(t, w.b, "tenants/acme/files/") {
				if !strings.HasSuffix(key, "index.json") {
					remove(key)(t, w, f)
				}
			}
		}, "docs/hello", true, "not in the bucket"},
		"a content was cut": {func(t *testing.T, w world, _ *faulty.Bucket) {
			for key := range objects(t, w.b, "tenants/acme/files/") {
				if !strings.HasSuffix(key, "index.json") {
					if _, err := w.b.Put(t.Context(), key, strings.NewReader("hel"), bucket.PutOptions{}); err != nil {
						t.Fatal(err)
					}
				}
			}
		}, "docs/hello", true, "has 3 bytes, and should have 5"},
		"a wrong b-tree": {func(t *testing.T, w world, _ *faulty.Bucket) {
			d := historytest.New(t, w.b, "tenants/acme/db/second.sqlite3-broken")
			d.Exec(t, "create table t(a); create index i on t(a); insert into t values(1),(2),(3)")
			content, err := os.ReadFile(d.Path)
			if err != nil {
				t.Fatal(err)
			}
			copy(content[2*4096:], content[4096:2*4096]) // the index is the table
			if err := os.WriteFile(d.Path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			d.Ship(t, minute(5))
			point(t, w, "second.sqlite3-broken")
		}, "sub/second.sqlite3", true, ""}, // in SQLite's words
		"an orphan row": {func(t *testing.T, w world, _ *faulty.Bucket) {
			d := historytest.New(t, w.b, "tenants/acme/db/second.sqlite3-orphan")
			d.Exec(t, "pragma foreign_keys=off; create table p(id integer primary key); create table c(p references p); insert into c values(7),(8)")
			d.Ship(t, minute(5))
			point(t, w, "second.sqlite3-orphan")
		}, "sub/second.sqlite3", false, "2 rows break a foreign key, c → p"},
	} {
		t.Run(name, func(t *testing.T) {
			f := faulty.Wrap(openBucket(t))
			w := newWorld(t, f)
			if _, findings, err := w.service.Verify(t.Context(), "acme", nil); err != nil || len(findings) > 0 {
				t.Fatalf("before: %v %v", findings, err)
			}
			c.do(t, w, f)
			_, findings, err := w.service.Verify(t.Context(), "acme", nil)
			if err != nil || len(findings) == 0 {
				t.Fatalf("%v, %v", findings, err)
			}
			for _, got := range findings {
				if got.Path != c.path || got.Damage != c.damage || !strings.Contains(got.Text, c.text) {
					t.Errorf("%+v, want %s and %q", got, c.path, c.text)
				}
			}
		})
	}
}

// point makes the second database be in another folder.
func point(t *testing.T, w world, folder string) {
	t.Helper()
	held, err := w.registry.Load(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.registry.Update(t.Context(), held, func(r *tenant.Record) {
		r.Databases["sub/second.sqlite3"] = &tenant.Database{Folder: folder, TXID: 1}
	}); err != nil {
		t.Fatal(err)
	}
}

// TestVerifyFails where the bucket does not answer: nothing is known then.
func TestVerifyFails(t *testing.T) {
	for n := 0; ; n++ {
		f := faulty.Wrap(openBucket(t))
		w := newWorld(t, f)
		fault := f.Inject(faulty.Fault{Skip: n * 3, Before: errors.Unavailable})
		_, findings, err := w.service.Verify(t.Context(), "acme", nil)
		if fault.Hits() == 0 {
			break
		}
		if !errors.Is(errors.Unavailable, err) || len(findings) > 0 {
			t.Errorf("request %d: %v, %v", n*3, findings, err)
		}
	}
}

// TestVerifyDisturbsNobody verifies a tenant while it is written.
func TestVerifyDisturbsNobody(t *testing.T) {
	f := mounttest.Start(t, mounttest.Options{Volume: volume.Options{ShipInterval: 10 * time.Millisecond}})
	db := filepath.Join(f.MakeTenant(t, "acme"), "main.sqlite3")
	mounttest.SQL(t, db, "pragma journal_mode=wal; create table t(a, b)")
	f.WaitShipped(t, "acme")
	r := tenanttest.Registry(t, f.Bucket, "m", "s", time.Now)
	before, err := r.Load(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if out, err := mounttest.TrySQL(db, "insert into t values(1, randomblob(5000)); delete from t where rowid%3=0"); err != nil {
				done <- fmt.Errorf("%w: %s", err, out)
				return
			}
		}
	}()
	s := backup.New(f.Bucket, r, time.Now)
	for range 8 {
		if _, findings, err := s.Verify(t.Context(), "acme", nil); err != nil || len(findings) > 0 {
			t.Errorf("%v %v", findings, err)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
	after, err := r.Load(t.Context(), "acme")
	if err != nil || after.Epoch != before.Epoch || after.Owner.Session != before.Owner.Session {
		t.Errorf("it was taken: %+v %v", after, err)
	}
}
