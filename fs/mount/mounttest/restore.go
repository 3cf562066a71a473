package mounttest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/history"
	atctenant "atc/fs/tenant"
)

// Restore writes what a database holds in the bucket at this moment, whoever has
// the tenant, and returns the path of the copy: a tenth of the time that
// LitestreamRestore takes, with our own reader.
func Restore(t testing.TB, b bucket.Bucket, tenant, path string) string {
	t.Helper()
	ctx := t.Context()
	held, err := atctenant.NewRegistry(b, nil, nil, time.Now).Load(ctx, tenant)
	if err != nil {
		t.Fatal(err)
	}
	d := held.Databases[path]
	if d == nil {
		t.Fatalf("%s of %s is not in the bucket", path, tenant)
	}
	log := history.NewLog(b, atctenant.DatabaseFolder(tenant, d.Folder))
	index, err := log.Load(ctx, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "restored.sqlite3"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := log.WriteTo(ctx, index, out, nil); err != nil {
		t.Fatal(err)
	}
	return out.Name()
}
