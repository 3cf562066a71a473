package history

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/superfly/ltx"

	"atc/fs/errors"
)

// The targets of this file read what a hostile bucket may hold, whose checksums
// are right where that is possible. Whatever it is, the answer is an error or
// sound data, and what is allocated is bounded by what was read.

// allocates returns how many bytes read allocates.
func allocates(read func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	read()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// decoding is what reading a file of some size may allocate: the buffers of LZ4
// (which come from pools, of up to 4 MiB blocks), and some for each page.
const decoding = 24 << 20

// smallFiles are files as they are written, of several shapes.
func smallFiles(f *testing.F) (files [][]byte) {
	f.Helper()
	for _, c := range []Commit{
		{PageSize: 512, Pages: 2, TXID: 1, Time: time.Unix(1, 0)},
		{PageSize: 512, Pages: 5, TXID: 7, Time: time.Unix(1, 0), Epoch: 3},
		{PageSize: 512, Pages: 2, First: 1, TXID: 9, Time: time.Unix(1, 0)},
	} {
		var file bytes.Buffer
		if _, err := Encode(&file, c, twoPages()); err != nil {
			f.Fatal(err)
		}
		files = append(files, file.Bytes())
	}
	return files
}

// FuzzDecodeFile reads a file as it is. What is accepted is written again, and must
// then hold the same.
func FuzzDecodeFile(f *testing.F) {
	for _, file := range smallFiles(f) {
		f.Add(file)
		f.Add(file[:len(file)-ltx.TrailerSize])
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		var pages []Page
		var places []Place
		var c Commit
		var err error
		read := func(p Page, at Place) error {
			if len(p.Data) != 512 && len(pages) > 64 {
				return fmt.Errorf("enough")
			}
			pages = append(pages, Page{p.Number, bytes.Clone(p.Data)})
			places = append(places, at)
			return nil
		}
		if n := allocates(func() { c, err = Decode(bytes.NewReader(file), int64(len(file)), read) }); n > decoding+300*uint64(len(file)) {
			t.Errorf("%d bytes were allocated for a file of %d", n, len(file))
		}
		if err != nil {
			return
		}
		for i, p := range pages {
			at := places[i]
			if p.Number == 0 || p.Number > c.Pages || at.Offset < 0 || at.Offset+int64(at.Length) > int64(len(file)) {
				t.Fatalf("page %d of %d lies at %+v in a file of %d bytes", p.Number, c.Pages, at, len(file))
			}
			got, err := DecodeFrame(file[at.Offset:][:at.Length], p.Number, c.PageSize, at)
			if err != nil || !bytes.Equal(got, p.Data) {
				t.Fatalf("page %d by its place: %v", p.Number, err)
			}
		}
		if !slices.IsSortedFunc(pages, func(a, b Page) int { return int(int64(a.Number) - int64(b.Number)) }) {
			t.Errorf("pages out of order")
		}
		var again bytes.Buffer
		if _, err := Encode(&again, c, func(yield func(Page, error) bool) {
			for _, p := range pages {
				if !yield(p, nil) {
					return
				}
			}
		}); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		n := 0
		back, err := Decode(bytes.NewReader(again.Bytes()), int64(again.Len()), func(p Page, _ Place) error {
			if n >= len(pages) || p.Number != pages[n].Number || !bytes.Equal(p.Data, pages[n].Data) {
				return fmt.Errorf("page %d is another one", p.Number)
			}
			n++
			return nil
		})
		if err != nil || n != len(pages) || back.TXID != c.TXID || back.First != c.First || back.Pages != c.Pages || back.Epoch != c.Epoch || !back.Time.Equal(c.Time) {
			t.Errorf("%+v became %+v, %v", c, back, err)
		}
	})
}

// FuzzDecodeHeader changes the fields by which a file could make a reader
// allocate, wait or count for ever.
func FuzzDecodeHeader(f *testing.F) {
	file := smallFiles(f)[0]
	f.Add(uint32(0), uint32(512), uint32(2), uint64(1), uint64(1), uint64(0))
	f.Add(uint32(1), uint32(1<<31), uint32(1<<31), uint64(1), uint64(1)<<63, uint64(1)<<63)
	f.Fuzz(func(t *testing.T, flags, pageSize, pages uint32, first, last, at uint64) {
		h := ltx.Header{
			Version: ltx.Version, Flags: flags, PageSize: pageSize, Commit: pages,
			MinTXID: TXID(first), MaxTXID: TXID(last), Timestamp: int64(at),
		}
		head, err := h.MarshalBinary()
		if err != nil {
			return
		}
		mangled := slices.Concat(head, file[len(head):])
		var c Commit
		if n := allocates(func() {
			c, err = Decode(bytes.NewReader(mangled), int64(len(mangled)), func(Page, Place) error { return nil })
		}); n > decoding {
			t.Errorf("%d bytes were allocated", n)
		}
		if err == nil && (c.PageSize != 512 || c.First == 0 || c.First > c.TXID || c.Pages < 2) {
			t.Errorf("accepted %+v", c)
		}
		if err != nil && !errors.Is(errors.Corrupt, err) {
			t.Errorf("the kind of %v", err)
		}
	})
}

// FuzzDecodeFramePages has the place's hash right for whatever comes, so that
// only format and size are between a frame and who reads it.
func FuzzDecodeFramePages(f *testing.F) {
	var file bytes.Buffer
	places, err := Encode(&file, Commit{PageSize: 512, Pages: 2, TXID: 1, Time: time.Unix(1, 0)}, twoPages())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file.Bytes()[places[1].Offset:][:places[1].Length], uint8(0))
	f.Add(file.Bytes()[places[2].Offset:][:places[2].Length], uint8(7))
	f.Fuzz(func(t *testing.T, frame []byte, shift uint8) {
		pageSize := 512 << (shift % 8)
		page := uint32(1)
		if len(frame) >= 4 {
			page = binary.BigEndian.Uint32(frame)
		}
		var data []byte
		var err error
		if n := allocates(func() {
			data, err = DecodeFrame(frame, page, pageSize, Place{Hash: xxhash.Sum64(make([]byte, pageSize))})
		}); n > decoding {
			t.Errorf("%d bytes were allocated for a frame of %d", n, len(frame))
		}
		if err == nil && (len(data) != pageSize || !bytes.Equal(data, make([]byte, pageSize))) {
			t.Errorf("%d bytes, want %d", len(data), pageSize)
		}
		if err != nil && !errors.Is(errors.Corrupt, err) {
			t.Errorf("the kind of %v", err)
		}
	})
}

// FuzzReframe has arbitrary bytes taken for a file whose pages are blocks: what is
// taken can be read as one whose pages are frames.
func FuzzReframe(f *testing.F) {
	seed, err := os.ReadFile("testdata/blocks.ltx")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		c, err := Reframe(&out, bytes.NewReader(data))
		if err != nil {
			return
		}
		again, err := Decode(&out, int64(out.Len()), func(Page, Place) error { return nil })
		if err != nil || again != c {
			t.Errorf("taken as %+v, read as %+v: %v", c, again, err)
		}
	})
}
