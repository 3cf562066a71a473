package database

import (
	"context"

	"atc/fs/errors"
	"atc/fs/history"
)

// This file defines when a history is compacted: while its database is open, by
// the number of transactions that were shipped, and beside shipping. Nothing
// looks at a database that nobody writes.

// Compaction says how databases are compacted, for many of them together.
type Compaction struct {
	Policy history.Policy
	Slots  chan struct{} // as many run at a time as it has room for
}

// CompactIfDue compacts in the background if so much was shipped that it is worth
// looking, and no compaction runs yet. Close ends one that does: what it has put
// stands, and the next goes on from there.
func (db *DB) CompactIfDue() {
	c := db.opts.Compaction
	if c == nil || !db.compacting.CompareAndSwap(false, true) {
		return
	}
	if !db.compacted.Due(c.Policy, db.index.TXID(), db.opts.Now()) {
		db.compacting.Store(false)
		return
	}
	db.work.Go(func() {
		defer db.compacting.Store(false)
		select {
		case c.Slots <- struct{}{}:
			defer func() { <-c.Slots }()
		case <-db.background.Done():
			return
		}
		if err := db.compact(db.background, c.Policy); err != nil && db.background.Err() == nil {
			// Everything is as it was; the next try comes after as many
			// transactions again.
			db.opts.Logger.Warn("cannot compact a history", "database", db.opts.Name, "err", err)
		}
	})
}

// compact merges what is due, leaves an index that knows of it, and then deletes
// what nobody needs any more.
func (db *DB) compact(ctx context.Context, p history.Policy) error {
	done, err := db.opts.Log.Compact(ctx, db.index, p, db.opts.Now())
	db.compacted = done
	if err != nil {
		return errors.E("compact", db.opts.Name, errors.Other, err)
	}
	// Always: what a cold open reads must name nothing that is deleted below.
	if err := db.saveHead(ctx, db.touchedPages()); err != nil {
		return errors.E("compact", db.opts.Name, errors.Other, err)
	}
	gone, err := db.opts.Log.Retain(ctx, db.index, db.index.Standing(), p)
	db.stats.compactions.Add(1)
	db.stats.expiredFiles.Add(int64(gone.Files))
	if err != nil {
		return errors.E("retain", db.opts.Name, errors.Other, err)
	}
	return nil
}
