package journal_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/ncruces/go-sqlite3"

	"atc/fs/journal"
)

// TestRollbackEnded looks at real journals in each of their states.
func TestRollbackEnded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	exec := func(sql string) {
		t.Helper()
		if err := db.Exec(sql); err != nil {
			t.Fatal(err)
		}
	}
	look := func(when string, active, ended bool) {
		t.Helper()
		b, _ := os.ReadFile(path + "-journal")
		if journal.RollbackActive(b) != active || journal.RollbackEnded(b) != ended {
			t.Errorf("%s: %d bytes, active %v, ended %v", when, len(b), !active, !ended)
		}
	}
	look("before there is any", false, true)
	exec("PRAGMA journal_mode=persist; PRAGMA cache_size=2; CREATE TABLE t(a)")
	look("ended by zeros", false, true)
	exec("BEGIN; INSERT INTO t VALUES(1)")
	look("begun and not synced", false, false)
	exec("INSERT INTO t WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM r WHERE i<100) SELECT zeroblob(3000) FROM r")
	look("spilled", true, false)
	exec("COMMIT")
	look("ended again", false, true)
	exec("PRAGMA journal_mode=truncate; INSERT INTO t VALUES(1)")
	look("truncated", false, true)
	if journal.RollbackEnded(append(bytes.Repeat([]byte{0}, journal.RollbackHeaderLength-1), 1)) {
		t.Error("ended with a header that is not zero to its end")
	}
}
