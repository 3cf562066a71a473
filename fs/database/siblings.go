package database

import (
	"slices"

	"atc/fs/journal"
)

// This file defines prefetch in key order. Where rows did not come in the order
// of their keys, the pages of a table do not follow each other in the file, and
// readahead sees no scan. But the interior page above them was read before, and
// lists them in order.

const (
	// families is how many of the interior pages that were read last are known.
	families = 16
	// maxSiblings is how many pages are fetched ahead in key order, and
	// maxSiblingFetches how many such fetches run.
	maxSiblings       = 64
	maxSiblingFetches = 2
	// parentsOf is how many pages a read may cover to be looked at for interior
	// ones: a large one is a scan.
	parentsOf = 32
)

// family is the pages below one interior page, in the order of their keys.
type family struct {
	parent   uint32
	children []uint32
	at       int // the child that was read last; -1 for none
	end      int // up to where children were claimed
	run      int // how many were read in order
}

// kin knows the families. DB.mu protects it.
type kin struct {
	families []family // the newest last
	fetches  int      // under way
}

// followTree notes that the application has read pages, which are present: it
// learns the children of an interior page, and fetches the siblings that follow a
// page which was read after its left neighbour.
func (db *DB) followTree(first, last uint32) {
	if db.complete.Load() || last-first >= parentsOf {
		return
	}
	for page := first; page <= last; page++ {
		if db.index.Interior(page) {
			db.meet(page)
		}
	}
	if first == last || last-first < 4 { // a read of one page, as the kernel rounds it
		db.mu.Lock()
		defer db.mu.Unlock()
		for page := first; page <= last; page++ {
			db.readChild(page)
		}
	}
}

// meet learns the children of an interior page from the local file.
func (db *DB) meet(page uint32) {
	db.mu.RLock()
	size := db.pageSize
	known := len(db.kin.families) > 0 && db.kin.families[len(db.kin.families)-1].parent == page
	db.mu.RUnlock()
	data := make([]byte, size)
	if known || db.readLocal(page, data) != nil {
		return
	}
	children := journal.Children(page, data)
	if inOrder(children) {
		return // readahead sees it
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	k := &db.kin
	for i, f := range k.families {
		if f.parent == page {
			k.families = append(slices.Delete(k.families, i, i+1), f)
			return
		}
	}
	if len(k.families) == families {
		k.families = slices.Delete(k.families, 0, 1)
	}
	k.families = append(k.families, family{parent: page, children: children, at: -1})
}

// inOrder reports whether most children follow each other in the file.
func inOrder(children []uint32) bool {
	const near = 8
	n := 0
	for i := 1; i < len(children); i++ {
		if d := int64(children[i]) - int64(children[i-1]); d > 0 && d <= near {
			n++
		}
	}
	return n >= len(children)*3/4
}

// readChild notes that a page was read, and fetches its next siblings if its left
// one was read before. DB.mu is held.
func (db *DB) readChild(page uint32) {
	for i := len(db.kin.families) - 1; i >= 0; i-- {
		f := &db.kin.families[i]
		at := slices.Index(f.children, page)
		if at < 0 {
			continue
		}
		if f.at >= 0 && at == f.at+1 {
			f.run++
		} else if at != f.at {
			f.run, f.end = 0, 0
		}
		f.at = at
		db.prefetchSiblings(f)
		return
	}
}

// prefetchSiblings claims as many children behind the last one that was read as
// were read in order, and some. DB.mu is held.
func (db *DB) prefetchSiblings(f *family) {
	if f.run == 0 || db.kin.fetches >= maxSiblingFetches || db.background.Err() != nil {
		return
	}
	begin := max(f.end, f.at+1)
	end := min(f.at+1+min(8*f.run, maxSiblings), len(f.children))
	if end-begin < min(4*f.run, maxSiblings/2) && end < len(f.children) {
		return // not worth a round yet
	}
	done := make(chan struct{})
	var pages []uint32
	for _, page := range f.children[begin:max(begin, end)] {
		if _, busy := db.fetching[page]; !busy && page <= db.present.limit && !db.present.has(page) {
			db.fetching[page] = done
			pages = append(pages, page)
		}
	}
	f.end = max(end, begin)
	if len(pages) == 0 {
		return
	}
	db.kin.fetches++
	db.prefetch(pages, 1, func() { db.kin.fetches-- })
}
