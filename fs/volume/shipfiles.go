package volume

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"atc/fs/errors"
	"atc/fs/tenant"
)

// This file defines the way of plain files, folders and symlinks into the
// bucket: the contents that were written first, then the index that names them.

const (
	// mostNotes is how many paths are shipped at a time: an index that names the
	// first of many files need not wait for the last.
	mostNotes = 2000
	// uploads is how many contents are stored side by side.
	uploads = 8
	// largeFile is from how many bytes on a file is shipped beside the others,
	// which do not wait for it.
	largeFile = 8 << 20
)

// batch is a number of paths on their way.
type batch struct {
	notes   map[string]note
	all     bool              // every path was looked at
	found   map[string]*found // what is there
	covered func(path string) bool
}

// found is a path of the tree.
type found struct {
	entry tenant.FileEntry
	inode uint64
	late  bool // it moved before its content was read: another note tells
	// stored says that its content was stored just now, which may have taken long.
	stored bool
}

// shipFiles ships what is due, or with all everything, large files too.
func (t *Tenant) shipFiles(ctx context.Context, all bool) error {
	const tries = 100 // somebody may write all the time
	for range tries {
		t.mu.Lock()
		again := t.files.again
		b, err := t.gather(all)
		t.mu.Unlock()
		if err == nil && (again || b.all || len(b.notes) > 0) {
			err = t.shipBatch(ctx, b)
		}
		if err == nil && all {
			err = t.shipLarge(ctx)
		}
		t.mu.Lock()
		more := t.files.pending()
		t.mu.Unlock()
		if err != nil || !all || !more {
			return err
		}
	}
	return errors.E("ship files", t.id, errors.Unavailable, fmt.Errorf("they are being written"))
}

// shipLarge ships the large files that were found.
func (t *Tenant) shipLarge(ctx context.Context) error {
	t.mu.Lock()
	b := &batch{notes: t.files.large}
	t.files.large = make(map[string]note)
	err := t.examine(b, false)
	t.mu.Unlock()
	if err != nil || len(b.notes) == 0 {
		return err
	}
	return t.shipBatch(ctx, b)
}

// gather takes notes and looks at their paths, at one moment: renames wait for
// Tenant.mu, which is held. Large files are put aside.
func (t *Tenant) gather(all bool) (*batch, error) {
	b := &batch{all: t.files.all}
	most := mostNotes
	if b.all {
		most = len(t.files.notes)
	}
	b.notes = t.files.take(t.v.opts.Now(), all || b.all, most)
	t.files.all = false
	return b, t.examine(b, true)
}

// examine finds what is at the paths of a batch.
func (t *Tenant) examine(b *batch, aside bool) error {
	b.found = make(map[string]*found)
	covered := make(map[string]bool) // looked at, whether there or not
	var err error
	add := func(p string, info os.FileInfo) error {
		covered[p] = true
		if t.belongsToDatabase(p) {
			return nil
		}
		f, err := t.describe(p, info)
		if f == nil || err != nil {
			return err
		}
		c := t.inodes.known[f.inode]
		if t.localOnly(p) && !c.missing { // what was not fetched is nowhere else
			return nil
		}
		if aside && f.entry.Size >= largeFile && t.mustStore(f.entry, c) {
			t.files.large[p] = note{}
			delete(covered, p)
			return nil
		}
		b.found[p] = f
		return nil
	}
	if b.all {
		err = t.root.walk(add)
	}
	for p, n := range b.notes {
		if b.all || err != nil {
			break
		}
		// What a path is tells what the ones beside it are: see belongsToDatabase.
		for _, beside := range append(sidecars(p), p) {
			if covered[beside] = true; !t.root.plainAbove(beside) {
				continue // another file's name, by way of a symlink
			}
			info, statErr := t.root.Lstat(beside)
			if os.IsNotExist(statErr) {
				continue
			}
			if err = statErr; err == nil {
				err = add(beside, info)
			}
			if err == nil && n.deep && beside == p && info.IsDir() {
				err = t.root.walkBelow(p, add)
			}
			if err != nil {
				break
			}
		}
	}
	b.covered = func(p string) bool {
		if b.all || covered[p] {
			_, aside := t.files.large[p]
			return !aside
		}
		for d := path.Dir(p); d != "."; d = path.Dir(d) {
			if b.notes[d].deep {
				_, aside := t.files.large[p]
				return !aside
			}
		}
		return false
	}
	if err != nil {
		t.files.putBack(b.notes)
		t.files.all = t.files.all || b.all
		return errors.E("ship files", t.id, errors.Other, err)
	}
	return nil
}

