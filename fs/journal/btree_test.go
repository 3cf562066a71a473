package journal_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"atc/fs/journal"
)

// TestInteriorPages walks a database of SQLite's by what Children says: the pages
// above others are those that dbstat calls internal.
func TestInteriorPages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sqlite3")
	out, err := exec.Command("sqlite3", path, `pragma page_size=512;
		create table t(a integer primary key, b); create index i on t(b);
		with recursive r(n) as (select 1 union all select n+1 from r where n<3000) insert into t select n, hex(randomblob(9)) from r;
		select group_concat(pageno) from (select pageno from dbstat where pagetype='internal' order by pageno);`).CombinedOutput()
	if err != nil {
		t.Skipf("sqlite3 with dbstat: %v %s", err, out)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	reached := map[uint32]bool{1: true}
	for n := uint32(1); int(n)*512 <= len(file); n++ {
		data := file[int(n-1)*512:][:512]
		children := journal.Children(n, data)
		if journal.Interior(n, data) != (children != nil) {
			t.Errorf("page %d: interior %v, %d children", n, journal.Interior(n, data), len(children))
		}
		if children == nil {
			continue
		}
		if len(got) > 0 {
			got = append(got, ',')
		}
		got = strconv.AppendUint(got, uint64(n), 10)
		for _, c := range children {
			if reached[c] {
				t.Errorf("page %d has two parents", c)
			}
			reached[c] = true
		}
	}
	if want := string(out[:len(out)-1]); want != string(got) {
		t.Errorf("interior pages %s, want %s", got, want)
	}
	// All pages but the schema's and the two roots are below one.
	if len(reached)+2 != len(file)/512 {
		t.Errorf("%d of %d pages reached", len(reached), len(file)/512)
	}
}

func FuzzChildren(f *testing.F) {
	f.Add(uint32(1), make([]byte, 512))
	f.Add(uint32(2), append([]byte{5, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 9, 1, 255}, make([]byte, 498)...))
	f.Fuzz(func(t *testing.T, page uint32, data []byte) {
		for _, c := range journal.Children(page, data) {
			if c == 0 {
				t.Error("page 0")
			}
		}
	})
}
