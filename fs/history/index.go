package history

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"atc/fs/bucket"
)

// This file defines the page index of a database as it is used in memory: the
// entries of an index object, fetched block by block when they are asked for,
// and over them what later commits changed.

// FileRef names one LTX file of a database.
type FileRef struct {
	Level    int
	Min, Max TXID
}

// Entry says where a page is: in which file, and at which place in it.
type Entry struct {
	File FileRef
	Place
}

// Index maps the pages of a database at one TXID to their places in the
// bucket. Its methods may be called concurrently.
type Index struct {
	mu       sync.Mutex // protects everything below; not held during requests
	pageSize int
	pages    uint32
	txid     TXID
	time     time.Time       // of the last commit, as far as known
	epoch    uint64          // of the last commit; 0 if unknown
	files    []FileRef       // the first base.files of them are those that base counts
	overlay  map[uint32]slot // what changed since base
	base     *indexObject    // nil for none
	log      *Log            // to read again from when base turns out to be damaged; nil for none
	// baseLimit is the last page that base still speaks for.
	baseLimit uint32
	interior  map[uint32]struct{} // pages that look like interior pages of a b-tree, maxInterior of them at most
	saved     savedHead           // what the bucket has of x
	hot       hotState            // what the head had besides

	rebuilding sync.Mutex // held while x is read again; before mu
}

// slot is an entry with its file as a number in Index.files.
type slot struct {
	file uint32
	Place
}

// maxInterior bounds what is remembered of interior pages.
const maxInterior = 1 << 16

// NewIndex returns the index of a database without any commit.
func NewIndex() *Index {
	return &Index{overlay: make(map[uint32]slot), interior: make(map[uint32]struct{})}
}

// TXID is the last commit that the index covers; 0 for none.
func (x *Index) TXID() TXID {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.txid
}

// Time is when the last commit was made, by its writer's clock. It is zero where
// nothing tells: without any commit, and behind an index object alone.
func (x *Index) Time() time.Time {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.time
}

// Epoch is the ownership in which the last commit was made; 0 without any, and
// where the index was loaded as of an earlier transaction.
func (x *Index) Epoch() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.epoch
}

// NextTime is the time of a commit that is made now: never before the last one,
// whatever the clocks say, so that a history can be searched by time.
func (x *Index) NextTime(now time.Time) time.Time {
	last := x.Time()
	if least := last.Add(time.Millisecond); !last.IsZero() && now.Before(least) {
		return least
	}
	return now
}

// Size returns the page size in bytes and the database's size in pages.
func (x *Index) Size() (pageSize int, pages uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.pageSize, x.pages
}

// Interior reports whether a page looks like an interior page of a b-tree.
func (x *Index) Interior(page uint32) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, ok := x.interior[page]
	return ok
}

// InteriorPages returns the pages that look like interior ones, ascending.
func (x *Index) InteriorPages() []uint32 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Sorted(maps.Keys(x.interior))
}

// Apply adds a commit that stands in the bucket as file ref.
func (x *Index) Apply(ref FileRef, c Commit, places map[uint32]Place) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if ref.Min != x.txid+1 {
		return fmt.Errorf("index at %s: commit %s-%s is not the next", x.txid, ref.Min, ref.Max)
	}
	if x.txid != 0 && c.PageSize != x.pageSize && uint32(len(places)) < c.Pages-1 {
		return fmt.Errorf("index at %s: commit %s changes the page size from %d to %d without all pages",
			x.txid, ref.Max, x.pageSize, c.PageSize)
	}
	if c.PageSize != x.pageSize { // nothing of the old size remains
		x.base, x.baseLimit, x.files = nil, 0, nil
		clear(x.overlay)
		clear(x.interior)
		x.hot = hotState{}
	}
	if c.Pages < x.pages {
		// Pages that a later commit adds again come with that commit: what base
		// has of them is another page's content by then.
		x.baseLimit = min(x.baseLimit, c.Pages)
		behind := func(page uint32) bool { return page > c.Pages }
		maps.DeleteFunc(x.overlay, func(page uint32, _ slot) bool { return behind(page) })
		maps.DeleteFunc(x.interior, func(page uint32, _ struct{}) bool { return behind(page) })
		maps.DeleteFunc(x.hot.hashes, func(page uint32, _ uint64) bool { return behind(page) })
	}
	x.pageSize, x.pages, x.txid, x.time, x.epoch = c.PageSize, c.Pages, ref.Max, c.Time, c.Epoch
	x.files = append(x.files, ref)
	for page, place := range places {
		x.overlay[page] = slot{uint32(len(x.files) - 1), place}
		delete(x.hot.hashes, page)
		if !place.Interior {
			delete(x.interior, page)
		} else if len(x.interior) < maxInterior {
			x.interior[page] = struct{}{}
		}
	}
	return nil
}

// Lookup finds a page. It reports false for a page that no file holds: one
// behind the database's end, or the lock page. An index block that is not here
// yet is fetched from the bucket first, while others go on.
func (x *Index) Lookup(ctx context.Context, page uint32) (Entry, bool, error) {
	for {
		e, ok, missing, err := x.find(page)
		if missing == nil {
			return e, ok, err
		}
		if err := x.load(ctx, missing); err != nil {
			return Entry{}, false, err
		}
	}
}

// sound reports whether a place can be one: a compressed page is hardly larger
// than the page, and no file is larger than the store takes.
func (p Place) sound(pageSize int) bool {
	return p.Offset >= 0 && p.Offset <= bucket.MaxObject && int64(p.Length) <= 2*int64(pageSize)+1024
}

// find is Lookup as far as it goes without a request. Where an index block has
// to be fetched first it says which.
func (x *Index) find(page uint32) (e Entry, ok bool, missing *blockRef, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s, ok, missing, err := x.slot(page)
	if !ok {
		return Entry{}, false, missing, err
	}
	return Entry{x.files[s.file], s.Place}, true, nil, nil
}

// Hash returns the xxhash64 of a page as the bucket has it, under the same
// conditions as Lookup.
func (x *Index) Hash(ctx context.Context, page uint32) (uint64, bool, error) {
	e, ok, err := x.Lookup(ctx, page)
	return e.Hash, ok, err
}

// known is Hash as far as it goes without a request. Index.mu is held.
func (x *Index) known(page uint32) (uint64, bool) {
	s, ok, missing, err := x.slot(page)
	if missing != nil {
		sum, ok := x.hot.hashes[page]
		return sum, ok
	}
	return s.Hash, ok && err == nil
}

// slot finds a page in memory. Index.mu is held.
func (x *Index) slot(page uint32) (s slot, ok bool, missing *blockRef, err error) {
	if page == 0 || page > x.pages {
		return slot{}, false, nil, nil
	}
	if s, ok := x.overlay[page]; ok {
		return s, true, nil, nil
	}
	if x.base == nil || page > x.baseLimit {
		return slot{}, false, nil, nil
	}
	n := int64(page-1) / blockEntries
	block := x.base.cache[n]
	if block == nil {
		return slot{}, false, &blockRef{x.base, n, 1}, nil
	}
	s = entryOf(block, page)
	if s.Length != 0 && (int(s.file) >= len(x.files) || !s.sound(x.pageSize)) {
		return slot{}, false, nil, x.base.corrupt(fmt.Errorf("page %d is in file %d of %d at %+v", page, s.file, len(x.files), s.Place))
	}
	return s, s.Length != 0, nil, nil
}
