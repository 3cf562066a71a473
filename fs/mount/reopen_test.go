package mount_test

import (
	"os"
	"path/filepath"
	"testing"

	"atc/fs/mount/mounttest"
)

// A file is copied to where a database belongs, and at once two connections open
// it. The kernel tells that the copy was closed while they are opened, and refuses
// the second one if it is served in another way than the first.
func TestOpenedTwiceWhileTheCopyCloses(t *testing.T) {
	f := mounttest.Start(t, mounttest.Options{})
	home := f.MakeTenant(t, "acme")
	made := filepath.Join(t.TempDir(), "made.sqlite3")
	mounttest.SQL(t, made, "pragma journal_mode=wal; create table t(a);")
	content, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(home, "main.sqlite3")
	for round := range 300 {
		if err := os.WriteFile(db, content, 0o644); err != nil {
			t.Fatal(err)
		}
		for n := range 3 {
			file, err := os.OpenFile(db, os.O_RDWR, 0)
			if err != nil {
				t.Fatalf("round %d: opening it for the %d. time: %v", round, n+1, err)
			}
			defer file.Close()
			if round%2 == 0 {
				file.Close()
			}
		}
		if err := os.Remove(db); err != nil {
			t.Fatal(err)
		}
	}
}
