package history

import (
	"bytes"
	"context"
	"encoding/binary"
	"iter"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"atc/fs/bucket"
	"atc/fs/errors"
)

// The tests of this file read what a damaged or hostile bucket may hold. Whatever
// it is, the answer is an error or sound data, never a panic.

func twoPages() iter.Seq2[Page, error] {
	return func(yield func(Page, error) bool) {
		for n := uint32(1); n <= 2; n++ {
			if !yield(Page{n, bytes.Repeat([]byte{byte(n)}, 512)}, nil) {
				return
			}
		}
	}
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

// oneObject is a bucket of which only range reads are used.
type oneObject struct {
	bucket.Bucket
	data []byte
}

func (o oneObject) GetRange(_ context.Context, key string, offset, length int64, _ string) ([]byte, bucket.Info, error) {
	if offset < 0 || length < 0 {
		return nil, bucket.Info{}, errors.E("get", key, errors.Invalid, nil)
	}
	size := int64(len(o.data))
	begin := min(offset, size)
	return o.data[begin : begin+min(length, size-begin)], bucket.Info{ETag: "1", Size: size}, nil
}

// TestMangledIndex mends the checksums of what it damages, as somebody who
// writes the bucket can.
func TestMangledIndex(t *testing.T) {
	x := NewIndex()
	places := map[uint32]Place{1: {Offset: 100, Length: 50, Hash: 1}, 2: {Offset: 150, Length: 50, Hash: 2}}
	if err := x.Apply(FileRef{Min: 1, Max: 1}, Commit{PageSize: 512, Pages: 2, TXID: 1}, places); err != nil {
		t.Fatal(err)
	}
	if err := x.rebase(NewLog(oneObject{}, "x")); err != nil {
		t.Fatal(err)
	}
	whole := x.base.unsaved
	random := rand.New(rand.NewPCG(1, 2))
	for n := range 50_000 {
		object := bytes.Clone(whole)
		for range 1 + random.IntN(3) {
			at := random.IntN(indexHeaderSize + fileRefSize + 2*entrySize) // where something stands
			object[at] = []byte{0, 1, 0x7f, 0x80, 0xff, byte(random.Uint32())}[random.IntN(6)]
		}
		if random.IntN(4) == 0 {
			object = object[:random.IntN(len(object))]
		}
		mend(object)
		acceptable(t, n, object)
		if t.Failed() {
			return
		}
	}
}

// mend makes the checksums of an index object right, where it has them.
func mend(object []byte) {
	if len(object) < indexHeaderSize {
		return
	}
	files := int64(binary.LittleEndian.Uint32(object[24:]))
	end := indexHeaderSize + files*fileRefSize
	if end > int64(len(object)) {
		return
	}
	binary.LittleEndian.PutUint64(object[32:], headerSum(object[:end]))
	for rest := object[end:]; len(rest) >= blockSize; rest = rest[blockSize:] {
		salt := uint64(binary.LittleEndian.Uint32(object[28:]))
		binary.LittleEndian.PutUint64(rest[blockSize-8:], xxhash.Sum64(rest[:blockSize-8])^salt)
	}
}

// acceptable wants an error, or sizes and places that nobody stumbles over.
func acceptable(t *testing.T, n int, object []byte) {
	x, err := openIndex(t.Context(), oneObject{data: object}, "x.index")
	if err != nil {
		return
	}
	size, pages := x.Size()
	if pages > 0 && (size < 512 || size > 65536 || size&(size-1) != 0) {
		t.Errorf("%d: pages of %d bytes were accepted", n, size)
	}
	for _, page := range []uint32{1, 2, pages, 1 << 31} {
		e, ok, err := x.Lookup(t.Context(), page)
		if err == nil && ok && (e.Offset < 0 || e.Offset > 1<<50 || e.Length > 1<<20) {
			t.Errorf("%d: page %d at offset %d with %d bytes was accepted", n, page, e.Offset, e.Length)
		}
	}
}
