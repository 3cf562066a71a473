package database

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"atc/fs/errors"
	"atc/fs/history"
)

// This file defines the barrier, by which a new owner ends the history of one
// that did not release.

// PutBarrier puts a transaction that changes nothing: page 1 as it is, with our
// epoch. Once it stands, whoever owned the database before finds its next TXID
// taken. Where it collides, the old owner was faster: read on and try the next.
// A database without any commit needs none, since transaction 1 collides too.
func PutBarrier(ctx context.Context, log *history.Log, index *history.Index, epoch uint64, now func() time.Time) error {
	for {
		if last := index.Epoch(); last > epoch {
			// We are the ones who came too late: behind a later owner's barrier
			// ours would extend its history.
			return errors.E("put barrier", fmt.Sprintf("of epoch %d", epoch), errors.Fenced, fmt.Errorf("transaction %s is of epoch %d", index.TXID(), last))
		}
		pageSize, pages := index.Size()
		if pages == 0 {
			return nil
		}
		page, err := log.ReadPage(ctx, index, 1)
		if err != nil {
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
