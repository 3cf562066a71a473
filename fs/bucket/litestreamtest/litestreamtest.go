// Package litestreamtest runs Litestream itself in tests, the program by which
// everybody can get a database out of a bucket without us.
//
//	path, err := litestreamtest.Restore(t, "file:///store/tenants/acme/db/main-1a2b")
//
// Two versions are asked: the oldest that a bucket must stay readable by, and the
// newest that there was when it was pinned. They are found as
// litestream-<version>/litestream in the folder that the variable ATC_TOOLS names,
// else in atc/bin of the user's cache folder, where `make tools` puts them.
package litestreamtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// versions is how many versions `make tools` installs.
const versions = 2

// Programs returns the installed versions, the oldest first. Without them it
// skips the test, but fails it in CI (CI=true).
func Programs(t testing.TB) []string {
	t.Helper()
	dir := os.Getenv("ATC_TOOLS")
	if cache, err := os.UserCacheDir(); dir == "" && err == nil {
		dir = filepath.Join(cache, "atc", "bin")
	}
	found, err := filepath.Glob(filepath.Join(dir, "litestream-*", "litestream"))
	if err != nil || len(found) != versions {
		text := fmt.Sprintf("%d versions of litestream in %s, want %d; run `make tools`", len(found), dir, versions)
		if os.Getenv("CI") == "true" {
			t.Fatal(text)
		}
		t.Skip(text)
	}
	slices.Sort(found)
	return found
}

// Restore restores a replica with each version, with more arguments if need be,
// and returns the path of the copy. It fails where one of them does or where they
// restore different bytes.
func Restore(t testing.TB, replica string, args ...string) (path string, err error) {
	t.Helper()
	var first []byte
	for i, program := range Programs(t) {
		out := filepath.Join(t.TempDir(), "restored.sqlite3")
		command := append(append([]string{"restore", "-o", out}, args...), replica)
		if text, err := exec.CommandContext(t.Context(), program, command...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s %v: %w\n%s", program, command, err, text)
		}
		data, err := os.ReadFile(out)
		if err != nil {
			return "", err
		}
		if i == 0 {
			path, first = out, data
		} else if !bytes.Equal(data, first) {
			return "", fmt.Errorf("%s restores %d bytes that are not the %d of the other version", program, len(data), len(first))
		}
	}
	return path, nil
}
