package mounttest

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/bucket/litestreamtest"
	atctenant "atc/fs/tenant"
)

// LitestreamRestore restores a tenant's database of that path, or its only one of
// that file name, from a store with nothing but litestream, and returns the path
// of the copy.
func LitestreamRestore(t testing.TB, store, tenant, name string) string {
	t.Helper()
	folder := ""
	for path, d := range databases(t, store, tenant) {
		if path == name || filepath.Base(path) == name && folder == "" {
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

// Databases returns the paths of a tenant's databases, as the bucket has them.
func Databases(t testing.TB, store, tenant string) []string {
	t.Helper()
	return slices.Sorted(maps.Keys(databases(t, store, tenant)))
}

// databases reads a tenant's record: what an earlier folder of a database's name
// holds was removed, or never was.
func databases(t testing.TB, store, tenant string) map[string]*atctenant.Database {
	t.Helper()
	ctx := context.Background()
	b, err := bucket.Open(ctx, store)
	if err != nil {
		t.Fatal(err)
	}
	held, err := atctenant.NewRegistry(b, nil, nil, time.Now).Load(ctx, tenant)
	if err != nil {
		t.Fatal(err)
	}
	return held.Databases
}
