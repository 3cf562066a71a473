package history

import (
	"cmp"
	"context"
	"slices"
	"sort"
	"time"

	"atc/fs/bucket"
	"atc/fs/errors"
)

// This file defines compaction: which files are merged, and how the index in use
// learns of it. It only adds objects. Whatever it is interrupted at, every
// transaction can be restored that could be before, and the next call goes on
// from what stands in the bucket. Deleting is retain.go's.
//
// Windows are cut by the times in the files' headers, found by bisection, and
// only closed ones are merged. Transaction 1 is never merged: it is a snapshot,
// and a first start is to write each byte once.

// baseWorth is from how many bytes on a first transaction gets a page index, so
// that going back in time need not read it whole.
const baseWorth = 1 << 20

// Compact merges the files of closed windows into the next level, and all of
// them into a snapshot when that is worth it, and repoints x to the outputs.
// When it has put anything, x has to be saved before Retain is called. With
// nothing to do it costs one listing; see Compaction.Due for when to call it.
// An input that is damaged is Corrupt, and nothing is lost by it: call it again
// later, or leave it.
func (l *Log) Compact(ctx context.Context, x *Index, p Policy, now time.Time) (Compaction, error) {
	c := &compaction{log: l, index: x, policy: p, now: now, times: make(map[FileRef]time.Time)}
	c.done = Compaction{At: x.TXID(), Next: now.Truncate(p.Window1).Add(p.Window1)}
	var err error
	if c.found, err = l.list(ctx); err != nil {
		return c.done, err
	}
	// What is behind the index is a commit that is just being shipped.
	c.found.files = slices.DeleteFunc(c.found.files, func(f File) bool { return f.Max > c.done.At })
	for _, step := range []func(context.Context) error{
		c.adopt,
		func(ctx context.Context) error { return c.level(ctx, 1, p.Window1) },
		func(ctx context.Context) error { return c.level(ctx, 2, p.Window2) },
		c.snapshot,
		c.firstBase,
	} {
		if err := step(ctx); err != nil {
			return c.done, err
		}
	}
	return c.done, nil
}

// compaction is one call of Compact on its way.
type compaction struct {
	log    *Log
	index  *Index
	policy Policy
	now    time.Time
	found  listing // of files, what Compact has put included
	times  map[FileRef]time.Time
	clock  time.Time // the store's, as of the last header read
	done   Compaction
}

// adopt repoints the index to outputs of a compaction that was interrupted
// before it could, so that their inputs do not stay for ever.
func (c *compaction) adopt(ctx context.Context) error {
	files := slices.Clone(c.found.files)
	slices.SortStableFunc(files, func(a, b File) int {
		return cmp.Or(cmp.Compare(b.Level, a.Level), cmp.Compare(b.Max, a.Max))
	})
	var used map[FileRef]bool
	for _, f := range files {
		if f.Level == 0 || !c.index.names(f.FileRef) {
			continue
		}
		if used == nil {
			var err error
			if used, err = c.index.inUse(ctx); err != nil {
				return err
			}
		}
		worth := false
		for u := range used {
			worth = worth || u != f.FileRef && u.Level <= f.Level && f.covers(u)
		}
		if !worth {
			continue
		}
		places, err := c.places(ctx, f)
		if err != nil {
			return err
		}
		if err := c.index.Replace(ctx, f.FileRef, places); err != nil {
			return err
		}
		for u := range used {
			if f.covers(u) {
				delete(used, u)
			}
		}
		used[f.FileRef] = true
		c.done.Outputs = append(c.done.Outputs, f.FileRef)
	}
	return nil
}

// places finds where the pages of a standing file are.
func (c *compaction) places(ctx context.Context, f File) (map[uint32]Place, error) {
	if f.Min != 1 {
		_, places, err := c.log.decode(ctx, f.FileRef)
		return places, err
	}
	base, err := c.log.snapshotIndex(ctx, c.found, f.FileRef)
	if err != nil {
		return nil, err
	}
	if base != nil {
		places := make(map[uint32]Place)
		err := base.each(ctx, func(page uint32, at Entry) error {
			places[page] = at.Place
			return nil
		})
		if err == nil || !errors.Is(errors.Corrupt, err) {
			return places, err
		}
	}
	commit, places, err := c.log.decode(ctx, f.FileRef)
	if err == nil {
		err = c.saveBase(ctx, f.FileRef, commit, places)
	}
	return places, err
}

// time is that of the last transaction in a file.
func (c *compaction) time(ctx context.Context, f File) (time.Time, error) {
	if t, ok := c.times[f.FileRef]; ok {
		return t, nil
	}
	h, info, err := c.log.header(ctx, f.FileRef)
	if err != nil {
		return time.Time{}, err
	}
	t := time.UnixMilli(h.Timestamp)
	c.times[f.FileRef], c.clock = t, info.Now
	return t, nil
}

// level merges what closed windows have on the level below into level to.
func (c *compaction) level(ctx context.Context, to int, window time.Duration) error {
	end := TXID(1)
	var below []File
	for _, f := range c.found.files {
		if f.Level >= to && f.Level < snapshotLevel {
			end = max(end, f.Max)
		}
	}
	for _, f := range c.found.files {
		if f.Level == to-1 && f.Max > end && f.Min > 1 {
			below = append(below, f)
		}
	}
	slices.SortFunc(below, func(a, b File) int { return cmp.Compare(a.Min, b.Min) })
	for len(below) > 0 {
		run, last := way(below, max(end, below[0].Min-1), c.done.At)
		for len(run) > 0 {
			n, err := c.closed(ctx, run, window)
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
			if err := c.replace(ctx, to, run[:n]); err != nil {
				return err
			}
			run = run[n:]
		}
		// Behind a gap, as a copied history has them, another run begins.
		end = last
		below = slices.DeleteFunc(below, func(f File) bool { return f.Max <= last })
	}
	return nil
}

