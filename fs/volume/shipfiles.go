package volume

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"

	"atc/fs/errors"
	"atc/fs/tenant"
)

// This file defines the way of plain files, folders and symlinks into the
// bucket: the contents that were written first, then the index that names them.

// shipFiles stores the contents that were written and then the index. What
// changes meanwhile is dirty again and comes next time.
func (t *Tenant) shipFiles(ctx context.Context) error {
	t.mu.Lock()
	if !t.files.dirty {
		t.mu.Unlock()
		return nil
	}
	t.files.dirty = false
	touched := t.files.touched
	t.files.touched = make(map[uint64]struct{})
	old := t.files.index
	epoch := t.epoch
	t.mu.Unlock()

	next := old.Next(epoch)
	err := t.storeTree(ctx, next, touched)
	if err == nil {
		err = t.contents.Save(ctx, next)
	}
	if err != nil {
		t.mu.Lock()
		t.files.dirty = true
		for at := range touched {
			t.files.touched[at] = struct{}{}
		}
		t.mu.Unlock()
		return errors.E("ship files", t.id, errors.Other, err)
	}
	return t.dropContents(ctx, old, next)
}

// dropContents deletes the contents that were replaced. One that a file here
// still has stays, whether the new index names it or not: the file may have been
// moved while the tree was read.
func (t *Tenant) dropContents(ctx context.Context, old, next *tenant.FileIndex) error {
	used := make(map[string]bool)
	for _, f := range next.Entries {
		used[f.Content] = true
	}
	t.mu.Lock()
	t.files.index = next
	err := t.local.write(t.dir)
	for _, content := range t.local.Contents {
		used[content] = true
	}
	t.mu.Unlock()
	if err != nil {
		return err
	}
	for _, f := range old.Entries {
		if f.Content != "" && !used[f.Content] {
			if err := t.contents.Delete(ctx, f.Content); err != nil {
				return err
			}
		}
	}
	return nil
}

// seen is a file of the tree whose content has to be known.
type seen struct {
	entry int // in the index
	inode uint64
}

// storeTree fills an index with what the tree holds, and then stores what was
// written. Contents that were stored leave touched.
func (t *Tenant) storeTree(ctx context.Context, next *tenant.FileIndex, touched map[uint64]struct{}) error {
	const tries = 5
	for try := 1; ; try++ {
		next.Entries = nil
		files, err := t.readTree(next)
		if err != nil {
			return err
		}
		for _, s := range files {
			if err = t.storeContent(ctx, &next.Entries[s.entry], s.inode, touched); err != nil {
				break
			}
		}
		if err != errMoved || try == tries {
			return err
		}
	}
}

// errMoved says that a file went away between the reading of the tree and that
// of its content.
var errMoved = errors.E("read tree", "", errors.Unavailable, fmt.Errorf("files are being moved"))

// readTree adds the tree's paths to an index, at one moment: renames wait for
// Tenant.mu.
func (t *Tenant) readTree(next *tenant.FileIndex) (files []seen, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	err = t.root.walk(func(p string, info os.FileInfo) error {
		if t.belongsToDatabase(p) {
			return nil
		}
		f := tenant.FileEntry{Path: p, Mode: uint32(info.Mode().Perm()), Modified: info.ModTime()}
		switch {
		case info.IsDir():
			f.Kind = tenant.Directory
		case info.Mode()&os.ModeSymlink != 0:
			f.Kind = tenant.Symlink
			target, err := t.root.Readlink(p)
			if err != nil {
				return nil // gone meanwhile
			}
			f.Target = target
		case info.Mode().IsRegular():
			f.Kind, f.Size = tenant.Regular, info.Size()
			files = append(files, seen{len(next.Entries), info.Sys().(*syscall.Stat_t).Ino})
		default:
			return nil
		}
		next.Entries = append(next.Entries, f)
		return nil
	})
	return files, err
}

// storeContent stores a file's content, if it was written or never stored, and
// notes it in the entry.
func (t *Tenant) storeContent(ctx context.Context, f *tenant.FileEntry, inode uint64, touched map[uint64]struct{}) error {
	t.mu.Lock()
	content := t.local.Contents[inode]
	t.mu.Unlock()
	_, changed := touched[inode]
	if f.Size > 0 && (content == "" || changed) && !t.isMissing(inode) {
		file, err := t.root.Open(f.Path)
		if os.IsNotExist(err) {
			return errMoved
		}
		if err != nil {
			return err
		}
		defer file.Close()
		var st syscall.Stat_t
		if err := syscall.Fstat(int(file.Fd()), &st); err != nil {
			return err
		}
		if st.Ino != inode {
			return errMoved
		}
		// What is appended meanwhile makes the file touched again.
		f.Size = st.Size
		if content, err = t.contents.Put(ctx, io.NewSectionReader(file, 0, st.Size)); err != nil {
			return err
		}
		t.mu.Lock()
		t.local.Contents[inode] = content
		t.mu.Unlock()
	}
	delete(touched, inode)
	if f.Size > 0 {
		f.Content = content
	}
	return nil
}
