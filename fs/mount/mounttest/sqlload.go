package mounttest

import (
	"crypto/sha256"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// sqlloadSource is a C program, because what matters is how SQLite's own library
// uses files, maps and locks, from several processes.
//
//go:embed sqlload/sqlload.c
var sqlloadSource []byte

// SQLLoad returns the path of the sqlload program, which it builds the first
// time. It wants a C compiler and SQLite's headers, which `make test` installs.
func SQLLoad(t testing.TB) string {
	t.Helper()
	bin, err := BuildSQLLoad(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// BuildSQLLoad is SQLLoad for who is not a test. It needs a folder for scratch
// files.
func BuildSQLLoad(scratch string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(cache, "atc", "bin", fmt.Sprintf("sqlload-%x", sha256.Sum256(sqlloadSource))[:24])
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	if err := os.MkdirAll(filepath.Dir(bin), 0o755); err != nil {
		return "", err
	}
	source := filepath.Join(scratch, "sqlload.c")
	if err := os.WriteFile(source, sqlloadSource, 0o644); err != nil {
		return "", err
	}
	made := fmt.Sprintf("%s.%d", bin, os.Getpid())
	out, err := exec.Command("gcc", "-O2", "-Wall", "-Werror", "-o", made, source, "-lsqlite3").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build sqlload: %w\n%s", err, out)
	}
	return bin, os.Rename(made, bin)
}
