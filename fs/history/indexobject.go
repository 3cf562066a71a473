package history

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/cespare/xxhash/v2"

	"atc/fs/bucket"
	"atc/fs/errors"
	"atc/fs/journal"
)

// This file defines the page index as an object in the bucket. Its entries have
// one width, so that the block of any page is one computable range read, and
// every block carries its own checksum, since a wrong place would be a wrong
// page. All integers are little-endian.
//
//	header   magic[8] pageSize u32  pages u32  txid u64  files u32  salt u32  xxhash64 of header and files
//	files    level u64  min u64  max u64, each
//	blocks   512 entries (file u32  length u32  offset u64  hash u64) and their xxhash64 xor salt, each
//
// An entry of length 0 stands for a page that no file holds. The salt is taken
// from the files, so that a block cannot be read with another table of files
// than the one that it counts.

const (
	indexMagic      = "atcindx1"
	indexHeaderSize = 40
	fileRefSize     = 24
	entrySize       = 24
	blockEntries    = 512
	blockSize       = blockEntries*entrySize + 8

	// firstRead is how much of an index object is read at once when it is
	// opened: header, files and the blocks of the first pages.
	firstRead = 64 << 10

	// maxFileRefs bounds what the header of a damaged object can make us read.
	maxFileRefs = 1 << 22
)

// indexObject reads the entries of one index object. Index.mu protects cache.
type indexObject struct {
	bucket bucket.Bucket
	key    string
	etag   string
	txid   TXID
	pages  uint32
	salt   uint32
	files  int // how many of Index.files are this object's
	cache  map[int64][]byte
	groups []group // by which a range is guessed; none where the object was opened without a head
	// loading has the blocks that somebody fetches; the channel is closed when
	// that has ended, in whatever way.
	loading map[int64]chan struct{}
	unsaved []byte // the whole object, while the bucket has not got it
}

// blocks is the offset of the first block.
func (o *indexObject) blocks() int64 { return indexHeaderSize + int64(o.files)*fileRefSize }

// count is how many blocks there are.
func (o *indexObject) count() int64 { return (int64(o.pages) + blockEntries - 1) / blockEntries }

func newIndexObject(b bucket.Bucket, key string) *indexObject {
	return &indexObject{bucket: b, key: key, cache: make(map[int64][]byte), loading: make(map[int64]chan struct{})}
}

func (o *indexObject) corrupt(err error) error {
	return errors.E("read page index", o.key, errors.Corrupt, err)
}

// openIndex reads the beginning of an index object.
func openIndex(ctx context.Context, b bucket.Bucket, key string) (*Index, error) {
	head, info, err := b.GetRange(ctx, key, 0, firstRead, "")
	if err != nil {
		return nil, err
	}
	o := newIndexObject(b, key)
	o.etag = info.ETag
	if len(head) < indexHeaderSize || string(head[:8]) != indexMagic {
		return nil, o.corrupt(fmt.Errorf("no page index"))
	}
	files := binary.LittleEndian.Uint32(head[24:])
	if files > maxFileRefs {
		return nil, o.corrupt(fmt.Errorf("%d files", files))
	}
	o.files = int(files)
	begin := o.blocks()
	if int64(len(head)) < begin {
		if head, _, err = b.GetRange(ctx, key, 0, begin, info.ETag); err != nil {
			return nil, err
		}
		if int64(len(head)) < begin {
			return nil, o.corrupt(io.ErrUnexpectedEOF)
		}
	}
	if headerSum(head[:begin]) != binary.LittleEndian.Uint64(head[32:]) {
		return nil, o.corrupt(fmt.Errorf("checksum of the header"))
	}
	x := NewIndex()
	x.base = o
	x.pageSize = int(binary.LittleEndian.Uint32(head[8:]))
	x.pages = binary.LittleEndian.Uint32(head[12:])
	x.txid = TXID(binary.LittleEndian.Uint64(head[16:]))
	o.pages, x.baseLimit = x.pages, x.pages
	o.txid, o.salt = x.txid, binary.LittleEndian.Uint32(head[28:])
	if !journal.ValidPageSize(x.pageSize) {
		return nil, o.corrupt(fmt.Errorf("pages of %d bytes", x.pageSize))
	}
	for b := head[indexHeaderSize:begin]; len(b) > 0; b = b[fileRefSize:] {
		x.files = append(x.files, FileRef{
			Level: int(binary.LittleEndian.Uint64(b)),
			Min:   TXID(binary.LittleEndian.Uint64(b[8:])),
			Max:   TXID(binary.LittleEndian.Uint64(b[16:])),
		})
	}
	for n, rest := int64(0), head[begin:]; len(rest) >= blockSize; n, rest = n+1, rest[blockSize:] {
		if err := o.keep(n, bytes.Clone(rest[:blockSize])); err != nil {
			return nil, err
		}
	}
	return x, nil
}

// entryOf takes a page's entry out of its block.
func entryOf(block []byte, page uint32) slot {
	e := block[int64(page-1)%blockEntries*entrySize:]
	return slot{binary.LittleEndian.Uint32(e), Place{
		Length: binary.LittleEndian.Uint32(e[4:]),
		Offset: int64(binary.LittleEndian.Uint64(e[8:])),
		Hash:   binary.LittleEndian.Uint64(e[16:]),
	}}
}

// keep checks a block and remembers it.
func (o *indexObject) keep(n int64, b []byte) error {
	if len(b) != blockSize {
		return o.corrupt(io.ErrUnexpectedEOF)
	}
	if o.blockSum(b) != binary.LittleEndian.Uint64(b[blockSize-8:]) {
		return o.corrupt(fmt.Errorf("checksum of block %d", n))
	}
	o.cache[n] = b
	return nil
}

// blockSum is the checksum of a block.
func (o *indexObject) blockSum(b []byte) uint64 {
	return xxhash.Sum64(b[:blockSize-8]) ^ uint64(o.salt)
}

// headerSum is the checksum of header and files, its own field taken as zero.
func headerSum(head []byte) uint64 {
	d := xxhash.New()
	_, _ = d.Write(head[:32])
	_, _ = d.Write(head[indexHeaderSize:])
	return d.Sum64()
}
