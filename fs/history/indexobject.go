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
//	header   magic[8] pageSize u32  pages u32  txid u64  files u32  reserved u32  xxhash64 of header and files
//	files    level u64  min u64  max u64, each
//	blocks   512 entries (file u32  length u32  offset u64  hash u64) and their xxhash64, each
//
// An entry of length 0 stands for a page that no file holds.

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
	pages  uint32
	blocks int64 // offset of the first block
	cache  map[int64][]byte
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
	o := &indexObject{bucket: b, key: key, etag: info.ETag, cache: make(map[int64][]byte)}
	if len(head) < indexHeaderSize || string(head[:8]) != indexMagic {
		return nil, o.corrupt(fmt.Errorf("no page index"))
	}
	files := binary.LittleEndian.Uint32(head[24:])
	if files > maxFileRefs {
		return nil, o.corrupt(fmt.Errorf("%d files", files))
	}
	o.blocks = indexHeaderSize + int64(files)*fileRefSize
	if int64(len(head)) < o.blocks {
		if head, _, err = b.GetRange(ctx, key, 0, o.blocks, info.ETag); err != nil {
			return nil, err
		}
		if int64(len(head)) < o.blocks {
			return nil, o.corrupt(io.ErrUnexpectedEOF)
		}
	}
	if headerSum(head[:o.blocks]) != binary.LittleEndian.Uint64(head[32:]) {
		return nil, o.corrupt(fmt.Errorf("checksum of the header"))
	}
	x := NewIndex()
	x.base = o
	x.pageSize = int(binary.LittleEndian.Uint32(head[8:]))
	x.pages = binary.LittleEndian.Uint32(head[12:])
	x.txid = TXID(binary.LittleEndian.Uint64(head[16:]))
	o.pages, x.baseLimit = x.pages, x.pages
	if !journal.ValidPageSize(x.pageSize) {
		return nil, o.corrupt(fmt.Errorf("pages of %d bytes", x.pageSize))
	}
	x.saved = x.txid
	for b := head[indexHeaderSize:o.blocks]; len(b) > 0; b = b[fileRefSize:] {
		x.files = append(x.files, FileRef{
			Level: int(binary.LittleEndian.Uint64(b)),
			Min:   TXID(binary.LittleEndian.Uint64(b[8:])),
			Max:   TXID(binary.LittleEndian.Uint64(b[16:])),
		})
	}
	for n, rest := int64(0), head[o.blocks:]; len(rest) >= blockSize; n, rest = n+1, rest[blockSize:] {
		if err := o.keep(n, bytes.Clone(rest[:blockSize])); err != nil {
			return nil, err
		}
	}
	return x, nil
}

// blockRef names blocks of an index object that are not in memory.
type blockRef struct {
	object *indexObject
	first  int64
	count  int64
}

// load fetches the blocks without holding up who needs others, and keeps them.
func (r *blockRef) load(ctx context.Context, x *Index) error {
	o := r.object
	b, _, err := o.bucket.GetRange(ctx, o.key, o.blocks+r.first*blockSize, r.count*blockSize, o.etag)
	if err != nil {
		return err
	}
	if int64(len(b)) != r.count*blockSize {
		return o.corrupt(io.ErrUnexpectedEOF)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range r.count {
		if err := o.keep(r.first+i, b[i*blockSize:][:blockSize]); err != nil {
			return err
		}
	}
	return nil
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
	if xxhash.Sum64(b[:blockSize-8]) != binary.LittleEndian.Uint64(b[blockSize-8:]) {
		return o.corrupt(fmt.Errorf("checksum of block %d", n))
	}
	o.cache[n] = b
	return nil
}

// LoadAll fetches every block in one read, so that later calls of Lookup and
// Hash need no request.
func (x *Index) LoadAll(ctx context.Context) error {
	x.mu.Lock()
	o := x.base
	n := int64(0)
	if o != nil {
		n = (int64(o.pages) + blockEntries - 1) / blockEntries
	}
	all := o == nil || int64(len(o.cache)) == n
	x.mu.Unlock()
	if all {
		return nil
	}
	return x.load(ctx, &blockRef{o, 0, n})
}

// encode writes the whole index as one object. Files that no page is in any
// more are left out.
func (x *Index) encode(ctx context.Context) ([]byte, error) {
	if err := x.LoadAll(ctx); err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	number := make(map[uint32]uint32) // of a file in x.files → in the object
	var files, blocks []byte
	for first := uint32(0); first < x.pages; first += blockEntries {
		block := make([]byte, blockSize)
		for i := range min(blockEntries, x.pages-first) {
			s, ok, missing, err := x.slot(first + i + 1)
			if err != nil {
				return nil, err
			}
			if missing != nil {
				return nil, x.base.corrupt(fmt.Errorf("block %d is not there", missing.first))
			}
			if !ok {
				continue
			}
			n, ok := number[s.file]
			if !ok {
				n = uint32(len(number))
				number[s.file] = n
				ref := x.files[s.file]
				files = binary.LittleEndian.AppendUint64(files, uint64(ref.Level))
				files = binary.LittleEndian.AppendUint64(files, uint64(ref.Min))
				files = binary.LittleEndian.AppendUint64(files, uint64(ref.Max))
			}
			e := block[i*entrySize:]
			binary.LittleEndian.PutUint32(e, n)
			binary.LittleEndian.PutUint32(e[4:], s.Length)
			binary.LittleEndian.PutUint64(e[8:], uint64(s.Offset))
			binary.LittleEndian.PutUint64(e[16:], s.Hash)
		}
		binary.LittleEndian.PutUint64(block[blockSize-8:], xxhash.Sum64(block[:blockSize-8]))
		blocks = append(blocks, block...)
	}
	head := make([]byte, indexHeaderSize, indexHeaderSize+len(files)+len(blocks))
	copy(head, indexMagic)
	binary.LittleEndian.PutUint32(head[8:], uint32(x.pageSize))
	binary.LittleEndian.PutUint32(head[12:], x.pages)
	binary.LittleEndian.PutUint64(head[16:], uint64(x.txid))
	binary.LittleEndian.PutUint32(head[24:], uint32(len(number)))
	head = append(head, files...)
	binary.LittleEndian.PutUint64(head[32:], headerSum(head))
	return append(head, blocks...), nil
}

// headerSum is the checksum of header and files, its own field taken as zero.
func headerSum(head []byte) uint64 {
	d := xxhash.New()
	_, _ = d.Write(head[:32])
	_, _ = d.Write(head[indexHeaderSize:])
	return d.Sum64()
}
