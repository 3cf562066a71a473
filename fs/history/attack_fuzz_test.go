package history

import (
	"bytes"
	"context"
	"iter"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"encoding/binary"

	"atc/fs/bucket"
)

// The fuzz targets of this file read what a damaged or hostile bucket may hold.
// Whatever it is, the answer is an error or sound data, never a panic.

func twoPages() iter.Seq2[Page, error] {
	return func(yield func(Page, error) bool) {
		for n := uint32(1); n <= 2; n++ {
			if !yield(Page{n, bytes.Repeat([]byte{byte(n)}, 512)}, nil) {
				return
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	var file bytes.Buffer
	c := Commit{PageSize: 512, Pages: 2, TXID: 1, Time: time.Unix(1, 0)}
	if _, err := Encode(&file, c, twoPages()); err != nil {
		f.Fatal(err)
	}
	f.Add(file.Bytes(), int64(file.Len()))
	f.Add(file.Bytes()[:file.Len()-3], int64(file.Len()))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		_, _ = Decode(bytes.NewReader(b), size, func(p Page, at Place) error {
			if at.Offset < 0 || at.Offset+int64(at.Length) > int64(len(b)) {
				t.Errorf("page %d is at %+v of %d bytes", p.Number, at, len(b))
			}
			return nil
		})
	})
}

func FuzzDecodeFrame(f *testing.F) {
	var file bytes.Buffer
	places, err := Encode(&file, Commit{PageSize: 512, Pages: 2, TXID: 1, Time: time.Unix(1, 0)}, twoPages())
	if err != nil {
		f.Fatal(err)
	}
	at := places[1]
	f.Add(file.Bytes()[at.Offset:][:at.Length], uint32(1))
	f.Fuzz(func(t *testing.T, frame []byte, page uint32) {
		data, err := DecodeFrame(frame, page, 512, at)
		if err == nil && xxhash.Sum64(data) != at.Hash {
			t.Error("a page with another hash was accepted")
		}
	})
}

// FuzzOpenIndex mends the checksums, as somebody who writes the bucket can.
func FuzzOpenIndex(f *testing.F) {
	x := NewIndex()
	if err := x.Apply(FileRef{Min: 1, Max: 1}, Commit{PageSize: 512, Pages: 2, TXID: 1}, map[uint32]Place{1: {Offset: 100, Length: 50, Hash: 1}, 2: {Offset: 150, Length: 50, Hash: 2}}); err != nil {
		f.Fatal(err)
	}
	whole, err := x.encode(context.Background())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole, false)
	f.Add(whole, true)
	f.Add(whole[:60], true)
	b, err := bucket.Open(context.Background(), "file://"+f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, object []byte, mend bool) {
		if len(object) > 1<<20 {
			return
		}
		if mend && len(object) >= indexHeaderSize {
			files := int(binary.LittleEndian.Uint32(object[24:]))
			if end := indexHeaderSize + files*fileRefSize; files >= 0 && files < 1000 && end <= len(object) {
				binary.LittleEndian.PutUint64(object[32:], headerSum(object[:end]))
				for rest := object[end:]; len(rest) >= blockSize; rest = rest[blockSize:] {
					binary.LittleEndian.PutUint64(rest[blockSize-8:], xxhash.Sum64(rest[:blockSize-8]))
				}
			}
		}
		ctx := context.Background()
		if _, err := b.Put(ctx, "x.index", bytes.NewReader(object), bucket.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		x, err := openIndex(ctx, b, "x.index")
		if err != nil {
			return
		}
		size, pages := x.Size()
		if pages > 0 && (size < 512 || size > 65536 || size&(size-1) != 0) {
			t.Errorf("pages of %d bytes were accepted", size)
		}
		for _, page := range []uint32{1, 2, pages, 1 << 31} {
			e, ok, err := x.Lookup(ctx, page)
			if err == nil && ok && (e.Offset < 0 || e.Offset > 1<<50 || int64(e.Length) > 1<<20) {
				t.Errorf("page %d at offset %d with %d bytes was accepted", page, e.Offset, e.Length)
			}
		}
	})
}
