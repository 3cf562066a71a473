package history

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// This file defines when an index gets a new base, and how one is made. A head
// is written at every close and read at every cold open, so what changed since
// the base must stay small; a base is written seldom, and read block by block.

const (
	// smallOverlay entries stay in the head whatever the database's size. A
	// database of so few pages never needs a base.
	smallOverlay = 4096
	// overlayShare is the part of a database's pages that may stand in the head.
	overlayShare = 16
)

// crowded reports whether too much changed since the base.
func (x *Index) crowded() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.overlay) > smallOverlay && len(x.overlay) > int(x.pages/overlayShare)
}

// rebase makes a base of everything. Every block is in memory. Files that no
// page is in any more are left out.
func (x *Index) rebase(l *Log) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	o := newIndexObject(l.bucket, l.indexKey(x.txid))
	number := make(map[uint32]uint32) // of a file in x.files → in the object
	var (
		refs     []FileRef
		files    []byte
		blocks   []byte
		inGroup  []slot
		perGroup = GroupPages(x.pageSize)
	)
	for first := uint32(0); first < x.pages; first += blockEntries {
		block := make([]byte, blockSize)
		for i := range min(blockEntries, x.pages-first) {
			page := first + i + 1
			s, ok, missing, err := x.slot(page)
			if err != nil {
				return err
			}
			if missing != nil {
				return x.base.corrupt(fmt.Errorf("block %d is not there", missing.first))
			}
			if ok {
				n, ok := number[s.file]
				if !ok {
					n = uint32(len(number))
					number[s.file] = n
					refs = append(refs, x.files[s.file])
					files = appendFileRef(files, x.files[s.file])
				}
				s.file = n
				inGroup = append(inGroup, s)
				putEntry(block[i*entrySize:], s)
			}
			if page%perGroup == 0 || page == x.pages {
				o.groups = append(o.groups, groupOf(inGroup))
				inGroup = inGroup[:0]
			}
		}
		blocks = append(blocks, block...)
	}
	o.txid, o.pages, o.files, o.salt = x.txid, x.pages, len(refs), uint32(xxhash.Sum64(files))
	head := make([]byte, indexHeaderSize, indexHeaderSize+len(files)+len(blocks))
	copy(head, indexMagic)
	binary.LittleEndian.PutUint32(head[8:], uint32(x.pageSize))
	binary.LittleEndian.PutUint32(head[12:], x.pages)
	binary.LittleEndian.PutUint64(head[16:], uint64(x.txid))
	binary.LittleEndian.PutUint32(head[24:], uint32(len(refs)))
	binary.LittleEndian.PutUint32(head[28:], o.salt)
	head = append(head, files...)
	binary.LittleEndian.PutUint64(head[32:], headerSum(head))
	o.unsaved = append(head, blocks...)
	for n, rest := int64(0), o.unsaved[o.blocks():]; len(rest) > 0; n, rest = n+1, rest[blockSize:] {
		binary.LittleEndian.PutUint64(rest[blockSize-8:], o.blockSum(rest[:blockSize]))
		o.cache[n] = rest[:blockSize:blockSize]
	}
	if old := x.base; old != nil && old.key != o.key && !x.baseOfSnapshot() {
		x.saved.others = append(x.saved.others, old.key)
	}
	x.base, x.baseLimit, x.files = o, x.pages, refs
	clear(x.overlay)
	return nil
}

// baseOfSnapshot reports whether the base describes a snapshot, on which time
// travel begins: transaction 1, or a file that was compacted to all pages at its
// TXID. Index.mu is held.
func (x *Index) baseOfSnapshot() bool {
	return x.base.txid == 1 || slices.ContainsFunc(x.files[:x.base.files], func(f FileRef) bool {
		return f.Level == snapshotLevel && f.Max == x.base.txid
	})
}

func appendFileRef(b []byte, ref FileRef) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(ref.Level))
	b = binary.LittleEndian.AppendUint64(b, uint64(ref.Min))
	return binary.LittleEndian.AppendUint64(b, uint64(ref.Max))
}

func putEntry(e []byte, s slot) {
	binary.LittleEndian.PutUint32(e, s.file)
	binary.LittleEndian.PutUint32(e[4:], s.Length)
	binary.LittleEndian.PutUint64(e[8:], uint64(s.Offset))
	binary.LittleEndian.PutUint64(e[16:], s.Hash)
}
