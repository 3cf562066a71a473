package database

import (
	"context"
	"fmt"
	"io"

	"atc/fs/errors"
)

// This file defines what becomes of captured pages that cannot be shipped any
// more, since the database is another machine's: they are handed out as the LTX
// files that they would have become.

// Salvage calls put with each LTX file that was not confirmed: the one on its way,
// if there is one, and what was captured since. The files continue the history as
// this machine knew it, and do not fit behind what the next owner wrote: they are
// for a person. The database is closed afterwards, with Abandon.
func (db *DB) Salvage(ctx context.Context, put func(ctx context.Context, txid uint64, file io.ReadSeeker) error) error {
	if err := db.shipping.Take(ctx); err != nil {
		return errors.E("keep unshipped pages", db.opts.Name, errors.Other, err)
	}
	defer db.shipping.Pass()
	next := db.index.TXID() + 1
	if s := db.inflight; s != nil {
		if err := db.handOut(ctx, s, put); err != nil {
			return err
		}
		next = s.commit.TXID + 1
	}
	db.capture.Lock()
	defer db.capture.Unlock()
	if db.spool.empty() {
		return nil
	}
	s, err := db.encode(db.spool, db.pageSize, next)
	if err != nil {
		return errors.E("keep unshipped pages", db.opts.Name, errors.Other, err)
	}
	defer s.file.Close()
	return db.handOut(ctx, s, put)
}

func (db *DB) handOut(ctx context.Context, s *shipment, put func(context.Context, uint64, io.ReadSeeker) error) error {
	if _, err := s.file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("rewind LTX file %s: %w", s.commit.TXID, err)
	}
	return put(ctx, uint64(s.commit.TXID), s.file)
}