// closed returns how many files of a run are in the window of the first, 0 while
// that window lasts.
func (c *compaction) closed(ctx context.Context, run []File, window time.Duration) (int, error) {
	first, err := c.time(ctx, run[0])
	if err != nil {
		return 0, err
	}
	end := first.Truncate(window).Add(window)
	if end.After(c.now) {
		return 0, nil
	}
	n := sort.Search(len(run), func(i int) bool {
		if err != nil {
			return true
		}
		var t time.Time
		t, err = c.time(ctx, run[i])
		return !t.Before(end)
	})
	return max(n, 1), err
}

// replace puts the file of a window and repoints the index. A window of one file
// is copied as it is, by the store.
func (c *compaction) replace(ctx context.Context, to int, inputs []File) error {
	if len(inputs) == 1 {
		from := inputs[0]
		out := File{FileRef: FileRef{Level: to, Min: from.Min, Max: from.Max}, Size: from.Size}
		if err := c.log.bucket.Copy(ctx, c.log.fileKey(from.FileRef), c.log.fileKey(out.FileRef)); err != nil {
			return err
		}
		c.put(out)
		return c.index.rename(ctx, from.FileRef, out.FileRef)
	}
	out, places, err := c.log.merge(ctx, to, inputs, c.policy.Dir)
	if err != nil {
		return err
	}
	c.put(out)
	return c.index.Replace(ctx, out.FileRef, places)
}

func (c *compaction) put(f File) {
	c.found.files = append(c.found.files, f)
	c.done.Outputs = append(c.done.Outputs, f.FileRef)
}

// snapshot makes one as of the last closed window when it is worth it.
func (c *compaction) snapshot(ctx context.Context) error {
	if len(c.done.Outputs) == 0 {
		return nil
	}
	var to TXID
	for _, f := range restorable(c.found.files) {
		if f.Level > 0 {
			to = f.Max // of files that end there, the one of the highest level
		}
	}
	if to == 0 {
		return nil
	}
	plan, err := Plan(c.found.files, to)
	if err != nil {
		return err
	}
	due, err := c.snapshotDue(ctx, plan)
	if err != nil || !due {
		return err
	}
	out, places, err := c.log.merge(ctx, snapshotLevel, plan, c.policy.Dir)
	if err != nil {
		return err
	}
	c.put(out)
	c.done.Snapshot = to
	commit, _, err := c.log.header(ctx, out.FileRef)
	if err != nil {
		return err
	}
	if err := c.saveBase(ctx, out.FileRef, Commit{PageSize: int(commit.PageSize), Pages: commit.Commit, TXID: to}, places); err != nil {
		return err
	}
	return c.index.Replace(ctx, out.FileRef, places)
}

// Snapshot puts a commit that changed the page size, so that its file has every
// page, once more as a snapshot: Litestream cannot restore what needs files of
// two page sizes, and the snapshot that Compact makes may be long in coming.
func (l *Log) Snapshot(ctx context.Context, ref FileRef, dir string) error {
	_, _, err := l.merge(ctx, snapshotLevel, []File{{FileRef: ref}}, dir)
	return err
}

// snapshotDue weighs the files behind the last snapshot against it.
func (c *compaction) snapshotDue(ctx context.Context, plan []File) (bool, error) {
	last, behind := plan[0], plan[1:]
	if len(behind) == 0 {
		return false, nil
	}
	size, high := int64(0), 0
	for _, f := range behind {
		if size += f.Size; f.Level > 0 {
			high++
		}
	}
	if size+last.Size > bucket.MaxObject {
		return false, nil // more than an object can hold, perhaps
	}
	before, _, err := c.log.header(ctx, last.FileRef)
	if err != nil {
		return false, err
	}
	after, info, err := c.log.header(ctx, behind[len(behind)-1].FileRef)
	if err != nil {
		return false, err
	}
	if before.PageSize != after.PageSize {
		return true, nil // Litestream restores across no change of the page size
	}
	if info.Now.Sub(last.Modified) < c.policy.SnapshotEvery {
		return false, nil
	}
	return float64(size) >= c.policy.SnapshotRatio*float64(last.Size) || high >= c.policy.SnapshotFiles, nil
}

// firstBase gives transaction 1 the page index that every snapshot has.
func (c *compaction) firstBase(ctx context.Context) error {
	first := FileRef{Level: 0, Min: 1, Max: 1}
	if slices.Contains(c.found.indexes, 1) || c.done.At == 1 {
		return nil // at transaction 1 the index in use will be saved as just that
	}
	for _, f := range c.found.files {
		if f.Level == snapshotLevel || f.FileRef == first && f.Size < baseWorth {
			return nil
		}
	}
	i := slices.IndexFunc(c.found.files, func(f File) bool { return f.FileRef == first })
	if i < 0 {
		return nil
	}
	commit, places, err := c.log.decode(ctx, first)
	if err != nil {
		return err
	}
	return c.saveBase(ctx, first, commit, places)
}

// saveBase writes the page index that belongs to a snapshot. An index in use
// that reads the object of this name gets all of it before it is replaced.
func (c *compaction) saveBase(ctx context.Context, snapshot FileRef, commit Commit, places map[uint32]Place) error {
	if err := c.index.LoadAll(ctx); err != nil {
		return err
	}
	base := NewIndex()
	if err := base.Apply(snapshot, commit, places); err != nil {
		return err
	}
	return c.log.saveBase(ctx, base)
}
