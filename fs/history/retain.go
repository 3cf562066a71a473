package history

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"atc/fs/errors"
)

// This file defines what may be deleted. A file goes when files above it, which
// hold the same transactions, have stood for as long as its level is kept; by
// the store's clock alone, since a file above is never older than what it
// replaces. A snapshot stands above everything before it, but takes the points
// in between along: it counts after Keep2.
//
// Never deleted are files that an index names which may be opened, and the last
// file of level 0: from it who catches up sees how far the history reaches.

// Retention is what a call of Retain has done.
type Retention struct {
	Files   int   // LTX files deleted
	Bytes   int64 // of these
	Indexes int   // superseded index objects deleted
}

// Retain deletes what the policy no longer asks to be kept. x has to be saved
// after the last Compact, so that a cold open finds it; saved names the index
// objects that it then stands on: the one that was written, and the base of
// that one where it has one. Every older index object is deleted but those of
// snapshots. It may be interrupted and repeated at any point. With nothing to
// delete it costs one listing and a small read.
func (l *Log) Retain(ctx context.Context, x *Index, saved []TXID, p Policy) (Retention, error) {
	var done Retention
	if len(saved) == 0 {
		return done, errors.E("retain", l.folder, errors.Invalid, fmt.Errorf("the index was not saved"))
	}
	found, err := l.list(ctx)
	if err != nil {
		return done, err
	}
	clock, err := l.clock(ctx, found.files)
	if err != nil || clock.IsZero() {
		return done, err
	}
	files := expired(found.files, p, clock)
	if len(files) > 0 {
		if err := safe(found.files, files); err != nil {
			return done, errors.E("retain", l.folder, errors.Corrupt, err)
		}
		if files, err = l.unnamed(ctx, x, saved, found, files); err != nil {
			return done, err
		}
	}
	return done, l.drop(ctx, &done, found, saved, files)
}

// clock asks for the store's time, if any file can be old enough at all.
func (l *Log) clock(ctx context.Context, files []File) (time.Time, error) {
	var last File
	for _, f := range files {
		if better(f.FileRef, last.FileRef) {
			last = f
		}
	}
	if last.Max == 0 {
		return time.Time{}, nil
	}
	_, info, err := l.header(ctx, last.FileRef)
	return info.Now, err
}

// expired returns the files that others have replaced for long enough.
func expired(files []File, p Policy, clock time.Time) []File {
	last := TXID(0)
	for _, f := range files {
		if f.Level == 0 {
			last = max(last, f.Max)
		}
	}
	var out []File
	for level := range levels {
		above := standing(files, level, p, clock)
		for _, f := range files {
			if f.Level == level && !(level == 0 && f.Max == last) && slices.ContainsFunc(above, func(a FileRef) bool { return a.covers(f.FileRef) }) {
				out = append(out, f)
			}
		}
	}
	return out
}

// standing returns the ranges of transactions, joined where they overlap or
// touch, that a file of the level may rely on.
func standing(files []File, level int, p Policy, clock time.Time) []FileRef {
	var ranges, snapshots []FileRef
	for _, f := range files {
		age := clock.Sub(f.Modified)
		switch {
		case f.Level == snapshotLevel && age >= p.keep(2):
			end := f.Max
			if level == snapshotLevel {
				end-- // it does not replace itself
			}
			snapshots = append(snapshots, FileRef{Min: 1, Max: end})
		case f.Level > level && f.Level < snapshotLevel && age >= p.keep(level):
			ranges = append(ranges, f.FileRef)
		}
	}
	slices.SortFunc(ranges, func(a, b FileRef) int { return cmp.Compare(a.Min, b.Min) })
	joined := snapshots
	for _, r := range ranges {
		if n := len(joined) - 1; n >= len(snapshots) && r.Min <= joined[n].Max+1 {
			joined[n].Max = max(joined[n].Max, r.Max)
		} else {
			joined = append(joined, r)
		}
	}
	return joined
}

// unnamed leaves out the files that an index names which may be opened: the one
// in use, and those that are saved. A snapshot's own index only names it.
func (l *Log) unnamed(ctx context.Context, x *Index, saved []TXID, found listing, files []File) ([]File, error) {
	used, err := x.inUse(ctx)
	if err != nil {
		return nil, err
	}
	for _, txid := range saved {
		named, err := l.namedBy(ctx, found, txid)
		if err != nil {
			return nil, err
		}
		for _, ref := range named {
			used[ref] = true
		}
	}
	return slices.DeleteFunc(files, func(f File) bool { return used[f.FileRef] }), nil
}

// namedBy reads which files an index object names.
func (l *Log) namedBy(ctx context.Context, found listing, txid TXID) ([]FileRef, error) {
	if !slices.Contains(found.indexes, txid) {
		return nil, nil
	}
	x, err := openIndex(ctx, l.bucket, l.indexKey(txid))
	if errors.Is(errors.NotExist, err) || errors.Is(errors.Corrupt, err) {
		return nil, nil // nobody opens it
	}
	if err != nil {
		return nil, err
	}
	return x.files, nil
}

// safe makes sure that what remains can still be reached: each transaction with
// which a remaining file ends, and the last of all. It is what stands between a
// history that something foreign has happened to and its loss.
func safe(all, drop []File) error {
	gone := make(map[FileRef]bool, len(drop))
	for _, f := range drop {
		gone[f.FileRef] = true
	}
	rest := slices.DeleteFunc(slices.Clone(all), func(f File) bool { return gone[f.FileRef] })
	ends := make(map[TXID]bool, len(rest))
	for _, f := range rest {
		ends[f.Max] = true
	}
	after := make(map[TXID]bool)
	for _, f := range restorable(rest) {
		after[f.Max] = true
	}
	before := restorable(all)
	for i, f := range before {
		if !after[f.Max] && (ends[f.Max] || i == len(before)-1) {
			return fmt.Errorf("transaction %s could not be restored any more", f.Max)
		}
	}
	return nil
}

// drop deletes index objects first, since one must never name what is gone.
func (l *Log) drop(ctx context.Context, done *Retention, found listing, saved []TXID, files []File) error {
	gone := make(map[FileRef]bool, len(files))
	for _, f := range files {
		gone[f.FileRef] = true
	}
	stays := make(map[TXID]bool)
	for _, txid := range saved {
		stays[txid] = true
	}
	newest := slices.Max(saved)
	snapshots := make(map[TXID]bool)
	for _, f := range found.files {
		if f.Min == 1 && !gone[f.FileRef] {
			snapshots[f.Max] = true
		}
	}
	for _, txid := range found.heads {
		if !stays[txid] && txid < newest {
			if err := l.bucket.Delete(ctx, l.headKey(txid)); err != nil {
				return err
			}
			done.Indexes++
		}
	}
	for _, txid := range found.indexes {
		if !stays[txid] && txid < newest && !snapshots[txid] {
			if err := l.bucket.Delete(ctx, l.indexKey(txid)); err != nil {
				return err
			}
			done.Indexes++
		}
	}
	for _, f := range files {
		if err := l.bucket.Delete(ctx, l.fileKey(f.FileRef)); err != nil {
			return err
		}
		done.Files++
		done.Bytes += f.Size
	}
	return nil
}
