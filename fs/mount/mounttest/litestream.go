package mounttest

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/bucket/litestreamtest"
	atctenant "atc/fs/tenant"
)

// LitestreamRestore restores a tenant's only database of that file name from a
// store with nothing but litestream, and returns the path of the copy.
func LitestreamRestore(t testing.TB, store, tenant, name string) string {
	t.Helper()
	ctx := context.Background()
	b, err := bucket.Open(ctx, store)
	if err != nil {
		t.Fatal(err)
	}
	// What an earlier folder of that name holds was removed, or never was.
	held, err := atctenant.NewRegistry(b, nil, nil, time.Now).Load(ctx, tenant)
	if err != nil {
		t.Fatal(err)
	}
	folder := ""
	for path, d := range held.Databases {
		if filepath.Base(path) == name {
			folder = atctenant.DatabaseFolder(tenant, d.Folder)
		}
	}
	if folder == "" {
		t.Fatalf("%s of %s is not in %s", name, tenant, store)
	}
	address, query, isS3 := strings.Cut(store, "?")
	replica := strings.TrimSuffix(address, "/") + "/" + folder
	if isS3 {
		replica += "?" + query + "&force-path-style=true"
	}
	out, err := litestreamtest.Restore(t, replica)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