// describe makes an entry of a path, without its content; nil for what is kept
// nowhere.
func (t *Tenant) describe(p string, info os.FileInfo) (*found, error) {
	f := &found{entry: tenant.FileEntry{Path: p, Mode: uint32(info.Mode().Perm()), Modified: info.ModTime().UTC()}}
	switch {
	case info.IsDir():
		f.entry.Kind = tenant.Directory
	case info.Mode()&os.ModeSymlink != 0:
		f.entry.Kind = tenant.Symlink
		target, err := t.root.Readlink(p)
		if err != nil {
			return nil, nil // gone meanwhile
		}
		f.entry.Target = target
	case info.Mode().IsRegular():
		f.entry.Kind, f.entry.Size = tenant.Regular, info.Size()
		f.inode = info.Sys().(*syscall.Stat_t).Ino
	default:
		return nil, nil
	}
	return f, nil
}

// mustStore reports whether a file's content is not in the bucket yet.
func (t *Tenant) mustStore(f tenant.FileEntry, c content) bool {
	return f.Kind == tenant.Regular && f.Size > 0 && !c.missing && (c.id == "" || c.touched)
}

// shipBatch stores contents, and then the index that names them. What changes
// meanwhile is noted again and comes next time.
func (t *Tenant) shipBatch(ctx context.Context, b *batch) error {
	err := t.storeContents(ctx, b)
	if err == nil {
		err = t.saveIndex(ctx, b)
	}
	if err != nil {
		t.mu.Lock()
		t.files.putBack(b.notes)
		t.files.all = t.files.all || b.all
		t.mu.Unlock()
		return errors.E("ship files", t.id, errors.Other, err)
	}
	return nil
}

// storeContents stores what was written, several files at a time.
func (t *Tenant) storeContents(ctx context.Context, b *batch) error {
	var (
		work sync.WaitGroup
		mu   sync.Mutex // protects fail
		fail error
		slot = make(chan struct{}, uploads)
	)
	for _, f := range b.found {
		if f.entry.Kind != tenant.Regular {
			continue
		}
		slot <- struct{}{}
		work.Go(func() {
			defer func() { <-slot }()
			mu.Lock()
			failed := fail != nil
			mu.Unlock()
			if failed {
				return
			}
			if err := t.storeContent(ctx, f); err != nil {
				mu.Lock()
				fail = err
				mu.Unlock()
			}
		})
	}
	work.Wait()
	return fail
}

