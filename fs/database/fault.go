package database

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"atc/fs/errors"
	"atc/fs/history"
)

// This file defines the fault: what happens when a page is wanted that the
// local file does not hold yet. Neighbours in the bucket are fetched along,
// because a range read costs a round trip whatever its length.

const (
	minAhead = 64 << 10 // bytes around a single fault
	maxAhead = 4 << 20  // bytes at once when faults follow each other
	// maxGap is how many unwanted bytes between two wanted pages are read along
	// rather than costing another request.
	maxGap = 32 << 10
	// parallelReads is how many range reads one fault makes at a time.
	parallelReads = 4
	// smallDatabase is fetched whole by its first fault.
	smallDatabase = 4 << 20
)

// readahead follows sequential faults. DB.mu protects it.
type readahead struct {
	next   uint32 // the page behind the last fetched window
	window int    // bytes
}

// Ensure makes the bytes [off, off+length) of the database present. It fails
// with Corrupt when a page does not have its hash, with Unavailable when the
// bucket does not answer in time; the pages that did arrive stay.
func (db *DB) Ensure(ctx context.Context, off, length int64) error {
	if db.complete.Load() || length <= 0 {
		return nil
	}
	db.mu.RLock()
	size := int64(db.pageSize)
	db.mu.RUnlock()
	if size == 0 {
		return nil
	}
	first, last := uint32(off/size)+1, uint32((off+length-1)/size)+1
	began := db.opts.Now()
	waited, err := db.ensurePages(ctx, first, last)
	if waited {
		db.stats.faulted(db.opts.Now().Sub(began))
	}
	return err
}

// ensurePages reports whether it had to wait for the bucket.
func (db *DB) ensurePages(ctx context.Context, first, last uint32) (waited bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, db.opts.FaultTimeout)
	defer cancel()
	for {
		fetch, wait := db.claim(first, last)
		if len(fetch) == 0 && wait == nil {
			return waited, nil
		}
		waited = true
		if len(fetch) > 0 {
			err := db.fetch(ctx, fetch, first, last)
			db.unclaim(fetch)
			if err != nil {
				return waited, err
			}
			continue
		}
		select {
		case <-wait: // somebody else's fetch; look again
		case <-ctx.Done():
			return waited, errors.E("fetch page", fmt.Sprintf("%s page %d", db.opts.Name, first), errors.Unavailable, ctx.Err())
		}
	}
}

// claim decides which missing pages this caller fetches: those of first..last
// that nobody fetches yet, and their neighbours. Without any, it returns what
// to wait for.
func (db *DB) claim(first, last uint32) (fetch []uint32, wait <-chan struct{}) {
	db.mu.Lock()
	defer db.mu.Unlock()
	wanted := false
	for page := first; page <= min(last, db.present.limit); page++ {
		if db.present.has(page) {
			continue
		}
		if ch, ok := db.fetching[page]; ok {
			wait = ch
			continue
		}
		wanted = true
	}
	if !wanted {
		return nil, wait
	}
	if first == db.ahead.next {
		db.ahead.window = min(db.ahead.window*2, maxAhead)
	} else {
		db.ahead.window = minAhead
	}
	end := max(last, first+uint32(max(db.ahead.window/db.pageSize, 1))-1)
	if int64(db.present.limit)*int64(db.pageSize) <= smallDatabase {
		first, end = 1, db.present.limit
	}
	end = min(end, db.present.limit)
	db.ahead.next = end + 1
	done := make(chan struct{})
	for page := first; page <= end; page++ {
		if _, busy := db.fetching[page]; !busy && !db.present.has(page) {
			db.fetching[page] = done
			fetch = append(fetch, page)
		}
	}
	return fetch, nil
}

// unclaim wakes who waits for the pages, whether they came or not.
func (db *DB) unclaim(pages []uint32) {
	db.mu.Lock()
	defer db.mu.Unlock()
	close(db.fetching[pages[0]])
	for _, page := range pages {
		delete(db.fetching, page)
	}
}

// wantedPage is a page with its place in the bucket.
type wantedPage struct {
	page uint32
	history.Entry
}

// fetch brings pages from the bucket. Errors matter for the pages first..last
// only: a neighbour that fails is fetched again by whoever needs it.
func (db *DB) fetch(ctx context.Context, pages []uint32, first, last uint32) error {
	wanted := make([]wantedPage, 0, len(pages))
	for _, page := range pages {
		e, ok, err := db.index.Lookup(ctx, page)
		if err != nil {
			return errors.E("fetch page", fmt.Sprintf("%s page %d", db.opts.Name, page), errors.Other, err)
		}
		if !ok { // a page without content, such as the lock page: the hole is right
			if err := db.install(page, nil); err != nil {
				return err
			}
			continue
		}
		wanted = append(wanted, wantedPage{page, e})
	}
	var (
		wg     sync.WaitGroup
		slots  = make(chan struct{}, parallelReads)
		mu     sync.Mutex // protects result
		result error
	)
	for _, run := range coalesce(wanted) {
		wg.Add(1)
		slots <- struct{}{}
		go func() {
			defer func() { <-slots; wg.Done() }()
			err := db.fetchRun(ctx, run, first, last)
			mu.Lock()
			defer mu.Unlock()
			if result == nil {
				result = err
			}
		}()
	}
	wg.Wait()
	return result
}

