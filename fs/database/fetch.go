package database

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"atc/fs/errors"
	"atc/fs/history"
)

// This file defines how claimed pages come from the bucket: their places are
// looked up, places that lie close together become one range read, and each page
// is checked before it is written. Where the index block that knows the places is
// not here yet, the range that probably holds them is read side by side with it.

const (
	// maxRead is how many bytes one range read fetches at most.
	maxRead = 4 << 20
	// maxGap is how many unwanted bytes between two wanted pages are read along
	// rather than costing another request.
	maxGap = 32 << 10
	// parallelReads is how many range reads one fetch makes at a time.
	parallelReads = 4
	// maxGuesses is how many groups one fetch guesses.
	maxGuesses = 4
	// writeChunk is how many bytes of pages are written at once.
	writeChunk = 256 << 10
)

// wantedPage is a page with its place in the bucket.
type wantedPage struct {
	page uint32
	history.Entry
}

// rangeRead is a range of one file, and what it was read for.
type rangeRead struct {
	file           history.FileRef
	offset, length int64
	pages          []wantedPage  // in the order of their places
	done           chan struct{} // closed when data and err stand; nil if it is not under way
	data           []byte
	err            error
}

func (r *rangeRead) holds(p wantedPage) bool {
	return p.File == r.file && p.Offset >= r.offset && p.Offset+int64(p.Length) <= r.offset+r.length
}

// fetch brings claimed pages from the bucket and gives them free. Errors matter
// for the pages first..last only: a neighbour that fails is fetched again by
// whoever needs it. Index blocks come in aligned units of so many. It reports how
// many requests it made one after the other.
func (db *DB) fetch(ctx context.Context, pages []uint32, first, last uint32, unit int) (trips int, err error) {
	defer db.unclaim(pages)
	trips, err = db.fetchOnce(ctx, pages, first, last, unit)
	if errors.Is(errors.NotExist, err) {
		// The file is gone: it was compacted into another one, which a newer index
		// names. Only one look, or a file that is lost would be looked for forever.
		err = db.index.Reload(ctx)
		if err == nil {
			_, err = db.fetchOnce(ctx, pages, first, last, unit)
		}
		if errors.Is(errors.NotExist, err) {
			err = errors.E("fetch page", fmt.Sprintf("%s page %d", db.opts.Name, first), errors.Corrupt, err)
		}
	}
	return trips, err
}

// fetchOnce is fetch with the index as it is.
func (db *DB) fetchOnce(ctx context.Context, pages []uint32, first, last uint32, unit int) (trips int, err error) {
	reads := db.guess(ctx, pages)
	defer func() {
		for _, r := range reads { // none outlives its fetch
			if r.done != nil {
				<-r.done
			}
		}
	}()
	if len(reads) > 0 || !db.index.Prepared(pages) {
		trips = 1
		if err := db.index.Prepare(ctx, pages, unit); err != nil {
			return trips, errors.E("fetch page", fmt.Sprintf("%s page %d", db.opts.Name, pages[0]), errors.Other, err)
		}
	}
	var rest []wantedPage
	for _, page := range pages {
		if db.has(page) {
			continue // written by the application, or by the attempt before
		}
		e, ok, err := db.index.Lookup(ctx, page)
		if err != nil {
			return trips, errors.E("fetch page", fmt.Sprintf("%s page %d", db.opts.Name, page), errors.Other, err)
		}
		p := wantedPage{page, e}
		if !ok { // a page without content, such as the lock page: the hole is right
			if err := db.install(page, nil, 1); err != nil {
				return trips, err
			}
		} else if n := slices.IndexFunc(reads, func(r *rangeRead) bool { return r.holds(p) }); n >= 0 {
			reads[n].pages = append(reads[n].pages, p)
		} else {
			rest = append(rest, p)
		}
	}
	more := coalesce(rest)
	if len(more) > 0 {
		trips++
	}
	var (
		wg     sync.WaitGroup
		slots  = make(chan struct{}, parallelReads)
		mu     sync.Mutex // protects result
		result error
	)
	for _, r := range append(more, reads...) {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			err := db.finish(ctx, r, first, last)
			mu.Lock()
			defer mu.Unlock()
			if result == nil {
				result = err
			}
		})
	}
	wg.Wait()
	return trips, result
}

// guess begins to read where the pages probably are, if their index blocks are
// not here.
func (db *DB) guess(ctx context.Context, pages []uint32) (reads []*rangeRead) {
	group := history.GroupPages(db.pageSize)
	if uint32(len(pages)) > maxGuesses*group {
		return nil // a window for later, whose blocks come in large units
	}
	seen := make(map[uint32]bool)
	for _, page := range pages {
		n := (page - 1) / group
		if seen[n] {
			continue
		}
		file, offset, length, ok := db.index.Guess(page)
		if !ok {
			continue
		}
		if seen[n] = true; len(seen) > maxGuesses {
			break
		}
		if len(reads) > 0 {
			if r := reads[len(reads)-1]; r.file == file && offset >= r.offset && offset <= r.offset+r.length+maxGap {
				r.length = max(r.length, offset+length-r.offset)
				continue
			}
		}
		reads = append(reads, &rangeRead{file: file, offset: offset, length: length, done: make(chan struct{})})
	}
	for _, r := range reads {
		go func() {
			defer close(r.done)
			r.data, r.err = db.opts.Log.ReadPages(ctx, r.file, r.offset, r.length)
		}()
	}
	return reads
}

