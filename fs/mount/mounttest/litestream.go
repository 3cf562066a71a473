package mounttest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"atc/fs/bucket"
	atctenant "atc/fs/tenant"
)

// Litestream returns the path of the litestream program. `make tools` builds it.
func Litestream(t testing.TB) string {
	t.Helper()
	path := os.Getenv("ATC_LITESTREAM")
	if cache, err := os.UserCacheDir(); path == "" && err == nil {
		path = filepath.Join(cache, "atc", "bin", "litestream")
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no litestream: %v; run `make tools`", err)
		}
		t.Skipf("no litestream: %v; run `make tools`", err)
	}
	return path
}

// LitestreamRestore restores a tenant's database of that path, or its only one of
// that file name, from a store with nothing but litestream, and returns the path
// of the copy.
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
	out := filepath.Join(t.TempDir(), "restored.sqlite3")
	if text, err := exec.Command(Litestream(t), "restore", "-o", out, replica).CombinedOutput(); err != nil {
		t.Fatalf("litestream restore %s: %v\n%s", replica, err, text)
	}
	return out
}
