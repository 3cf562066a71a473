package database

import (
	"context"
	"fmt"
	"slices"

	"atc/fs/history"
)

// This file defines the hot pack's two ends: at a cold opening its pages are put
// into the local file before anybody asks, and at the end of a session the pages
// that were asked for first go into the next one.

const (
	// maxTouched is how many pages are remembered as asked for first.
	maxTouched = 64
	// maxTouch is how many pages one read may cover to count whole: of a larger
	// one, which the kernel has made larger, only the first page is remembered.
	maxTouch = 4
	// touchedAnew is how many of these the pack must have lacked to be written
	// again though nothing was committed.
	touchedAnew = 4
)

// touch remembers what is read first. DB.mu is held.
func (db *DB) touch(first, last uint32) {
	if len(db.touched) >= maxTouched {
		return
	}
	if last-first >= maxTouch {
		last = first
	}
	for page := first; page <= min(last, db.present.limit); page++ {
		if len(db.touched) < maxTouched && !slices.Contains(db.touched, page) {
			db.touched = append(db.touched, page)
		}
	}
}

// installHot puts the pages of the hot pack into the local file, before anybody
// has it. What is damaged in it is left out: the pages are fetched when they are
// asked for.
func (db *DB) installHot() error {
	var pages []uint32
	for p, err := range db.index.HotPages() {
		if err != nil {
			db.opts.Logger.Warn("the hot pack is damaged", "database", db.opts.Name, "err", err)
			break
		}
		if _, err := db.file.WriteAt(p.Data, int64(p.Number-1)*int64(db.pageSize)); err != nil {
			return fmt.Errorf("write hot page %d: %w", p.Number, err)
		}
		pages = append(pages, p.Number)
	}
	db.cold.pages = len(pages)
	return db.present.addEach(pages)
}

// saveIndex leaves a head in the bucket, unless the one that is there is as good.
func (db *DB) saveIndex(ctx context.Context) error {
	touched := db.touchedPages()
	at := db.index.TXID()
	if at == 0 {
		return nil
	}
	saved := at == db.index.Saved() && db.index.HeadSize() > 0
	if saved {
		anew := 0
		for _, page := range touched {
			if !db.index.Packed(page) {
				anew++
			}
		}
		if anew < touchedAnew || db.opts.Keep {
			return nil
		}
	}
	err := db.saveHead(ctx, touched)
	if err != nil && saved {
		db.opts.Logger.Warn("cannot improve the hot pack", "database", db.opts.Name, "err", err)
		return nil
	}
	return err
}

// saveHead leaves a head in the bucket.
func (db *DB) saveHead(ctx context.Context, touched []uint32) error {
	db.mu.RLock()
	size := db.pageSize
	db.mu.RUnlock()
	_, err := db.opts.Log.SaveHead(ctx, db.index, history.Hot{
		Touched: touched,
		Read: func(page uint32, data []byte) bool {
			return len(data) == size && db.has(page) && db.readLocal(page, data) == nil
		},
	})
	return err
}

// touchedPages are the pages that were asked for first.
func (db *DB) touchedPages() []uint32 {
	db.mu.RLock()
	defer db.mu.RUnlock()
	return slices.Clone(db.touched)
}

// HeadSize is the size in bytes of the head that stands in the bucket for
// Position; 0 for none.
func (db *DB) HeadSize() int64 {
	if db.index.Saved() != db.index.TXID() {
		return 0
	}
	return db.index.HeadSize()
}
