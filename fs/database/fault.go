package database

import (
	"context"
	"fmt"
	"time"

	"atc/fs/errors"
	"atc/fs/history"
)

// This file defines the fault: what happens when a page is wanted that the
// local file does not hold yet. Who fetches which page is decided here, so that
// nothing is fetched twice; fetch.go defines how.

const (
	minAhead = 64 << 10 // bytes around a single fault
	// smallDatabase is fetched whole by its first fault.
	smallDatabase = 4 << 20
)

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
	db.foresee(first, last)
	waited, err := db.ensurePages(ctx, first, last)
	if waited {
		db.stats.faulted(db.opts.Now().Sub(began))
	}
	if err == nil {
		db.followTree(first, last)
	}
	return err
}

// ensurePages reports whether it had to wait for the bucket.
func (db *DB) ensurePages(ctx context.Context, first, last uint32) (waited bool, err error) {
	fetch, wait := db.claim(first, last)
	if len(fetch) == 0 && wait == nil {
		return false, nil
	}
	db.faulting.Add(1)
	defer db.faulting.Add(-1)
	ctx, cancel := context.WithTimeout(ctx, db.opts.FaultTimeout)
	defer cancel()
	began, trips := time.Now(), 0
	defer func() { db.cold.faulted(time.Since(began), trips) }()
	for {
		if len(fetch) > 0 {
			n, err := db.fetch(ctx, fetch, first, last, 1)
			if trips += n; err != nil {
				return true, err
			}
		} else if wait != nil {
			select {
			case <-wait: // somebody else's fetch; look again
			case <-ctx.Done():
				return true, errors.E("fetch page", fmt.Sprintf("%s page %d", db.opts.Name, first), errors.Unavailable, ctx.Err())
			}
		} else {
			return true, nil
		}
		fetch, wait = db.claim(first, last)
	}
}

// claim decides which missing pages this caller fetches: those of first..last
// that nobody fetches yet, and their neighbours. Without any, it returns what
// to wait for.
func (db *DB) claim(first, last uint32) (fetch []uint32, wait <-chan struct{}) {
	db.mu.RLock()
	missing := false
	for page := first; page <= min(last, db.present.limit) && !missing; page++ {
		missing = !db.present.has(page)
	}
	db.mu.RUnlock()
	if !missing {
		return nil, nil
	}
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
	begin, end := db.neighbours(first, last)
	return db.claimLocked(begin, end), nil
}

// neighbours returns what is fetched along with the pages first..last: what lies
// behind them, or where the index block that knows is not here, the group that a
// guess is about. DB.mu is held.
func (db *DB) neighbours(first, last uint32) (begin, end uint32) {
	if int64(db.present.limit)*int64(db.pageSize) <= smallDatabase {
		return 1, db.present.limit
	}
	begin, end = first, max(last, first+uint32(max(minAhead/db.pageSize, 1))-1)
	if group := history.GroupPages(db.pageSize); last-first < group {
		if _, _, _, ok := db.index.Guess(first); ok {
			begin, end = (first-1)/group*group+1, max(last, (first-1)/group*group+group)
		}
	}
	return begin, end
}

// claimLocked claims what is missing of first..last and not fetched by anybody.
// DB.mu is held.
func (db *DB) claimLocked(first, last uint32) (pages []uint32) {
	done := make(chan struct{})
	for page := first; page <= min(last, db.present.limit); page++ {
		if _, busy := db.fetching[page]; !busy && !db.present.has(page) {
			db.fetching[page] = done
			pages = append(pages, page)
		}
	}
	return pages
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

// prefetch fetches claimed pages in the background. Nobody hears its errors:
// whoever wants one of the pages fetches it again. DB.mu is held.
func (db *DB) prefetch(pages []uint32, unit int, done func()) {
	db.work.Go(func() {
		ctx, cancel := context.WithTimeout(db.background, db.opts.FaultTimeout)
		defer cancel()
		const nobody = 0
		_, _ = db.fetch(ctx, pages, nobody, nobody, unit)
		db.mu.Lock()
		done()
		db.mu.Unlock()
	})
}

// pause is how long the background waits before it looks whether a fault is
// over.
const pause = 5 * time.Millisecond
