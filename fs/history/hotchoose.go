package history

import (
	"cmp"
	"slices"

	"github.com/cespare/xxhash/v2"

	"atc/fs/journal"
)

// This file decides which pages a hot pack holds, in the order of their worth:
// the schema, which every connection reads; what the last session asked for
// first; the interior pages, upper levels first; and of a tiny database all.

const (
	// tinyPages and tinyBytes are up to where a database is packed whole.
	tinyPages = 64
	tinyBytes = 256 << 10
	// touchedShare is the part of a pack that touched pages may take.
	touchedShare = 4
)

// Hot is what a session knows that makes the next cold open faster. The zero
// value packs nothing.
type Hot struct {
	// Touched are the pages that were asked for first; without any, those of the
	// session before are kept.
	Touched []uint32
	// Read reads a page of the local file into data; false if it is not there.
	// What does not have the hash that the index knows is left out.
	Read func(page uint32, data []byte) bool
}

// hotReader reads pages that are as the bucket has them.
type hotReader struct {
	x    *Index
	read func(page uint32, data []byte) bool
	data []byte
}

// page returns the content and the hash of a page; only valid until the next.
func (r *hotReader) page(page uint32) ([]byte, uint64, bool) {
	r.x.mu.Lock()
	want, ok := r.x.known(page)
	r.x.mu.Unlock()
	if !ok || !r.read(page, r.data) || xxhash.Sum64(r.data) != want {
		return nil, 0, false
	}
	return r.data, want, true
}

func (r *hotReader) children(page uint32) []uint32 {
	data, _, ok := r.page(page)
	if !ok {
		return nil
	}
	return journal.Children(page, data)
}

// packHot makes the pack of x, of at most limit bytes.
func (x *Index) packHot(hot Hot, limit int) []byte {
	pageSize, pages := x.Size()
	if hot.Read == nil || pages == 0 || limit <= hotHeaderSize {
		return nil
	}
	r := &hotReader{x, hot.Read, make([]byte, pageSize)}
	x.mu.Lock()
	txid, touched := x.txid, hot.Touched
	if len(touched) == 0 {
		touched = x.hot.touched
	}
	x.mu.Unlock()

	p := newHotPacker(limit)
	packed := make(map[uint32]bool)
	add := func(page uint32) bool {
		if packed[page] || p.full || p.number*pageSize >= hotMost-pageSize {
			return false
		}
		data, hash, ok := r.page(page)
		if ok {
			packed[page] = true
			p.add(page, hash, data)
		}
		return ok
	}
	first := 0
	for _, page := range touched {
		if p.size() > limit/touchedShare {
			break
		}
		if add(page) {
			first++
		}
	}
	// Section 2.6: page 1 is the root of the schema.
	add(1)
	for _, page := range r.children(1) {
		add(page)
	}
	for _, page := range x.byLevel(r) {
		add(page)
	}
	if pages <= tinyPages && int(pages)*pageSize <= tinyBytes {
		for page := uint32(1); page <= pages; page++ {
			add(page)
		}
	}
	return p.finish(txid, first)
}

// byLevel returns the interior pages, those that are far above the leaves first.
func (x *Index) byLevel(r *hotReader) []uint32 {
	pages := x.InteriorPages()
	known := make(map[uint32]bool, len(pages))
	for _, page := range pages {
		known[page] = true
	}
	below := make(map[uint32]uint32, len(pages)) // the first child
	for _, page := range pages {
		if c := r.children(page); len(c) > 0 {
			below[page] = c[0]
		}
	}
	level := func(page uint32) (n int) {
		const most = 20 // SQLite's own limit of a b-tree's depth (BTCURSOR_MAX_DEPTH)
		for known[below[page]] && n < most {
			page = below[page]
			n++
		}
		return n
	}
	levels := make(map[uint32]int, len(pages))
	for _, page := range pages {
		levels[page] = level(page)
	}
	slices.SortStableFunc(pages, func(a, b uint32) int { return cmp.Compare(levels[b], levels[a]) })
	return pages
}
