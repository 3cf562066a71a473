package history

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"io"
	"iter"

	"github.com/cespare/xxhash/v2"

	"atc/fs/errors"
)

// This file defines the hot pack: the contents of those pages that the next cold
// reader asks for first, in few bytes. Interior pages of a b-tree are rows of
// pointers that count up, which no general compressor sees; so each page is
// first replaced by differences (hotfilter.go), and then all go through flate.
//
//	magic[4] pages u32  touched u32  xxhash64 of the TXID, what precedes and what follows
//	pages    number u32  stride u8  hash u64, each, in the order of the data
//	data     flate of the filtered pages
//
// The first (touched) of the pages are what the last session asked for first.

const (
	hotMagic      = "hot1"
	hotHeaderSize = 20
	hotEntrySize  = 13

	// hotGoal is how large a pack gets at most.
	hotGoal = 512 << 10
	// hotMost bounds what a damaged pack can make us unpack: pages in bytes.
	hotMost = 64 << 20

	// hotLevel is flate's: 9 packs the interior pages of 1 GiB to 70 KB instead of
	// 95 KB and takes twice as long at each close.
	hotLevel = 4

	// hotChunk is after how many pages the size is looked at.
	hotChunk = 16
)

// hotState is what an index knows of the pack that its head had.
type hotState struct {
	pack    []byte            // until it is taken
	touched []uint32          // what the session before asked for first
	hashes  map[uint32]uint64 // of pages in the pack that did not change since
}

// HotPage is one page of a hot pack.
type HotPage struct {
	Number uint32
	Data   []byte // only valid during the iteration step
}

// hotPacker collects pages as long as they fit.
type hotPacker struct {
	limit  int
	out    bytes.Buffer
	zip    *flate.Writer
	sound  int // of out, at the last chunk's end
	kept   int // pages up to there
	pages  []byte
	number int
	full   bool
}

func newHotPacker(limit int) *hotPacker {
	p := &hotPacker{limit: limit}
	p.zip, _ = flate.NewWriter(&p.out, hotLevel)
	return p
}

// add takes a page, unless the pack is full.
func (p *hotPacker) add(page uint32, hash uint64, data []byte) {
	if p.full {
		return
	}
	stride := bestStride(data)
	filtered := make([]byte, len(data))
	filter(filtered, data, stride)
	_, _ = p.zip.Write(filtered)
	p.pages = binary.LittleEndian.AppendUint32(p.pages, page)
	p.pages = append(p.pages, byte(stride))
	p.pages = binary.LittleEndian.AppendUint64(p.pages, hash)
	if p.number++; p.number%hotChunk == 0 {
		p.flush()
	}
}

// flush ends a chunk. One that does not fit is forgotten.
func (p *hotPacker) flush() {
	_ = p.zip.Flush()
	if hotHeaderSize+len(p.pages)+p.out.Len() > p.limit {
		p.full = true
		return
	}
	p.sound, p.kept = p.out.Len(), p.number
}

// size is how many bytes the pack has at the last chunk's end.
func (p *hotPacker) size() int { return hotHeaderSize + p.kept*hotEntrySize + p.sound }

// finish returns the pack as of txid; nothing for no pages.
func (p *hotPacker) finish(txid TXID, touched int) []byte {
	if !p.full {
		p.flush()
	}
	if p.kept == 0 {
		return nil
	}
	b := make([]byte, hotHeaderSize, p.size())
	copy(b, hotMagic)
	binary.LittleEndian.PutUint32(b[4:], uint32(p.kept))
	binary.LittleEndian.PutUint32(b[8:], uint32(min(touched, p.kept)))
	b = append(b, p.pages[:p.kept*hotEntrySize]...)
	b = append(b, p.out.Bytes()[:p.sound]...)
	binary.LittleEndian.PutUint64(b[12:], hotSum(txid, b))
	return b
}

func hotSum(txid TXID, b []byte) uint64 {
	d := xxhash.New()
	_, _ = d.Write(binary.LittleEndian.AppendUint64(nil, uint64(txid)))
	_, _ = d.Write(b[:12])
	_, _ = d.Write(b[hotHeaderSize:])
	return d.Sum64()
}

// read takes up a pack, or leaves it alone when it is damaged or of another TXID.
func (h *hotState) read(txid TXID, pageSize int, pages uint32, b []byte) {
	if len(b) < hotHeaderSize || string(b[:4]) != hotMagic || hotSum(txid, b) != binary.LittleEndian.Uint64(b[12:]) {
		return
	}
	n, touched := int64(binary.LittleEndian.Uint32(b[4:])), binary.LittleEndian.Uint32(b[8:])
	if hotHeaderSize+n*hotEntrySize > int64(len(b)) || n*int64(pageSize) > hotMost {
		return
	}
	hashes := make(map[uint32]uint64, n)
	var first []uint32
	for i := range n {
		e := b[hotHeaderSize+i*hotEntrySize:]
		page := binary.LittleEndian.Uint32(e)
		if page == 0 || page > pages || e[4] > maxStride {
			return
		}
		if hashes[page] = binary.LittleEndian.Uint64(e[5:]); i < int64(touched) {
			first = append(first, page)
		}
	}
	h.pack, h.touched, h.hashes = b, first, hashes
}

// HotPages yields the pages of the hot pack that are still as they were packed,
// once: the pack is then forgotten. Each page has been checked against its hash;
// an error, of kind Corrupt, ends them.
func (x *Index) HotPages() iter.Seq2[HotPage, error] {
	x.mu.Lock()
	pack, pageSize := x.hot.pack, x.pageSize
	x.hot.pack = nil
	x.mu.Unlock()
	return func(yield func(HotPage, error) bool) {
		if pack == nil {
			return
		}
		n := int(binary.LittleEndian.Uint32(pack[4:]))
		entries := pack[hotHeaderSize:][:n*hotEntrySize]
		unzip := flate.NewReader(bytes.NewReader(pack[hotHeaderSize+len(entries):]))
		data := make([]byte, pageSize)
		for ; len(entries) > 0; entries = entries[hotEntrySize:] {
			page := binary.LittleEndian.Uint32(entries)
			_, err := io.ReadFull(unzip, data)
			if err == nil {
				unfilter(data, int(entries[4]))
				if xxhash.Sum64(data) != binary.LittleEndian.Uint64(entries[5:]) {
					err = fmt.Errorf("it has another hash")
				}
			}
			if err != nil {
				yield(HotPage{}, errors.E("unpack hot page", fmt.Sprint(page), errors.Corrupt, err))
				return
			}
			x.mu.Lock()
			_, fresh := x.hot.hashes[page]
			x.mu.Unlock()
			if fresh && !yield(HotPage{page, data}, nil) {
				return
			}
		}
	}
}

// DropHot forgets the pack's contents, for who does not need them.
func (x *Index) DropHot() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.hot.pack = nil
}

// Packed reports whether the hot pack had a page as it is.
func (x *Index) Packed(page uint32) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, ok := x.hot.hashes[page]
	return ok
}
