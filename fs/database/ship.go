package database

import (
	"context"
	"fmt"
	"iter"
	"os"
	"slices"
	"time"

	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/journal"
)

// This file defines the way of captured pages into the bucket: what the spool
// holds becomes one LTX file with the next TXID. Once made, a file is put with
// the same bytes until the bucket confirms it, since the outcome of an attempt
// whose answer was lost is unknown; what is captured meanwhile waits for the
// next.

// shipment is one LTX file on its way.
type shipment struct {
	commit history.Commit
	file   *os.File
	places map[uint32]history.Place
	pages  int
}

// Ship puts what was captured into the bucket, if anything was. It returns when
// the bucket has confirmed it. Unavailable asks to call again later; with
// Fenced the database belongs to another machine, and the captured pages stay
// where they are.
func (db *DB) Ship(ctx context.Context) error {
	if err := db.takeTurn(ctx); err != nil {
		return err
	}
	defer db.shipping.Pass()
	return db.ship(ctx)
}

// Flush ships until nothing captured is left.
func (db *DB) Flush(ctx context.Context) error {
	if err := db.takeTurn(ctx); err != nil {
		return err
	}
	defer db.shipping.Pass()
	for db.inflight != nil || db.pending() {
		if err := db.ship(ctx); err != nil {
			return err
		}
	}
	return nil
}

// takeTurn waits until no other shipment of the database is under way.
func (db *DB) takeTurn(ctx context.Context) error {
	if err := db.shipping.Take(ctx); err != nil {
		return errors.E("ship", db.opts.Name, errors.Other, fmt.Errorf("a shipment before it is still under way: %w", err))
	}
	return nil
}

// Unshipped is how many pages were captured and not confirmed by the bucket.
func (db *DB) Unshipped() int64 {
	db.capture.Lock()
	defer db.capture.Unlock()
	pages, _ := db.pendingLocked()
	return pages
}

// pendingLocked is how many pages were captured and not confirmed by the bucket,
// and since when the oldest of them waits. DB.capture is held.
func (db *DB) pendingLocked() (pages int64, since time.Time) {
	for _, s := range []*spool{db.spool, db.flying} {
		if s != nil && !s.empty() {
			pages, since = pages+int64(len(s.at)), s.since
		}
	}
	return pages, since
}

func (db *DB) pending() bool {
	db.capture.Lock()
	defer db.capture.Unlock()
	return !db.spool.empty()
}

// ship ships once, and remembers why that failed. DB.shipping is held.
func (db *DB) ship(ctx context.Context) error {
	err := db.shipNext(ctx)
	db.waits.shipped(err)
	return err
}

func (db *DB) shipNext(ctx context.Context) error {
	if db.inflight == nil {
		s, err := db.cut()
		if s == nil || err != nil {
			return err
		}
		db.inflight = s
	}
	s := db.inflight
	if db.opts.Announce != nil {
		if err := db.opts.Announce(ctx); err != nil {
			return err
		}
	}
	ref, err := db.opts.Log.Append(ctx, s.commit, s.file)
	if err != nil {
		db.stats.shipFailures.Add(1)
		return errors.E("ship", fmt.Sprintf("%s transaction %s", db.opts.Name, s.commit.TXID), errors.Other, err)
	}
	before, _ := db.index.Size()
	if err := db.index.Apply(ref, s.commit, s.places); err != nil {
		return fmt.Errorf("ship %s: %w", db.opts.Name, err)
	}
	if before != 0 && before != s.commit.PageSize {
		if err := db.opts.Log.Snapshot(ctx, ref, db.opts.Dir); err != nil { // a compaction will make one
			db.opts.Logger.Warn("cannot put a snapshot with the new page size", "database", db.opts.Name, "err", err)
		}
	}
	db.inflight = nil
	db.capture.Lock()
	db.flying = nil
	close(db.freed)
	db.freed = make(chan struct{})
	db.capture.Unlock()
	db.stats.shipped(s, db.opts.Now())
	return s.file.Close()
}

// cut closes the spool, starts a new one, and makes an LTX file of the old.
func (db *DB) cut() (*shipment, error) {
	db.capture.Lock()
	if db.spool.empty() {
		db.capture.Unlock()
		return nil, nil
	}
	old := db.spool
	next, err := newSpool(db.opts.Dir, old.pages)
	if err != nil {
		db.capture.Unlock()
		return nil, err
	}
	db.spool, db.flying = next, old
	pageSize := db.pageSize
	db.capture.Unlock()

	s, err := db.encode(old, pageSize, db.index.TXID()+1)
	if err != nil {
		db.putBack(old)
		return nil, err
	}
	return s, old.close()
}

// putBack makes the spool what it was before a cut that failed, with what was
// captured since over it.
func (db *DB) putBack(old *spool) {
	db.capture.Lock()
	defer db.capture.Unlock()
	newer := db.spool
	db.spool, db.flying = old, nil
	if newer.empty() {
		newer.close()
		return
	}
	if newer.slot != old.slot {
		// The page size has changed meanwhile, so that it has every page.
		db.spool = newer
		old.close()
		return
	}
	moved := make(map[uint32]int64, len(newer.at))
	data := make([]byte, db.pageSize)
	for page := range newer.at {
		_, err := newer.read(page, data)
		if err == nil {
			moved[page], err = old.write(data)
		}
		if err != nil { // the disk is full: compare when it is not
			db.compare = "the spool could not be written"
			break
		}
	}
	db.commitSpool(moved, newer.pages)
	newer.close()
}

// encode writes the LTX file of a spool into a scratch file.
func (db *DB) encode(s *spool, pageSize int, txid history.TXID) (*shipment, error) {
	f, err := os.CreateTemp(db.opts.Dir, "ltx-*")
	if err != nil {
		return nil, fmt.Errorf("make LTX file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("make LTX file: %w", err)
	}
	c := history.Commit{
		PageSize: pageSize, Pages: s.pages, TXID: txid,
		Time: db.index.NextTime(db.opts.Now()), Epoch: db.opts.Epoch,
	}
	if known := int64(s.low) + int64(len(s.at)); int64(s.pages) > known+maxUnwritten {
		f.Close()
		return nil, tooSparse(db.opts.Name, int64(s.pages), known)
	}
	places, err := history.Encode(f, c, s.sequence(pageSize))
	if err != nil {
		f.Close()
		return nil, err
	}
	return &shipment{commit: c, file: f, places: places, pages: len(places)}, nil
}

// sequence yields the spool's pages in ascending order. A page by which the
// database grew without anybody having written it is zero; a restore wants it
// all the same.
func (s *spool) sequence(pageSize int) iter.Seq2[history.Page, error] {
	return func(yield func(history.Page, error) bool) {
		numbers := make([]uint32, 0, len(s.at))
		lock := journal.LockPage(pageSize)
		for page := range s.at {
			if page <= s.pages {
				numbers = append(numbers, page)
			}
		}
		for page := s.low + 1; page <= s.pages; page++ {
			if _, ok := s.at[page]; !ok && page != lock {
				numbers = append(numbers, page)
			}
		}
		slices.Sort(numbers)
		data := make([]byte, pageSize)
		for _, page := range numbers {
			ok, err := s.read(page, data)
			if !ok {
				clear(data)
			}
			if !yield(history.Page{Number: page, Data: data}, err) || err != nil {
				return
			}
		}
	}
}
