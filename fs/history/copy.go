package history

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"atc/fs/bucket"
	"atc/fs/errors"
)

// This file defines the copy of a history up to a transaction: the files of the
// plan, copied inside the store. Its time grows with their number, not with
// their bytes where the store copies them itself.

// copyParallel is how many copies are on their way at once.
const copyParallel = 8

// CopyTo copies what leads to transaction upTo into another folder, which can
// then be loaded, and restored by Litestream, as a history that ends there. 0
// stands for the last. When it is interrupted the folder is of no use until the
// same call has ended; files of another history in it are Exist, before
// anything is copied. progress, which may be nil, counts objects and is never
// called concurrently.
func (l *Log) CopyTo(ctx context.Context, folder string, upTo TXID, progress func(done, total int)) error {
	copied := make(map[string]bool)
	for attempt := 1; ; attempt++ {
		err := l.copyOnce(ctx, NewLog(l.bucket, folder), upTo, copied, progress)
		// A file was merged and deleted between listing and copying.
		if !errors.Is(errors.NotExist, err) || attempt == loadAttempts {
			return err
		}
	}
}

// copyOnce copies by the listing of one moment, and notes keys that it may have
// copied to: what it leaves when it fails is of the same history.
func (l *Log) copyOnce(ctx context.Context, to *Log, upTo TXID, copied map[string]bool, progress func(done, total int)) error {
	found, err := l.list(ctx)
	if err != nil {
		return err
	}
	if points := restorable(found.files); upTo == 0 && len(points) > 0 {
		upTo = points[len(points)-1].Max
	}
	plan, err := Plan(found.files, upTo)
	if err != nil {
		return err
	}
	var from, dest []string
	for _, f := range plan {
		from, dest = append(from, l.fileKey(f.FileRef)), append(dest, to.fileKey(f.FileRef))
	}
	// Only a snapshot's own page index: others name files that are not copied.
	if x, err := l.snapshotIndex(ctx, found, plan[0].FileRef); err != nil {
		return err
	} else if x != nil {
		from, dest = append(from, l.indexKey(plan[0].Max)), append(dest, to.indexKey(plan[0].Max))
	}
	for e, err := range l.bucket.List(ctx, to.folder+"/", bucket.ListOptions{}) {
		if err != nil {
			return err
		}
		if !slices.Contains(dest, e.Key) && !copied[e.Key] {
			return errors.E("copy history", to.folder, errors.Exist, fmt.Errorf("it holds %s, which is of another history", e.Key))
		}
	}
	for _, key := range dest {
		copied[key] = true
	}
	return l.copyAll(ctx, from, dest, progress)
}

func (l *Log) copyAll(ctx context.Context, from, to []string, progress func(done, total int)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex // protects done and progress
		done int
		next = make(chan int)
	)
	for range copyParallel {
		wg.Go(func() {
			for i := range next {
				// An interrupted copy's objects are copied again: the store
				// does the work, and nothing has to be believed.
				if err := l.bucket.Copy(ctx, from[i], to[i]); err != nil {
					cancel(err)
					continue
				}
				mu.Lock()
				if done++; progress != nil {
					progress(done, len(from))
				}
				mu.Unlock()
			}
		})
	}
	for i := range from {
		select {
		case next <- i:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
	}
	close(next)
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return errors.E("copy history", l.folder, errors.Other, err)
	}
	return nil
}