// coalesce groups pages into runs that one range read each can serve.
func coalesce(pages []wantedPage) [][]wantedPage {
	slices.SortFunc(pages, func(a, b wantedPage) int {
		return cmp.Or(cmp.Compare(a.File.Max, b.File.Max), cmp.Compare(a.File.Level, b.File.Level), cmp.Compare(a.Offset, b.Offset))
	})
	var runs [][]wantedPage
	for i, p := range pages {
		if i > 0 {
			run := runs[len(runs)-1]
			begin, end := run[0].Offset, run[len(run)-1].Offset+int64(run[len(run)-1].Length)
			if p.File == run[0].File && p.Offset-end <= maxGap && p.Offset+int64(p.Length)-begin <= maxAhead {
				runs[len(runs)-1] = append(run, p)
				continue
			}
		}
		runs = append(runs, []wantedPage{p})
	}
	return runs
}

// fetchRun reads one run and installs its pages.
func (db *DB) fetchRun(ctx context.Context, run []wantedPage, first, last uint32) error {
	begin := run[0].Offset
	end := run[len(run)-1].Offset + int64(run[len(run)-1].Length)
	matters := slices.ContainsFunc(run, func(p wantedPage) bool { return p.page >= first && p.page <= last })
	b, err := db.opts.Log.ReadPages(ctx, run[0].File, begin, end-begin)
	if err != nil {
		if matters {
			return errors.E("fetch page", fmt.Sprintf("%s page %d", db.opts.Name, run[0].page), errors.Other, err)
		}
		return nil
	}
	db.stats.fetchedBytes.Add(int64(len(b)))
	var result error
	for _, p := range run {
		from := p.Offset - begin
		frame := b[min(from, int64(len(b))):min(from+int64(p.Length), int64(len(b)))]
		data, err := history.DecodeFrame(frame, p.page, db.pageSize, p.Place)
		if err != nil {
			db.stats.corrupt.Add(1)
			err = errors.E("fetch page", fmt.Sprintf("%s page %d of %s", db.opts.Name, p.page, p.File.Max), errors.Corrupt, err)
			db.opts.Logger.Error("page in the bucket does not match its checksum", "database", db.opts.Name, "page", p.page, "err", err)
			if p.page >= first && p.page <= last {
				result = err
			}
			continue
		}
		if err := db.install(p.page, data); err != nil {
			return err
		}
	}
	return result
}

// install puts a fetched page into the local file, unless the application has
// written it meanwhile. No data means that the hole stays.
func (db *DB) install(page uint32, data []byte) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.present.has(page) {
		return nil
	}
	if data != nil {
		if _, err := db.file.WriteAt(data, int64(page-1)*int64(db.pageSize)); err != nil {
			return fmt.Errorf("write fetched page %d: %w", page, err)
		}
		db.stats.fetchedPages.Add(1)
	}
	if err := db.present.add(page, page); err != nil {
		return err
	}
	db.noteComplete()
	return nil
}

// HydrateAfter hydrates in the background once the delay has passed. Close ends
// it.
func (db *DB) HydrateAfter(delay time.Duration) {
	if db.complete.Load() {
		return
	}
	db.work.Add(1)
	go func() {
		defer db.work.Done()
		select {
		case <-time.After(delay):
		case <-db.background.Done():
			return
		}
		if err := db.Hydrate(db.background); err != nil && db.background.Err() == nil {
			db.opts.Logger.Warn("cannot fetch the rest of a database", "database", db.opts.Name, "err", err)
		}
	}()
}

// Hydrate fetches all missing pages, a window at a time, until the database is
// complete, ctx ends or a fetch fails. Faults go first: while one is under way
// it waits.
func (db *DB) Hydrate(ctx context.Context) error {
	const pause = 5 * time.Millisecond
	for page := uint32(1); !db.complete.Load(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		db.mu.RLock()
		for page <= db.present.limit && db.present.has(page) {
			page++
		}
		limit, busy := db.present.limit, len(db.fetching) > 0
		size := uint32(db.pageSize)
		db.mu.RUnlock()
		if page > limit {
			return nil
		}
		if busy {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			continue
		}
		last := min(page+(1<<20)/size, limit)
		if _, err := db.ensurePages(ctx, page, last); err != nil {
			return err
		}
		page = last + 1
	}
	return nil
}
