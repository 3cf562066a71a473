package history

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
)

// sampleHeads are heads without and with a base, groups, interior pages and a
// hot pack.
func sampleHeads(t testing.TB) (heads [][]byte) {
	t.Helper()
	pages := func(n uint32, interior ...uint32) (map[uint32]Place, func(uint32, []byte) bool) {
		places := make(map[uint32]Place)
		at := int64(100)
		for p := uint32(1); p <= n; p++ {
			data := bytes.Repeat([]byte{byte(p)}, 512)
			places[p] = Place{Offset: at, Length: 40, Hash: xxhash.Sum64(data)}
			at += 40
		}
		for _, p := range interior {
			place := places[p]
			place.Interior = true
			places[p] = place
		}
		return places, func(page uint32, data []byte) bool {
			copy(data, bytes.Repeat([]byte{byte(page)}, 512))
			return true
		}
	}
	for _, n := range []uint32{3, 300} {
		x := NewIndex()
		places, read := pages(n, 2, 3)
		if err := x.Apply(FileRef{Min: 1, Max: 1}, Commit{PageSize: 512, Pages: n, TXID: 1, Time: time.Unix(1, 5)}, places); err != nil {
			t.Fatal(err)
		}
		if n == 300 {
			if err := x.rebase(NewLog(oneObject{}, "x")); err != nil {
				t.Fatal(err)
			}
			changed := map[uint32]Place{7: {Offset: 9, Length: 30, Hash: 1}, 299: {Offset: 39, Length: 31, Hash: 2}}
			if err := x.Apply(FileRef{Min: 2, Max: 2}, Commit{PageSize: 512, Pages: n, TXID: 2, Time: time.Unix(2, 0)}, changed); err != nil {
				t.Fatal(err)
			}
		}
		_, head := x.makeHead(Hot{Touched: []uint32{2}, Read: read})
		heads = append(heads, head)
	}
	return heads
}

// mendHead makes the checksums of a head right, as somebody who writes the
// bucket can.
func mendHead(b []byte) {
	if len(b) < headHeaderSize {
		return
	}
	tables := int64(binary.LittleEndian.Uint32(b[56:]))
	if headHeaderSize+tables > int64(len(b)) {
		return
	}
	binary.LittleEndian.PutUint64(b[72:], headSum(b, b[headHeaderSize:][:tables]))
	if pack := b[headHeaderSize+tables:]; len(pack) >= hotHeaderSize {
		binary.LittleEndian.PutUint64(pack[12:], hotSum(TXID(binary.LittleEndian.Uint64(b[16:])), pack))
	}
}

// readHead wants an error, or places that nobody stumbles over.
func readHead(t *testing.T, b []byte) {
	l := NewLog(oneObject{data: bytes.Repeat([]byte{1}, 40000)}, "x")
	x, err := l.decodeHead("x.head", b)
	if err != nil {
		return
	}
	x.log = nil // nothing to rebuild from
	size, pages := x.Size()
	if size < 512 || size > 65536 {
		t.Errorf("pages of %d bytes", size)
	}
	for _, page := range []uint32{1, 2, 7, pages, 1 << 31} {
		e, ok, err := x.Lookup(t.Context(), page)
		if err == nil && ok && !e.sound(size) {
			t.Errorf("page %d at %+v", page, e)
		}
		if _, offset, length, ok := x.Guess(page); ok && (offset < 0 || length <= 0 || length > 1<<24) {
			t.Errorf("page %d is guessed at %d, %d bytes", page, offset, length)
		}
	}
	for p, err := range x.HotPages() {
		if err == nil && (p.Number == 0 || p.Number > pages || len(p.Data) != size) {
			t.Errorf("hot page %d of %d bytes", p.Number, len(p.Data))
		}
	}
}

func FuzzHead(f *testing.F) {
	for _, head := range sampleHeads(f) {
		f.Add(head)
		f.Add(head[:len(head)/2])
	}
	f.Add([]byte(headMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		readHead(t, b)
		mended := bytes.Clone(b)
		mendHead(mended)
		readHead(t, mended)
	})
}

// TestMangledHead is what FuzzHead does, for as long as a test may take.
func TestMangledHead(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	heads := sampleHeads(t)
	for range 20_000 {
		b := bytes.Clone(heads[random.IntN(len(heads))])
		for range 1 + random.IntN(4) {
			b[random.IntN(len(b))] = []byte{0, 1, 0x7f, 0x80, 0xff, byte(random.Uint32())}[random.IntN(6)]
		}
		mendHead(b)
		if readHead(t, b); t.Failed() {
			return
		}
	}
}

func FuzzIndex(f *testing.F) {
	x := NewIndex()
	places := map[uint32]Place{1: {Offset: 100, Length: 50, Hash: 1}, 2: {Offset: 150, Length: 50, Hash: 2}}
	if err := x.Apply(FileRef{Min: 1, Max: 1}, Commit{PageSize: 512, Pages: 2, TXID: 1}, places); err != nil {
		f.Fatal(err)
	}
	if err := x.rebase(NewLog(oneObject{}, "x")); err != nil {
		f.Fatal(err)
	}
	f.Add(x.base.unsaved)
	f.Add([]byte(indexMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		acceptable(t, 0, b)
		mended := bytes.Clone(b)
		mend(mended)
		acceptable(t, 0, mended)
	})
}

// FuzzFilter wants every page back, at every stride, and out of a pack.
func FuzzFilter(f *testing.F) {
	f.Add(bytes.Repeat([]byte{5, 0, 0, 7, 1, 2, 9}, 80))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, page []byte) {
		for stride := range maxStride + 1 {
			b := make([]byte, len(page))
			filter(b, page, stride)
			if unfilter(b, stride); !bytes.Equal(b, page) {
				t.Fatalf("stride %d changes the page", stride)
			}
		}
		if s := bestStride(page); s < 0 || s > maxStride {
			t.Errorf("stride %d", s)
		}
	})
}
