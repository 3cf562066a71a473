package database

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cespare/xxhash/v2"

	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/journal"
)

// This file defines the barrier, by which a new owner ends the history of one
// that did not release.

// TakeOver ends the history of an owner that did not release, and returns where
// it stands then. Void says that nothing was ever committed to it: the database
// is to go on in another folder, since the barrier's page size is not one that the
// application chose, and Litestream restores only what has one.
func TakeOver(ctx context.Context, log *history.Log, epoch uint64, now func() time.Time) (index *history.Index, void bool, err error) {
	if index, err = log.Load(ctx, 0, 0); err != nil {
		return nil, false, err
	}
	// It may have been left so by a take-over that ended here.
	if void, err = isVoid(ctx, index); void || err != nil {
		return index, void, err
	}
	if err := PutBarrier(ctx, log, index, epoch, now); err != nil {
		return nil, false, err
	}
	void, err = isVoid(ctx, index)
	return index, void, err
}

// PutBarrier puts a transaction that changes nothing: page 1 as it is, with our
// epoch. Once it stands, whoever owned the database before finds its next TXID
// taken. Where it collides, the old owner was faster: read on and try the next.
// A history without any commit gets one page that SQLite takes for an empty
// database: with nothing there the old owner's first transaction would not fail
// but fence us.
func PutBarrier(ctx context.Context, log *history.Log, index *history.Index, epoch uint64, now func() time.Time) error {
	for {
		if last := index.Epoch(); last > epoch {
			// We are the ones who came too late: behind a later owner's barrier
			// ours would extend its history.
			return errors.E("put barrier", fmt.Sprintf("of epoch %d", epoch), errors.Fenced, fmt.Errorf("transaction %s is of epoch %d", index.TXID(), last))
		}
		pageSize, pages := index.Size()
		page, err := emptyPage(), error(nil)
		if pages == 0 {
			pageSize, pages = len(page), 1
		} else if page, err = log.ReadPage(ctx, index, 1); err != nil {
			return fmt.Errorf("put barrier: %w", err)
		}
		var file bytes.Buffer
		c := history.Commit{PageSize: pageSize, Pages: pages, TXID: index.TXID() + 1, Time: index.NextTime(now()), Epoch: epoch}
		places, err := history.Encode(&file, c, func(yield func(history.Page, error) bool) {
			yield(history.Page{Number: 1, Data: page}, nil)
		})
		if err != nil {
			return fmt.Errorf("put barrier: %w", err)
		}
		ref, err := appendKnown(ctx, log, c, file.Bytes())
		if err == nil {
			return index.Apply(ref, c, places)
		}
		if !errors.Is(errors.Fenced, err) {
			return fmt.Errorf("put barrier: %w", err)
		}
		if err := log.CatchUp(ctx, index); err != nil {
			return fmt.Errorf("put barrier: %w", err)
		}
	}
}

// isVoid reports whether nothing but a barrier was ever put into a history.
func isVoid(ctx context.Context, index *history.Index) (bool, error) {
	if _, pages := index.Size(); index.TXID() != 1 || pages != 1 {
		return false, nil
	}
	hash, ok, err := index.Hash(ctx, 1)
	return ok && hash == xxhash.Sum64(emptyPage()), err
}

// emptyPage is the only page of a database without tables (file format, sections
// 1.3 and 1.6).
func emptyPage() []byte {
	const size = 4096 // SQLite's default
	page := make([]byte, size)
	copy(page, journal.Magic)
	binary.BigEndian.PutUint16(page[16:], size)
	page[18], page[19] = 1, 1                                     // rollback journal
	page[21], page[22], page[23] = 64, 32, 32                     // the only payload fractions there are
	binary.BigEndian.PutUint32(page[24:], 1)                      // change counter
	binary.BigEndian.PutUint32(page[28:], 1)                      // pages
	binary.BigEndian.PutUint32(page[44:], 4)                      // schema format
	binary.BigEndian.PutUint32(page[56:], 1)                      // UTF-8
	binary.BigEndian.PutUint32(page[92:], 1)                      // the change counter that the size belongs to
	page[journal.HeaderSize] = 0x0d                               // the schema's b-tree is a leaf
	binary.BigEndian.PutUint16(page[journal.HeaderSize+5:], size) // without cells
	return page
}

// appendKnown appends until the outcome is known: the bytes are the same, so
// that a file that stands already is recognized.
func appendKnown(ctx context.Context, log *history.Log, c history.Commit, file []byte) (history.FileRef, error) {
	const pause = 200 * time.Millisecond
	for {
		ref, err := log.Append(ctx, c, bytes.NewReader(file))
		if err == nil || !errors.Retryable(err) {
			return ref, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ref, err
		}
	}
}
