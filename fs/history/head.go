package history

import (
	"encoding/binary"
	"maps"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// This file defines the head: the one object that a cold reader fetches. It has
// what changed since the last index object (its base), where that one's pages
// probably are, the interior pages, and the hot pack. It is written at every
// close, so it is small: a page that changed costs some 14 bytes, a base of 1 GiB
// 40 KB. All fixed integers are little-endian; u and s are varints, s zigzag.
//
//	header   magic[8] pageSize u32  pages u32  txid u64  time i64 (Unix ns)
//	         base txid u64  base pages u32  base limit u32  base salt u32  base files u32
//	         tables u32  pack u32 (lengths)  epoch of the last commit u64
//	         xxhash64 of tables and of the header before
//	tables   files     u count, then u level  s min (from the max before)  u max-min
//	         overlay   u count, then u page (from the one before)  u file  u length
//	                   s offset (from the end before in that file)  hash u64
//	         groups    u count, then u length, and unless 0: s file (from the one
//	                   before)  s offset (from the end before)
//	         interior  u count, then u page (from the one before)
//	pack     hot pack (hot.go), which has a checksum of its own
//
// The first (base files) of the files are those that the base counts.

const (
	headMagic      = "atchead1"
	headHeaderSize = 80

	// maxHead bounds what an object of that name can make us read.
	maxHead = 256 << 20

	// headGoal is how large a head should be at most. The hot pack takes what
	// the tables leave of it, so that a head, an index block and a group of pages
	// together stay below 1 MiB.
	headGoal = 768 << 10
)

// savedHead is what the bucket has of an index.
type savedHead struct {
	txid TXID  // of the head or index object that the index began with
	size int64 // of the head in bytes; 0 for none
	// others are heads that are known to stand and are behind.
	others []string
}

// Saved is the TXID of the head or the index object that x began with, or was
// saved as; 0 for none.
func (x *Index) Saved() TXID {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.saved.txid
}

// HeadSize is the size of that head in bytes; 0 where there is none.
func (x *Index) HeadSize() int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.saved.size
}

// appendTables encodes everything of the head but header and pack. Index.mu is
// held.
func (x *Index) appendTables(b []byte) []byte {
	own := 0
	if x.base != nil {
		own = x.base.files
	}
	files := slices.Clone(x.files[:own])
	number := make(map[uint32]uint32) // of a file in x.files → in the head
	pages := make([]uint32, 0, len(x.overlay))
	for page := range x.overlay {
		pages = append(pages, page)
	}
	slices.Sort(pages)
	for _, page := range pages {
		file := x.overlay[page].file
		if _, ok := number[file]; ok {
			continue
		}
		if int(file) < own {
			number[file] = file
			continue
		}
		number[file] = uint32(len(files))
		files = append(files, x.files[file])
	}

	b = binary.AppendUvarint(b, uint64(len(files)))
	var last TXID
	for _, f := range files {
		b = binary.AppendUvarint(b, uint64(f.Level))
		b = binary.AppendVarint(b, int64(f.Min-last))
		b = binary.AppendUvarint(b, uint64(f.Max-f.Min))
		last = f.Max
	}

	b = binary.AppendUvarint(b, uint64(len(pages)))
	before := uint32(0)
	ends := make([]int64, len(files))
	for _, page := range pages {
		s := x.overlay[page]
		n := number[s.file]
		b = binary.AppendUvarint(b, uint64(page-before))
		b = binary.AppendUvarint(b, uint64(n))
		b = binary.AppendUvarint(b, uint64(s.Length))
		b = binary.AppendVarint(b, s.Offset-ends[n])
		b = binary.LittleEndian.AppendUint64(b, s.Hash)
		before, ends[n] = page, s.Offset+int64(s.Length)
	}

	var groups []group
	if x.base != nil {
		groups = x.base.groups
	}
	b = binary.AppendUvarint(b, uint64(len(groups)))
	var previous group
	for _, g := range groups {
		b = binary.AppendUvarint(b, uint64(g.length))
		if g.length == 0 {
			continue
		}
		b = binary.AppendVarint(b, int64(g.file)-int64(previous.file))
		b = binary.AppendVarint(b, g.offset-previous.offset-int64(previous.length))
		previous = g
	}

	b = binary.AppendUvarint(b, uint64(len(x.interior)))
	before = 0
	for _, page := range slices.Sorted(maps.Keys(x.interior)) {
		b = binary.AppendUvarint(b, uint64(page-before))
		before = page
	}
	return b
}

// encodeHead makes the whole object. Index.mu is held.
func (x *Index) encodeHead(tables, pack []byte) []byte {
	b := make([]byte, headHeaderSize, headHeaderSize+len(tables)+len(pack))
	copy(b, headMagic)
	binary.LittleEndian.PutUint32(b[8:], uint32(x.pageSize))
	binary.LittleEndian.PutUint32(b[12:], x.pages)
	binary.LittleEndian.PutUint64(b[16:], uint64(x.txid))
	if !x.time.IsZero() {
		binary.LittleEndian.PutUint64(b[24:], uint64(x.time.UnixNano()))
	}
	if o := x.base; o != nil {
		binary.LittleEndian.PutUint64(b[32:], uint64(o.txid))
		binary.LittleEndian.PutUint32(b[40:], o.pages)
		binary.LittleEndian.PutUint32(b[44:], x.baseLimit)
		binary.LittleEndian.PutUint32(b[48:], o.salt)
		binary.LittleEndian.PutUint32(b[52:], uint32(o.files))
	}
	binary.LittleEndian.PutUint32(b[56:], uint32(len(tables)))
	binary.LittleEndian.PutUint32(b[60:], uint32(len(pack)))
	binary.LittleEndian.PutUint64(b[64:], x.epoch)
	binary.LittleEndian.PutUint64(b[72:], headSum(b, tables))
	b = append(b, tables...)
	return append(b, pack...)
}

// headSum is the checksum of header and tables.
func headSum(header, tables []byte) uint64 {
	d := xxhash.New()
	_, _ = d.Write(header[:headHeaderSize-8])
	_, _ = d.Write(tables)
	return d.Sum64()
}
