package journal_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/ncruces/go-sqlite3"

	"atc/fs/journal"
)

// walOf makes a database whose log holds several transactions, and returns the
// log, its index and the database as they are while it is open.
func walOf(t testing.TB, pageSize string) (wal, shm, db []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	c, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, sql := range []string{
		"pragma page_size=" + pageSize, "pragma journal_mode=wal", "create table t(a)",
		"insert into t values(randomblob(5000))", "insert into t values(randomblob(100))",
		"update t set a=randomblob(7000)",
	} {
		if err := c.Exec(sql); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	return read(path + "-wal"), read(path + "-shm"), read(path)
}

// frames reads all valid frames of a log.
func frames(t *testing.T, wal []byte) (n, commits int, last journal.Frame) {
	t.Helper()
	h, ok := journal.ParseWALHeader(wal)
	if !ok {
		t.Fatal("no WAL header")
	}
	r := journal.NewWALReader(bytes.NewReader(wal), h, 0, h.Sum)
	for {
		f, ok, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return n, commits, last
		}
		n++
		if f.Commit != 0 {
			commits++
		}
		f.Data = bytes.Clone(f.Data)
		last = f
	}
}

func TestWALReader(t *testing.T) {
	for _, pageSize := range []string{"512", "4096", "65536"} {
		t.Run(pageSize, func(t *testing.T) {
			wal, shm, db := walOf(t, pageSize)
			h, _ := journal.ParseWALHeader(wal)
			dh, ok := journal.ParseHeader(db)
			if !ok || !dh.WAL || dh.PageSize != h.PageSize {
				t.Fatalf("database header %+v, log has pages of %d", dh, h.PageSize)
			}
			n, commits, last := frames(t, wal)
			if commits != 4 || last.Commit == 0 {
				t.Errorf("%d commits in %d frames, the last one %+v", commits, n, last.Commit)
			}
			if want := (len(wal) - journal.WALHeaderSize) / (journal.FrameHeaderSize + h.PageSize); n != want {
				t.Errorf("%d frames, the file holds %d", n, want)
			}
			x, ok := journal.ParseWALIndex(shm)
			if !ok || x.MaxFrame != uint32(n) || x.Salt != h.Salt || x.Pages != last.Commit {
				t.Errorf("index %+v (%v), want %d frames of salt %v", x, ok, n, h.Salt)
			}
			f, ok, err := journal.ReadFrameHeader(bytes.NewReader(wal), h, uint32(n))
			if err != nil || !ok || f.Sum != last.Sum || f.Page != last.Page || f.Commit != last.Commit {
				t.Errorf("header of the last frame: %+v %v %v, want %v", f, ok, err, last.Sum)
			}
			if _, ok, err := journal.ReadFrameHeader(bytes.NewReader(wal), h, uint32(n+1)); ok || err != nil {
				t.Errorf("a frame behind the last: %v %v", ok, err)
			}
			indexed(t, wal, shm)
		})
	}
}

// TestWALReaderStops flips every bit of a frame's header and some of its page:
// nothing from that frame on may be taken for committed.
func TestWALReaderStops(t *testing.T) {
	wal, _, _ := walOf(t, "512")
	h, _ := journal.ParseWALHeader(wal)
	whole, _, _ := frames(t, wal)
	const damaged = 3
	begin := int(h.FrameOffset(damaged))
	for at := begin; at < begin+journal.FrameHeaderSize+h.PageSize; at++ {
		b := bytes.Clone(wal)
		b[at] ^= 1 << (at % 8)
		if n, _, _ := frames(t, b); n != damaged-1 {
			t.Fatalf("byte %d of frame %d flipped: %d of %d frames taken", at-begin, damaged, n, whole)
		}
	}
	if n, _, _ := frames(t, wal[:begin+100]); n != damaged-1 {
		t.Errorf("cut inside frame %d: %d frames taken", damaged, n)
	}
}

func TestSidecars(t *testing.T) {
	for name, want := range map[string]journal.Sidecar{
		"a.db-wal": journal.WAL, "a.db-shm": journal.SHM, "a.db-journal": journal.Rollback,
		"a.db": journal.None, "-wal": journal.None, "wal": journal.None,
	} {
		base, role := journal.SplitSidecar(name)
		if role != want || role != journal.None && base+role.Suffix() != name {
			t.Errorf("%s: %q, %v", name, base, role)
		}
	}
}

func FuzzParsers(f *testing.F) {
	f.Add([]byte(journal.Magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		journal.ParseHeader(b)
		journal.ParseWALIndex(b)
		journal.RollbackActive(b)
		if h, ok := journal.ParseWALHeader(b); ok {
			r := journal.NewWALReader(bytes.NewReader(b), h, 0, h.Sum)
			for {
				if _, ok, err := r.Next(); !ok || err != nil {
					break
				}
			}
		}
	})
}

// TestWALIndexOfManyFrames has a log whose index has several blocks.
func TestWALIndexOfManyFrames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Exec(`PRAGMA page_size=512; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a);
		INSERT INTO t WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM r WHERE i<9000) SELECT zeroblob(470) FROM r;
		UPDATE t SET a = zeroblob(480) WHERE rowid % 3 = 0`)
	if err != nil {
		t.Fatal(err)
	}
	wal, err := os.ReadFile(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	shm, err := os.ReadFile(path + "-shm")
	if err != nil {
		t.Fatal(err)
	}
	indexed(t, wal, shm)
}

// indexed compares what a log's index says of its frames with the log.
func indexed(t *testing.T, wal, shm []byte) {
	t.Helper()
	h, _ := journal.ParseWALHeader(wal)
	x, ok := journal.ParseWALIndex(shm)
	if !ok {
		t.Fatal("no index")
	}
	for _, first := range []uint32{1, 2, 4062, 4063, 4064, 8158, 8159, x.MaxFrame} {
		if first > x.MaxFrame {
			continue
		}
		pages, err := journal.ReadWALIndexPages(bytes.NewReader(shm), first, x.MaxFrame)
		if err != nil || len(pages) != int(x.MaxFrame-first+1) {
			t.Fatalf("from frame %d: %d pages, %v", first, len(pages), err)
		}
		for i, page := range pages {
			f, ok, err := journal.ReadFrameHeader(bytes.NewReader(wal), h, first+uint32(i))
			if !ok || err != nil || f.Page != page {
				t.Fatalf("frame %d holds page %d (%v, %v), the index says %d", first+uint32(i), f.Page, ok, err, page)
			}
		}
	}
	if _, err := journal.ReadWALIndexPages(bytes.NewReader(shm), 1, 1<<30); err == nil {
		t.Error("an index of that many frames was read")
	}
}