// coalesce groups pages into runs that one range read each can serve.
func coalesce(pages []wantedPage) (reads []*rangeRead) {
	slices.SortFunc(pages, func(a, b wantedPage) int {
		return cmp.Or(cmp.Compare(a.File.Max, b.File.Max), cmp.Compare(a.File.Level, b.File.Level), cmp.Compare(a.Offset, b.Offset))
	})
	for _, p := range pages {
		end := p.Offset + int64(p.Length)
		if len(reads) > 0 {
			r := reads[len(reads)-1]
			if p.File == r.file && p.Offset-(r.offset+r.length) <= maxGap && end-r.offset <= maxRead {
				r.pages = append(r.pages, p)
				r.length = max(r.length, end-r.offset)
				continue
			}
		}
		reads = append(reads, &rangeRead{file: p.File, offset: p.Offset, length: end - p.Offset, pages: []wantedPage{p}})
	}
	return reads
}

// finish reads a range, unless that is under way, and installs its pages.
func (db *DB) finish(ctx context.Context, r *rangeRead, first, last uint32) error {
	if r.done != nil {
		<-r.done
	} else {
		r.data, r.err = db.opts.Log.ReadPages(ctx, r.file, r.offset, r.length)
	}
	db.stats.fetchedBytes.Add(int64(len(r.data)))
	matters := func(p wantedPage) bool { return p.page >= first && p.page <= last }
	if r.err != nil {
		if i := slices.IndexFunc(r.pages, matters); i >= 0 {
			return errors.E("fetch page", fmt.Sprintf("%s page %d", db.opts.Name, r.pages[i].page), errors.Other, r.err)
		}
		return nil
	}
	slices.SortFunc(r.pages, func(a, b wantedPage) int { return cmp.Compare(a.page, b.page) })
	var (
		result error
		begin  uint32 // of what is decoded and not written
		chunk  = make([]byte, 0, min(writeChunk, len(r.pages)*db.pageSize))
	)
	write := func() error {
		defer func() { chunk = chunk[:0] }()
		return db.install(begin, chunk, uint32(len(chunk)/db.pageSize))
	}
	for _, p := range r.pages {
		from := p.Offset - r.offset
		frame := r.data[min(from, int64(len(r.data))):min(from+int64(p.Length), int64(len(r.data)))]
		if len(chunk) > 0 && (p.page != begin+uint32(len(chunk)/db.pageSize) || len(chunk) >= writeChunk) {
			if err := write(); err != nil {
				return err
			}
		}
		var err error
		if chunk, err = history.AppendFrame(chunk, frame, p.page, db.pageSize, p.Place); err != nil {
			db.stats.corrupt.Add(1)
			err = errors.E("fetch page", fmt.Sprintf("%s page %d of %s", db.opts.Name, p.page, p.File.Max), errors.Corrupt, err)
			db.opts.Logger.Error("page in the bucket does not match its checksum", "database", db.opts.Name, "page", p.page, "err", err)
			if matters(p) {
				result = err
			}
			continue
		}
		if len(chunk) == db.pageSize {
			begin = p.page
		}
	}
	if len(chunk) > 0 {
		if err := write(); err != nil {
			return err
		}
	}
	return result
}

// install puts fetched pages that follow each other into the local file, but for
// those that the application has written meanwhile. No data means that the holes
// stay.
func (db *DB) install(first uint32, data []byte, count uint32) error {
	if data != nil {
		if err := db.writeFetched(first, data, count); err != nil {
			return err
		}
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if err := db.present.add(first, first+count-1); err != nil {
		return err
	}
	db.noteComplete()
	return nil
}

// keepSynced keeps what is fetched from passing for a change of the database: a
// local file whose time of modification was that of its last sync has it again
// when the returned function is called. DB.mu is held for reading in between, so
// that the application does not write.
func (db *DB) keepSynced() (done func()) {
	db.fetched.Lock()
	defer db.fetched.Unlock()
	if db.fetched.writers == 0 {
		db.fetched.synced = db.modified() == db.syncedAt.Load()
	}
	db.fetched.writers++
	return func() {
		db.fetched.Lock()
		defer db.fetched.Unlock()
		if db.fetched.writers--; db.fetched.writers == 0 && db.fetched.synced {
			db.syncedAt.Store(db.modified())
		}
	}
}

// fetchWrites counts who writes fetched pages.
type fetchWrites struct {
	sync.Mutex
	writers int
	synced  bool // the file was as at its last sync when the first of them began
}

// writeFetched writes those of the pages that are missing. Several may do so at a
// time, since nobody else has claimed the same pages; the application's writes
// stay out until it is done, and what they wrote before is present.
func (db *DB) writeFetched(first uint32, data []byte, count uint32) error {
	db.mu.RLock()
	defer db.mu.RUnlock()
	defer db.keepSynced()()
	size := db.pageSize
	for page := first; page < first+count; {
		if db.present.has(page) {
			page++
			continue
		}
		end := page + 1
		for end < first+count && !db.present.has(end) {
			end++
		}
		b := data[int(page-first)*size : int(end-first)*size]
		if _, err := db.file.WriteAt(b, int64(page-1)*int64(size)); err != nil {
			return fmt.Errorf("write fetched page %d: %w", page, err)
		}
		db.stats.fetchedPages.Add(int64(end - page))
		page = end
	}
	return nil
}
