package history

import (
	"context"
	"fmt"

	"atc/fs/errors"
)

// This file defines how an index in use learns that pages are elsewhere now: in
// a compacted file instead of the ones that went into it. No page's content
// changes by that, which its hash shows.

// Replace repoints every page that x finds in a file whose transactions are all
// in ref to its place in ref. It fails with Corrupt, before it has changed
// anything, when ref lacks such a page or has it with another content.
func (x *Index) Replace(ctx context.Context, ref FileRef, places map[uint32]Place) error {
	moves, err := x.moves(ctx, ref, places)
	if err != nil {
		return err
	}
	for page, from := range moves {
		x.move(page, from, Entry{ref, places[page]})
	}
	return nil
}

// rename repoints every page that x finds in file from to the same place in
// file to, which is a copy of it.
func (x *Index) rename(ctx context.Context, from, to FileRef) error {
	if !x.names(to) {
		return nil
	}
	return x.each(ctx, func(page uint32, at Entry) error {
		if at.File == from {
			x.move(page, at, Entry{to, at.Place})
		}
		return nil
	})
}

// moves finds the pages that Replace has to repoint, and where they are.
func (x *Index) moves(ctx context.Context, ref FileRef, places map[uint32]Place) (map[uint32]Entry, error) {
	if !x.names(ref) {
		return nil, nil
	}
	moves := make(map[uint32]Entry)
	err := x.each(ctx, func(page uint32, at Entry) error {
		if at.File == ref || !ref.covers(at.File) {
			return nil
		}
		to, ok := places[page]
		if !ok {
			return errors.E("replace in page index", ref.name(), errors.Corrupt, fmt.Errorf("page %d of %s is not in it", page, at.File.name()))
		}
		if to.Hash != at.Hash {
			return errors.E("replace in page index", ref.name(), errors.Corrupt, fmt.Errorf("page %d is another one than in %s", page, at.File.name()))
		}
		moves[page] = at
		return nil
	})
	return moves, err
}

// names reports whether x may find a page in another file that ref covers.
func (x *Index) names(ref FileRef) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, f := range x.files {
		if f != ref && ref.covers(f) {
			return true
		}
	}
	return false
}

// each calls fn with the place of every page, as of one moment each. It fetches
// what of the index is not here in one read.
func (x *Index) each(ctx context.Context, fn func(page uint32, at Entry) error) error {
	if err := x.LoadAll(ctx); err != nil {
		return err
	}
	_, pages := x.Size()
	for page := uint32(1); page <= pages && page != 0; page++ {
		e, ok, err := x.Lookup(ctx, page)
		if err == nil && ok {
			err = fn(page, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inUse returns the files in which x finds pages.
func (x *Index) inUse(ctx context.Context) (map[FileRef]bool, error) {
	used := make(map[FileRef]bool)
	err := x.each(ctx, func(_ uint32, at Entry) error {
		used[at.File] = true
		return nil
	})
	return used, err
}

// move repoints one page, unless it is no longer where the caller saw it.
func (x *Index) move(page uint32, from, to Entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s, ok, missing, err := x.slot(page)
	if !ok || missing != nil || err != nil || x.files[s.file] != from.File || s.Place != from.Place {
		return
	}
	n := len(x.files) - 1
	for n >= 0 && x.files[n] != to.File {
		n--
	}
	if n < 0 {
		x.files = append(x.files, to.File)
		n = len(x.files) - 1
	}
	x.overlay[page] = slot{uint32(n), to.Place}
}

// applyOver is Apply for a file that may begin before what x covers already.
func (x *Index) applyOver(ref FileRef, c Commit, places map[uint32]Place) error {
	at := x.TXID()
	if ref.Min > at+1 || ref.Max <= at {
		return fmt.Errorf("index at %s: file %s-%s does not continue it", at, ref.Min, ref.Max)
	}
	if err := x.Apply(FileRef{Level: ref.Level, Min: at + 1, Max: ref.Max}, c, places); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.files[len(x.files)-1] = ref
	return nil
}
