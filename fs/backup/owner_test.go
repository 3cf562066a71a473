package backup_test

import (
	"os"
	"testing"
	"time"

	"atc/fs/backup"
	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/tenant"
	"atc/fs/tenant/tenanttest"
)

// TestRestoreAfterAKill restores one database of a tenant that its owner did not
// release: of the other one the record has to say where it stands, and what the
// owner before has on its way must find its place taken.
func TestRestoreAfterAKill(t *testing.T) {
	w := newWorld(t, openBucket(t))
	dead := tenanttest.Registry(t, w.b, "m-dead", "s-dead", time.Now)
	taken, _, err := dead.Acquire(t.Context(), "acme", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	// One that was made and to which nothing was committed yet.
	if err := dead.Update(t.Context(), taken, func(r *tenant.Record) {
		r.Databases["empty.sqlite3"] = &tenant.Database{Folder: "empty.sqlite3-1", Mode: 0o644}
	}); err != nil {
		t.Fatal(err)
	}
	at := backup.Point{Time: minute(3), Database: "sub/second.sqlite3"}
	deadline := time.Now().Add(time.Minute) // a dead owner is watched for a lease
	_, err = w.service.Restore(t.Context(), "acme", at, nil)
	for errors.Is(errors.Busy, err) && time.Now().Before(deadline) {
		time.Sleep(time.Second)
		_, err = w.service.Restore(t.Context(), "acme", at, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	held, err := w.registry.Load(t.Context(), "acme")
	if err != nil || held.Owner != nil {
		t.Fatalf("%+v %v", held, err)
	}
	if got := w.contents(t, "acme", backup.Point{}); got["main.sqlite3"] != "ok\n0,1,2,3,4" || got["sub/second.sqlite3"] != "ok\n3" {
		t.Errorf("%q", got)
	}
	main := held.Databases["main.sqlite3"]
	_, last, err := history.NewLog(w.b, tenant.DatabaseFolder("acme", main.Folder)).Range(t.Context())
	if err != nil || last.TXID != 6 || main.TXID != last.TXID {
		t.Errorf("main.sqlite3 is said to stand at %s, its log ends at %s, and a barrier is 6 (%v)", main.TXID, last.TXID, err)
	}
	if d := held.Databases["empty.sqlite3"]; d == nil || d.Folder == "empty.sqlite3-1" || d.TXID != 0 {
		t.Errorf("the empty database goes on as %+v, behind the barrier that closed its history", d)
	}
	files := tenant.NewFiles(w.b, "acme")
	index, err := files.Load(t.Context())
	if err != nil || index.Epoch != held.Epoch || len(index.Entries) != 4 {
		t.Errorf("the file index: %+v %v", index, err)
	}
	if _, findings, err := w.service.Verify(t.Context(), "acme", nil); err != nil || len(findings) != 1 || findings[0].Damage {
		t.Errorf("%v %v, want a note of the empty database", findings, err)
	}
}

// TestUndelete brings a tenant back, and then its databases.
func TestUndelete(t *testing.T) {
	w := newWorld(t, openBucket(t))
	held, err := w.registry.Load(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.registry.Update(t.Context(), held, func(r *tenant.Record) {
		for path, d := range r.Databases {
			r.Removed = append(r.Removed, tenant.Removed{Path: path, At: minute(20), Database: *d})
		}
		r.Databases, r.Deleted = nil, minute(21)
	}); err != nil {
		t.Fatal(err)
	}
	at := backup.Point{Time: minute(19)}
	if _, err := w.service.Restore(t.Context(), "acme", at, nil); !errors.Is(errors.NotExist, err) {
		t.Errorf("a removed tenant was restored: %v", err)
	}
	if _, err := w.service.Fork(t.Context(), "acme", "copy", at, nil); err != nil {
		t.Errorf("a removed tenant cannot be forked: %v", err)
	}
	if err := w.service.Undelete(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.service.Restore(t.Context(), "acme", at, nil); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"acme", "copy"} {
		if !w.holds(t, id, points[0].want) {
			t.Errorf("%s: %q", id, w.contents(t, id, backup.Point{}))
		}
	}
}

// TestHostileRecord has the record of a tenant name removed databases that lead
// elsewhere.
func TestHostileRecord(t *testing.T) {
	w := newWorld(t, openBucket(t))
	held, err := w.registry.Load(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.registry.Update(t.Context(), held, func(r *tenant.Record) {
		r.Removed = []tenant.Removed{
			{Path: "../../escaped", At: minute(50), Database: tenant.Database{Folder: "old.sqlite3-3"}},
			{Path: "/etc/passwd", At: minute(50), Database: tenant.Database{Folder: "old.sqlite3-3"}},
			{Path: "theirs", At: minute(50), Database: tenant.Database{Folder: "../../other/db/secret"}},
			{Path: "", At: minute(50), Database: tenant.Database{Folder: ""}},
		}
	}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := w.service.Export(t.Context(), "acme", dir, backup.Point{Time: minute(4)}, nil); !errors.Is(errors.Corrupt, err) {
		t.Errorf("exported: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}
