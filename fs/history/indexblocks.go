package history

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"

	"atc/fs/errors"
)

// This file defines how the blocks of an index object come into memory: each is
// fetched once, whoever asks, and blocks that are wanted together come in one
// read. Where they are damaged or gone the index is read again from the log, of
// which it is only a digest.

// blockRef names blocks of an index object that are not in memory.
type blockRef struct {
	object *indexObject
	first  int64
	count  int64
}

// blockGap is how many blocks that are here are read along rather than costing
// another request.
const blockGap = 4

// Prepare fetches the index blocks of the given pages, so that Lookup of them
// needs no request. Blocks are fetched in aligned units of so many.
func (x *Index) Prepare(ctx context.Context, pages []uint32, unit int) error {
	refs := x.missing(pages, int64(unit))
	if len(refs) < 2 {
		for _, r := range refs {
			return x.load(ctx, r)
		}
		return nil
	}
	const atOnce = 4
	var (
		wg     sync.WaitGroup
		slots  = make(chan struct{}, atOnce)
		mu     sync.Mutex // protects result
		result error
	)
	for _, r := range refs {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := x.load(ctx, r); err != nil {
				mu.Lock()
				defer mu.Unlock()
				result = err
			}
		})
	}
	wg.Wait()
	return result
}

// Prepared reports whether Lookup of the pages needs no request.
func (x *Index) Prepared(pages []uint32) bool { return len(x.missing(pages, 1)) == 0 }

// missing returns the blocks that the pages need, as few reads.
func (x *Index) missing(pages []uint32, unit int64) []*blockRef {
	x.mu.Lock()
	defer x.mu.Unlock()
	wanted := make(map[int64]bool)
	for _, page := range pages {
		if _, _, missing, _ := x.slot(page); missing != nil {
			wanted[missing.first] = true
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	blocks := make([]int64, 0, len(wanted))
	for n := range wanted {
		blocks = append(blocks, n)
	}
	slices.Sort(blocks)
	var refs []*blockRef
	for _, n := range blocks {
		first := n / unit * unit
		end := min(first+unit, x.base.count())
		if len(refs) > 0 {
			if last := refs[len(refs)-1]; first <= last.first+last.count+blockGap {
				last.count = max(last.count, end-last.first)
				continue
			}
		}
		refs = append(refs, &blockRef{x.base, first, end - first})
	}
	return refs
}

// LoadAll fetches every block, so that later calls of Lookup and Hash need no
// request.
func (x *Index) LoadAll(ctx context.Context) error {
	x.mu.Lock()
	o := x.base
	x.mu.Unlock()
	if o == nil {
		return nil
	}
	return x.load(ctx, &blockRef{o, 0, o.count()})
}

// load fetches what is missing of the blocks, and mends the index where that
// shows it to be damaged.
func (x *Index) load(ctx context.Context, r *blockRef) error {
	err := x.fetchBlocks(ctx, r)
	if x.log == nil || !errors.Is(errors.Corrupt, err) && !errors.Is(errors.NotExist, err) && !errors.Is(errors.Condition, err) {
		return err
	}
	return x.reread(ctx, r.object)
}

// fetchBlocks fetches those of the blocks that are not in memory, without
// holding up who needs others, and waits for those that others fetch.
func (x *Index) fetchBlocks(ctx context.Context, r *blockRef) error {
	for {
		first, count, wait, done := x.claimBlocks(r)
		switch {
		case count > 0:
			err := x.fetchRun(ctx, r.object, first, count)
			x.mu.Lock()
			for n := range count {
				delete(r.object.loading, first+n)
			}
			x.mu.Unlock()
			close(done)
			if err != nil {
				return err
			}
		case wait != nil:
			select {
			case <-wait:
			case <-ctx.Done():
				return errors.E("read page index", r.object.key, errors.Unavailable, ctx.Err())
			}
		default:
			return nil
		}
	}
}

// claimBlocks decides what of the blocks this caller fetches: the first run that
// is not in memory. Without any it returns what to wait for, if there is.
func (x *Index) claimBlocks(r *blockRef) (first, count int64, wait <-chan struct{}, done chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	o := r.object
	for n := r.first; n < r.first+r.count; n++ {
		ch := o.loading[n]
		if o.cache[n] != nil || ch != nil {
			if ch != nil && wait == nil {
				wait = ch
			}
			if count > 0 {
				break
			}
			continue
		}
		if count == 0 {
			first, done = n, make(chan struct{})
		}
		o.loading[n] = done
		count++
	}
	return first, count, wait, done
}

func (x *Index) fetchRun(ctx context.Context, o *indexObject, first, count int64) error {
	b, _, err := o.bucket.GetRange(ctx, o.key, o.blocks()+first*blockSize, count*blockSize, o.etag)
	if err != nil {
		return err
	}
	if int64(len(b)) != count*blockSize {
		return o.corrupt(io.ErrUnexpectedEOF)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range count {
		if err := o.keep(first+i, b[i*blockSize:][:blockSize:blockSize]); err != nil {
			return err
		}
	}
	return nil
}

// Reload reads the index again from the bucket, at the same TXID: the files that
// it names may have been replaced by others with the same pages.
func (x *Index) Reload(ctx context.Context) error {
	if x.log == nil {
		return errors.E("reload page index", x.TXID().String(), errors.NotExist, fmt.Errorf("it was never in the bucket"))
	}
	x.mu.Lock()
	base := x.base
	x.mu.Unlock()
	x.rebuilding.Lock()
	defer x.rebuilding.Unlock()
	return x.readAgain(ctx, base, false)
}

// reread makes x independent of an index object that is damaged or gone.
func (x *Index) reread(ctx context.Context, broken *indexObject) error {
	x.rebuilding.Lock()
	defer x.rebuilding.Unlock()
	return x.readAgain(ctx, broken, true)
}

// readAgain takes over what the bucket says now, unless somebody else has done
// so since base was seen. Where base is broken, what stands on the same object
// does not help; the log itself does. Index.rebuilding is held.
func (x *Index) readAgain(ctx context.Context, base *indexObject, broken bool) error {
	for {
		x.mu.Lock()
		changed := x.base != base
		x.mu.Unlock()
		if changed {
			return nil
		}
		fresh, err := x.log.load(ctx, 0, 0)
		if broken && (err != nil || fresh.base != nil && fresh.base.key == base.key) {
			fresh = NewIndex()
			err = x.log.CatchUp(ctx, fresh)
		}
		if err != nil {
			return err
		}
		if done, err := x.become(fresh); done {
			return err
		}
	}
}

// become takes over what another index of the same history knows. It reports
// false when x has moved on since that one was loaded.
func (x *Index) become(fresh *Index) (bool, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if fresh.txid > x.txid { // shipped, and not applied yet
		return true, errors.E("reload page index", x.txid.String(), errors.Unavailable, fmt.Errorf("the log is at %s", fresh.txid))
	}
	if fresh.txid < x.txid {
		return false, nil
	}
	x.base, x.baseLimit, x.overlay, x.files = fresh.base, fresh.baseLimit, fresh.overlay, fresh.files
	x.interior = fresh.interior
	return true, nil
}
