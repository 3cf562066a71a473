package journal_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/ncruces/go-sqlite3"

	"atc/fs/journal"
)

// The targets of this file read what an application, or whoever wrote its files,
// may have left on disk. Whatever it is, the answer is bounded: by the input's
// length in what is read, and by a constant in what is allocated.

// bounded runs read and fails if it allocates more than limit bytes.
func bounded(t *testing.T, limit uint64, read func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	read()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > limit {
		t.Errorf("%d bytes were allocated, want at most %d", n, limit)
	}
}

func FuzzHeader(f *testing.F) {
	_, _, db := walOf(f, "512")
	f.Add(db[:journal.HeaderSize])
	f.Add([]byte(journal.Magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, ok := journal.ParseHeader(b)
		if !ok {
			return
		}
		if !journal.ValidPageSize(h.PageSize) || len(b) < journal.HeaderSize || !bytes.HasPrefix(b, []byte(journal.Magic)) {
			t.Errorf("%+v was taken for a header", h)
		}
		if journal.LockPage(h.PageSize) < 2 {
			t.Errorf("the lock page of %d-byte pages is %d", h.PageSize, journal.LockPage(h.PageSize))
		}
	})
}

// FuzzWAL reads a log twice: in one go, and frame by frame from where the first
// reading was, as capturing does. Both find the same frames, which lie in the
// log and chain.
func FuzzWAL(f *testing.F) {
	for _, pageSize := range []int{512, 1024} {
		wal, _, _ := walOf(f, fmt.Sprint(pageSize))
		few := wal[:journal.WALHeaderSize+3*(journal.FrameHeaderSize+pageSize)] // small ones mutate faster
		f.Add(few, uint16(0))
		f.Add(few[:len(few)-7], uint16(600))
	}
	f.Fuzz(func(t *testing.T, wal []byte, flip uint16) {
		if len(wal) > 1<<20 {
			return
		}
		wal = bytes.Clone(wal)
		if n := int(flip); n > 0 && n < len(wal) {
			wal[n] ^= 1
			mendWAL(wal)
		}
		h, ok := journal.ParseWALHeader(wal)
		if !ok {
			return
		}
		bounded(t, 1<<20, func() {
			r := journal.NewWALReader(bytes.NewReader(wal), h, 0, h.Sum)
			sum := h.Sum
			for n := uint32(1); ; n++ {
				fr, ok, err := r.Next()
				if err != nil {
					t.Fatal(err)
				}
				if !ok {
					break
				}
				if fr.Number != n || fr.Page == 0 || len(fr.Data) != h.PageSize || h.FrameOffset(n+1) > int64(len(wal)) {
					t.Fatalf("frame %+v as number %d of a log of %d bytes", fr.Number, n, len(wal))
				}
				at := h.FrameOffset(n)
				if !bytes.Equal(fr.Data, wal[at+journal.FrameHeaderSize:][:h.PageSize]) {
					t.Fatalf("frame %d has other data", n)
				}
				one, ok, err := journal.ReadFrameHeader(bytes.NewReader(wal), h, n)
				if err != nil || !ok || one.Page != fr.Page || one.Commit != fr.Commit || one.Sum != fr.Sum {
					t.Fatalf("frame %d is %+v by itself (%v, %v)", n, one, ok, err)
				}
				if n%64 == 1 { // a reader that begins there finds it, too
					from, ok, err := journal.NewWALReader(bytes.NewReader(wal[:h.FrameOffset(n+1)]), h, n-1, sum).Next()
					if err != nil || !ok || from.Sum != fr.Sum {
						t.Fatalf("begun at frame %d: %+v, %v, %v", n, from.Number, ok, err)
					}
				}
				sum = fr.Sum
			}
		})
	})
}

// mendWAL makes the header's checksum right, as somebody who writes the file can,
// so that what lies behind it is reached.
func mendWAL(wal []byte) {
	if len(wal) < journal.WALHeaderSize {
		return
	}
	var order binary.ByteOrder = binary.LittleEndian
	if wal[3]&1 != 0 {
		order = binary.BigEndian
	}
	var a, b uint32
	for w := wal[:24]; len(w) > 0; w = w[8:] {
		a += order.Uint32(w) + b
		b += order.Uint32(w[4:]) + a
	}
	binary.BigEndian.PutUint32(wal[24:], a)
	binary.BigEndian.PutUint32(wal[28:], b)
}

func FuzzWALIndex(f *testing.F) {
	_, shm, _ := walOf(f, "512")
	f.Add(shm[:journal.WALIndexSize])
	f.Fuzz(func(t *testing.T, b []byte) {
		x, ok := journal.ParseWALIndex(b)
		if !ok {
			return
		}
		half := journal.WALIndexSize / 2
		if !bytes.Equal(b[:half], b[half:journal.WALIndexSize]) {
			t.Errorf("%+v from two copies that differ", x)
		}
	})
}

// hotJournal is the journal of a transaction that has spilled into the database
// and is not committed.
func hotJournal(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	c, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, sql := range []string{
		"pragma page_size=512", "create table t(a)", "insert into t values(randomblob(5000))",
		"pragma cache_size=3", "begin", "update t set a=randomblob(6000)", "insert into t values(randomblob(4000))",
	} {
		if err := c.Exec(sql); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path + "-journal")
	if err != nil {
		t.Fatal(err)
	}
	if !journal.RollbackActive(b) {
		t.Fatal("the journal is not hot")
	}
	return b
}

func FuzzRollback(f *testing.F) {
	hot := hotJournal(f)
	f.Add(hot[:3*520+512], uint32(512))
	hot = hot[:2*520+512]
	unknown := bytes.Clone(hot)
	binary.BigEndian.PutUint32(unknown[8:], 0xffffffff)
	f.Add(unknown, uint32(512))
	f.Add(hot[:600], uint32(512))
	f.Fuzz(func(t *testing.T, b []byte, size uint32) {
		pageSize := 512 << (size % 8)
		if size == 512 {
			pageSize = 512
		}
		if len(b) > 1<<20 {
			return
		}
		// An original takes 16 bytes, and a slice that grows has up to three times
		// as much.
		bounded(t, 1<<20, func() {
			originals, pages, ok, err := journal.ReadRollback(bytes.NewReader(b), int64(len(b)), pageSize)
			if err != nil {
				t.Fatal(err)
			}
			if !ok && len(originals) > 0 {
				t.Errorf("%d originals of a journal that is not in force", len(originals))
			}
			for _, o := range originals {
				if o.Page == 0 || o.Page > pages || o.Offset < 0 || o.Offset+int64(pageSize) > int64(len(b)) {
					t.Errorf("page %d of %d at %d in a journal of %d bytes", o.Page, pages, o.Offset, len(b))
				}
			}
		})
	})
}

func FuzzSplitSidecar(f *testing.F) {
	for _, name := range []string{"main.db", "main.db-wal", "a-shm-journal", "-wal", ""} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		base, role := journal.SplitSidecar(name)
		if base+role.Suffix() != name || base == "" && name != "" {
			t.Errorf("%q is %q and %q", name, base, role.Suffix())
		}
	})
}
