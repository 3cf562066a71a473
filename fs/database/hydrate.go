package database

import (
	"context"
	"sync"
	"time"
)

// This file defines hydration: the pages that nobody asked for yet are fetched
// in the background, so that the database becomes complete and can be passed
// through. It goes below faults and within a budget.

const (
	// hydrateWindow is how many bytes one step fetches, hydrateWindows how many
	// steps are under way: what a fault may find before it on the line.
	hydrateWindow  = 2 << 20
	hydrateWindows = 3
)

// HydrateAfter hydrates in the background once the delay has passed. Close ends
// it.
func (db *DB) HydrateAfter(delay time.Duration) {
	if db.complete.Load() {
		return
	}
	db.work.Go(func() {
		select {
		case <-time.After(delay):
		case <-db.background.Done():
			return
		}
		if err := db.Hydrate(db.background); err != nil && db.background.Err() == nil {
			db.opts.Logger.Warn("cannot fetch the rest of a database", "database", db.opts.Name, "err", err)
		}
	})
}

// Hydrate fetches all missing pages, interior pages first, until the database is
// complete, ctx ends or a fetch fails. Faults go first: while one is under way no
// further fetch begins.
func (db *DB) Hydrate(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, hydrateWindows)
	begin := func(fetch func() error) {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := fetch(); err != nil {
				cancel(err)
			}
		})
	}
	paid := db.opts.Now()
	interior := db.index.InteriorPages()
	for len(interior) > 0 && ctx.Err() == nil {
		const step = 256 // pages, each of which may be a read of its own
		pages := db.claimPages(interior[:min(step, len(interior))])
		interior = interior[min(step, len(interior)):]
		if len(pages) > 0 {
			paid = db.yield(ctx, paid, len(pages))
			begin(func() error {
				_, err := db.fetch(ctx, pages, pages[0], pages[len(pages)-1], 1)
				return err
			})
		}
	}
	for page := uint32(1); ctx.Err() == nil && !db.complete.Load(); {
		first, last, missing := db.nextMissing(page)
		if missing == 0 {
			break
		}
		paid = db.yield(ctx, paid, missing)
		begin(func() error {
			if ctx.Err() != nil {
				return nil
			}
			return db.hydrateWindow(ctx, first, last)
		})
		page = last + 1
	}
	wg.Wait()
	return context.Cause(ctx)
}

// claimPages claims those of the pages that are missing and not fetched by
// anybody.
func (db *DB) claimPages(of []uint32) (pages []uint32) {
	db.mu.Lock()
	defer db.mu.Unlock()
	done := make(chan struct{})
	for _, page := range of {
		if _, busy := db.fetching[page]; !busy && page <= db.present.limit && !db.present.has(page) {
			db.fetching[page] = done
			pages = append(pages, page)
		}
	}
	return pages
}

// nextMissing finds the next window in which pages are missing.
func (db *DB) nextMissing(page uint32) (first, last uint32, missing int) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	for page <= db.present.limit && db.present.has(page) {
		page++
	}
	window := uint32(max(hydrateWindow/max(db.pageSize, 1), 1))
	first, last = page, min(page+window-1, db.present.limit)
	for ; page <= last; page++ {
		if !db.present.has(page) {
			missing++
		}
	}
	return first, last, missing
}

// hydrateWindow fetches what nobody fetches of a window and waits for the rest.
func (db *DB) hydrateWindow(ctx context.Context, first, last uint32) error {
	for {
		db.mu.Lock()
		pages := db.claimLocked(first, last)
		var wait chan struct{}
		for page := first; page <= last && wait == nil && len(pages) == 0; page++ {
			wait = db.fetching[page]
		}
		db.mu.Unlock()
		switch {
		case len(pages) > 0:
			ctx, cancel := context.WithTimeout(ctx, db.opts.FaultTimeout)
			_, err := db.fetch(ctx, pages, first, last, sequentialBlocks)
			cancel()
			if err != nil {
				return err
			}
		case wait != nil:
			select {
			case <-wait:
			case <-ctx.Done():
				return ctx.Err()
			}
		default:
			return nil
		}
	}
}

// crowdedPause is how long the background waits before it looks whether there is
// room on the disk again, which something else has to make.
const crowdedPause = 500 * time.Millisecond

// yield waits until no fault is under way, the disk has room, and the budget
// allows so many pages more. It returns when they are paid for.
func (db *DB) yield(ctx context.Context, paid time.Time, pages int) time.Time {
	sleep := func(d time.Duration) bool {
		select {
		case <-time.After(d):
			return true
		case <-ctx.Done():
			return false
		}
	}
	for db.faulting.Load() > 0 && sleep(pause) {
	}
	for db.opts.Crowded != nil && db.opts.Crowded() && sleep(crowdedPause) {
	}
	budget := db.opts.HydrateBudget
	if budget <= 0 {
		return paid
	}
	now := db.opts.Now()
	if wait := paid.Sub(now); wait > 0 {
		sleep(wait)
	} else {
		paid = now
	}
	return paid.Add(time.Duration(float64(pages) * float64(db.pageSize) / float64(budget) * float64(time.Second)))
}
