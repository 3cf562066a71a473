package volume

import (
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// TestInodesSurvive notes at random, with a disk that is full at times, and reads
// back what a kill would leave.
func TestInodesSurvive(t *testing.T) {
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(1, 1))
	x := newInodes(dir)
	if err := x.write(); err != nil {
		t.Fatal(err)
	}
	for step := range 4_000 {
		inode := r.Uint64N(300)
		if r.IntN(50) == 0 { // half a line, as of a full disk, and no more
			if _, err := x.log.WriteString("17 ="); err != nil {
				t.Fatal(err)
			}
			x.broken = true
		}
		var err error
		if r.IntN(3) == 0 {
			err = x.forget(inode)
		} else {
			c := content{id: []string{"", "A", "B"}[r.IntN(3)], writes: r.Uint64()}
			c.missing = r.IntN(3) == 0
			c.touched = !c.missing && r.IntN(2) == 0
			err = x.set(inode, c)
		}
		if err != nil {
			t.Fatal(err)
		}
		if step%100 != 0 {
			continue
		}
		read, err := readInodes(dir)
		if err != nil && !x.broken {
			t.Fatal(err)
		}
		if x.broken {
			continue
		}
		want := maps.Clone(x.known)
		for at, c := range want {
			c.writes = 0
			want[at] = c
		}
		if !maps.Equal(read.known, want) {
			t.Fatalf("step %d: %d inodes were read, want %d", step, len(read.known), len(want))
		}
		if size := fileSize(t, dir); size > 100<<10 {
			t.Fatalf("the log has %d bytes", size)
		}
	}
	x.end()
	before := fileSize(t, dir)
	if err := x.set(1, content{id: "LATE"}); err != nil || fileSize(t, dir) != before {
		t.Errorf("it was noted after the end: %v", err)
	}
}

func fileSize(t *testing.T, dir string) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(dir, inodesName))
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// TestForeignInodes refuses a log that no run has written.
func TestForeignInodes(t *testing.T) {
	for text, sound := range map[string]bool{
		"": true, "1 = A\n": true, "1 ? A\n1 ! A\n1 - \n": true, "1 = A\n2 =": true,
		"x = A\n": false, "1 A\n": false, "1 # A\n": false, "1 = A B\n": false, "1 =\n": false, "-1 = A\n": false,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, inodesName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readInodes(dir); (err == nil) != sound {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := readInodes(t.TempDir()); err == nil {
		t.Error("no log is taken for an empty one")
	}
}
