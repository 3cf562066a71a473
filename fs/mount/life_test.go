package mount_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/mount/mounttest"
	"atc/fs/tenant"
	"atc/fs/volume"
)

// record reads a tenant's record past everything.
func record(t testing.TB, b bucket.Bucket, id string) (r tenant.Record) {
	t.Helper()
	body, _, err := b.Get(t.Context(), "tenants/"+id+"/tenant.json")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	raw, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// quick is a machine that lets go of what is idle at once.
func quick() volume.Options {
	return volume.Options{ShipInterval: tick, CloseAfter: tick, ReleaseAfter: 2 * tick}
}

func released(t testing.TB, b bucket.Bucket, id string) {
	t.Helper()
	eventually(t, id+" is released", func() bool { return record(t, b, id).Owner == nil })
}

// TestIdleTenantsMoveOn has two machines use a tenant in turns, each after the
// other has let go of it, with everything that a kernel could remember wrongly:
// contents, sizes, names that were not there and names that are gone.
func TestIdleTenantsMoveOn(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	one := boot(t, dir, b, quick(), true)
	two := boot(t, t.TempDir(), b, quick(), true)
	tenant := one.MakeTenant(t, "acme")
	there := filepath.Join(two.FS.Dir, "acme")
	mounttest.SQL(t, filepath.Join(tenant, "a.db"), "pragma journal_mode=wal; create table t(a); insert into t values('one');")
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(tenant, "note"), "short")
	write(filepath.Join(tenant, "gone"), "soon")
	if _, err := os.Stat(filepath.Join(tenant, "later")); !os.IsNotExist(err) {
		t.Fatal(err)
	}
	released(t, b, "acme")

	if got := mounttest.SQL(t, filepath.Join(there, "a.db"), "select a from t; insert into t select 'two' from generate_series(1,5000);"); got != "one" {
		t.Errorf("the second machine reads %q", got)
	}
	write(filepath.Join(there, "note"), "quite a bit longer than it was")
	write(filepath.Join(there, "later"), "here")
	if err := os.Remove(filepath.Join(there, "gone")); err != nil {
		t.Fatal(err)
	}
	released(t, b, "acme")

	// A name that was not there is remembered for a second.
	time.Sleep(1100 * time.Millisecond)
	if got := mounttest.SQL(t, filepath.Join(tenant, "a.db"), "pragma integrity_check; select count(*) from t"); got != "ok\n5001" {
		t.Errorf("the first machine reads %q", got)
	}
	for name, want := range map[string]string{"note": "quite a bit longer than it was", "later": "here"} {
		if got, err := os.ReadFile(filepath.Join(tenant, name)); string(got) != want {
			t.Errorf("%s holds %q, %v", name, got, err)
		}
	}
	if _, err := os.ReadFile(filepath.Join(tenant, "gone")); !os.IsNotExist(err) {
		t.Errorf("the removed file: %v", err)
	}
	one.stop(t)
	two.stop(t)
}

// TestKilledWhileReleasing has a machine killed after the record was released and
// before it noted so: nothing was lost, and nothing is said to be.
func TestKilledWhileReleasing(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	m := boot(t, dir, b, quick(), true)
	db := filepath.Join(m.MakeTenant(t, "acme"), "a.db")
	mounttest.SQL(t, db, "create table t(a); insert into t values(1);")
	m.stop(t)
	note := filepath.Join(m.Cache, "tenants", "acme", "local.json")
	raw, err := os.ReadFile(note)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(note, bytes.Replace(raw, []byte(`"clean":true`), []byte(`"clean":false`), 1), 0o600); err != nil {
		t.Fatal(err)
	}

	m = boot(t, dir, b, quick(), true)
	if got := mounttest.SQL(t, db, "select a from t"); got != "1" {
		t.Errorf("it reads %q", got)
	}
	if lost := m.Volume.Lost(); len(lost) > 0 {
		t.Errorf("it reports %+v", lost)
	}
	m.stop(t)
}

// TestLookingTakesNothing lists and stats a tenant on a machine that is not its
// owner: the owner keeps it, and what is shown is what the record says.
func TestLookingTakesNothing(t *testing.T) {
	dir := t.TempDir()
	b := openBucket(t, dir)
	one := boot(t, dir, b, volume.Options{ShipInterval: tick}, true)
	tenant := one.MakeTenant(t, "acme")
	mounttest.SQL(t, filepath.Join(tenant, "a.db"), "create table t(a);")
	if err := os.MkdirAll(filepath.Join(tenant, "up", "loads"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tenant, "up", "loads", "x"), []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	one.WaitShipped(t, "acme")
	owner := record(t, b, "acme")

	two := boot(t, t.TempDir(), b, volume.Options{}, true)
	var names []string
	err := filepath.Walk(filepath.Join(two.FS.Dir, "acme"), func(p string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		names = append(names, info.Name())
		if info.Name() == "x" && (info.Size() != 5 || info.Mode() != 0o600) {
			t.Errorf("x has %d bytes, mode %v", info.Size(), info.Mode())
		}
		return nil
	})
	if err != nil || len(names) != 5 {
		t.Errorf("it shows %q, %v", names, err)
	}
	if now := record(t, b, "acme"); now.Epoch != owner.Epoch || now.Owner == nil || *now.Owner != *owner.Owner {
		t.Errorf("looking has changed the owner to %+v", now.Owner)
	}
	two.stop(t)
	one.stop(t)
}