// storeContent stores a file's content, if it was written or never stored, and
// notes it in the entry.
func (t *Tenant) storeContent(ctx context.Context, f *found) error {
	t.mu.Lock()
	c := t.inodes.known[f.inode]
	t.mu.Unlock()
	if !t.mustStore(f.entry, c) {
		if f.entry.Size > 0 {
			f.entry.Content = c.id
		}
		return nil
	}
	file, err := t.root.openQuietly(f.entry.Path)
	if os.IsNotExist(err) {
		f.late = true
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Sys().(*syscall.Stat_t).Ino != f.inode {
		f.late = true
		return nil
	}
	f.entry.Size, f.entry.Modified = info.Size(), info.ModTime().UTC()
	if f.entry.Size == 0 {
		return nil // cut meanwhile, which is noted
	}
	body := io.ReadSeeker(io.NewSectionReader(file, 0, f.entry.Size))
	if t.isUnsteady(f.inode) {
		scratch, err := t.copyAside(file, f.entry.Size)
		if err != nil {
			return err
		}
		defer scratch.Close()
		body = scratch
	}
	began := time.Now()
	id, err := t.contents.Put(ctx, body)
	took := time.Since(began)
	t.mu.Lock()
	defer t.mu.Unlock()
	now, known := t.inodes.known[f.inode]
	changed := now.writes != c.writes
	if err != nil {
		if changed && ctx.Err() == nil {
			// A store refuses what changes while it is read; it is noted again, and a
			// copy is sent then.
			f.late = true
			t.files.unsteady[f.inode] = true
			return nil
		}
		return err
	}
	delete(t.files.unsteady, f.inode)
	if took > t.v.opts.ShipInterval {
		t.files.rests[f.inode] = t.v.opts.Now().Add(min(2*took, time.Minute))
	}
	f.entry.Content = id
	if !known && c != (content{}) {
		return nil // removed meanwhile
	}
	f.stored = true
	if now.id, now.touched = id, changed; changed {
		if _, noted := t.files.notes[f.entry.Path]; !noted {
			t.files.notes[f.entry.Path] = note{} // whoever wrote it may have been faster than us
		}
	}
	return t.inodes.set(f.inode, now)
}

func (t *Tenant) isUnsteady(inode uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.files.unsteady[inode]
}

// copyAside copies a file that is being written all the time.
func (t *Tenant) copyAside(file *os.File, size int64) (*os.File, error) {
	scratch, err := os.CreateTemp(t.dir, "upload-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(scratch.Name())
	_, err = io.Copy(scratch, io.NewSectionReader(file, 0, size))
	if err == nil {
		_, err = scratch.Seek(0, io.SeekStart)
	}
	if err != nil {
		scratch.Close()
		return nil, err
	}
	return scratch, nil
}

// saveIndex writes the index with what was found.
func (t *Tenant) saveIndex(ctx context.Context, b *batch) error {
	t.saving.Lock()
	defer t.saving.Unlock()
	t.mu.Lock()
	for p, f := range b.found {
		if at, there := t.root.inode(p); f.stored && (!there || at != f.inode) {
			f.late = true
		}
	}
	old, next := t.files.index, t.nextIndex(b)
	t.mu.Unlock()
	if next.Same(old) {
		return nil
	}
	if err := t.contents.Save(ctx, next); err != nil {
		return err
	}
	t.mu.Lock()
	t.files.index = next
	t.mu.Unlock()
	return t.sweepTrash(ctx, next)
}

// nextIndex is the index with what was found at the paths that were looked at.
// Tenant.mu is held.
func (t *Tenant) nextIndex(b *batch) *tenant.FileIndex {
	old := t.files.index
	next := old.Next(t.epoch)
	now := t.v.opts.Now().UTC()
	var replaced []tenant.FileEntry // not there any more, or with another content
	fresh, removalsOnly := 0, true
	for _, e := range old.Entries {
		f, there := b.found[e.Path]
		switch {
		case there && f.late, !there && !b.covered(e.Path):
			next.Entries = append(next.Entries, e)
			continue
		case there:
			next.Entries = append(next.Entries, f.entry)
			fresh++
			if e.Kind != tenant.Directory && e != f.entry {
				removalsOnly = false
			}
			if e.Content != "" && e.Content != f.entry.Content {
				replaced = append(replaced, e)
			}
		default:
			e.Removed = b.notes[e.Path].removed.UTC()
			if b.notes[e.Path].removed.IsZero() {
				e.Removed = time.Time{}
			}
			replaced = append(replaced, e)
		}
	}
	if fresh < len(b.found) {
		for p, f := range b.found {
			if !f.late && old.Find(p) == nil {
				next.Entries = append(next.Entries, f.entry)
				removalsOnly = false
			}
		}
		slices.SortFunc(next.Entries, func(a, b tenant.FileEntry) int { return strings.Compare(a.Path, b.Path) })
	}
	if b.all && removalsOnly && len(replaced) > 0 {
		// A run that was killed has removed them, and did nothing else.
		if t.files.removals.began(now).IsZero() {
			t.files.removals.goesOn(now)
		}
		for i := range replaced {
			if replaced[i].Removed.IsZero() {
				replaced[i].Removed = t.files.removals.since.UTC()
			}
		}
	}
	next.Since = t.files.removals.began(now).UTC()
	if next.Since.Before(time.Unix(0, 0)) {
		next.Since = time.Time{}
	}
	t.trash(next, replaced)
	return next
}

// trash puts what was replaced into the trash of an index, and takes out what
// neither comes back nor is stored any more. Tenant.mu is held.
func (t *Tenant) trash(next *tenant.FileIndex, replaced []tenant.FileEntry) {
	if len(replaced)+len(next.Trash) == 0 {
		return
	}
	var used map[string]bool
	trash := make([]tenant.FileEntry, 0, len(next.Trash)+len(replaced))
	for _, e := range slices.Concat(next.Trash, replaced) {
		if e.Content == "" && !next.ComesBack(e) || t.files.swept[e.Content] && e.Content != "" {
			continue
		}
		if e.Content != "" {
			if used == nil {
				used = make(map[string]bool, len(next.Entries))
				for _, there := range next.Entries {
					used[there.Content] = true
				}
			}
			if used[e.Content] {
				continue // it has moved
			}
		}
		trash = append(trash, e)
	}
	next.Trash = trash
}

// sweepTrash deletes contents that nothing needs any more. That they are gone is
// not written before the next change: to delete one twice does no harm. One that a
// file here still has stays: the file may have moved while the tree was read.
func (t *Tenant) sweepTrash(ctx context.Context, x *tenant.FileIndex) error {
	const most = 1000 // at a time
	t.mu.Lock()
	t.files.again = false
	var void []string
	listed := make(map[string]bool)
	for _, e := range x.Trash {
		listed[e.Content] = true
		if e.Content != "" && !x.ComesBack(e) && !t.files.swept[e.Content] {
			void = append(void, e.Content)
		}
	}
	maps.DeleteFunc(t.files.swept, func(id string, _ bool) bool { return !listed[id] })
	if len(void) > 0 {
		here := make(map[string]bool, len(t.inodes.known))
		for _, c := range t.inodes.known {
			here[c.id] = true
		}
		void = slices.DeleteFunc(void, func(id string) bool { return here[id] })
	}
	if len(void) > most {
		void, t.files.again = void[:most], true
	}
	t.mu.Unlock()
	var (
		work sync.WaitGroup
		mu   sync.Mutex // protects fail
		fail error
		slot = make(chan struct{}, 2*uploads)
	)
	for _, id := range void {
		slot <- struct{}{}
		work.Go(func() {
			defer func() { <-slot }()
			err := t.contents.Delete(ctx, id)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				fail = err
				return
			}
			t.mu.Lock()
			t.files.swept[id] = true
			t.mu.Unlock()
		})
	}
	work.Wait()
	if fail != nil {
		t.mu.Lock()
		t.files.again = true
		t.mu.Unlock()
	}
	return fail
}
