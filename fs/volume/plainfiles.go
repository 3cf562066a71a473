package volume

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"atc/fs/errors"
	"atc/fs/journal"
	"atc/fs/tenant"
)

// This file defines a tenant's plain files: which of them are holes, how their
// contents come, and how they and the folders reach the bucket.

// plainFiles is what is known of a tenant's plain files. Tenant.mu protects it;
// which content an inode has is in Tenant.local.
type plainFiles struct {
	index   *tenant.FileIndex   // as it is in the bucket
	dirty   bool                // the tree has changed since
	touched map[uint64]struct{} // inodes that were written since their content was stored
}

func (p *plainFiles) init() {
	p.index = &tenant.FileIndex{}
	p.touched = make(map[uint64]struct{})
}

// touch notes that a file was written.
func (t *Tenant) touch(inode uint64) {
	t.mu.Lock()
	t.files.dirty = true
	t.files.touched[inode] = struct{}{}
	t.mu.Unlock()
}

// rearrange notes that names or attributes changed.
func (t *Tenant) rearrange() {
	t.mu.Lock()
	t.files.dirty = true
	t.mu.Unlock()
}

// keepWithSidecars adds a database and what stands beside it.
func keepWithSidecars(keep map[string]bool, path string) {
	keep[path] = true
	for _, role := range []journal.Sidecar{journal.WAL, journal.SHM, journal.Rollback} {
		keep[path+role.Suffix()] = true
	}
}

// sweep removes from the tree what neither is kept nor a folder of the index.
// Tenant.mu is held.
func (t *Tenant) sweep(keep map[string]bool, index *tenant.FileIndex) error {
	folders := make(map[string]bool)
	note := func(p string) {
		for d := path.Dir(p); d != "."; d = path.Dir(d) {
			folders[d] = true
		}
	}
	for p := range keep {
		note(p)
	}
	for _, f := range index.Entries {
		note(f.Path)
		if f.Kind == tenant.Directory {
			folders[f.Path] = true
		}
	}
	var stale []string
	err := t.root.walk(func(p string, info os.FileInfo) error {
		if !keep[p] && !(info.IsDir() && folders[p]) {
			stale = append(stale, p)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, p := range stale {
		if err := t.root.RemoveAll(p); err != nil {
			return err
		}
	}
	return nil
}

// layOutFile makes one path of the index; a file's content stays a hole.
// Tenant.mu is held.
func (t *Tenant) layOutFile(f tenant.FileEntry) error {
	switch f.Kind {
	case tenant.Directory:
		return t.root.MkdirAll(f.Path, 0o755) // mode and time come last, in settleFolders
	case tenant.Symlink:
		if err := t.root.makeParents(f.Path); err != nil {
			return err
		}
		return t.root.Symlink(f.Target, f.Path)
	case tenant.Regular:
	default:
		return fmt.Errorf("unknown kind %q", f.Kind)
	}
	at, err := t.root.makeHole(f.Path, f.Size, f.Mode, f.Modified)
	if err != nil || f.Content == "" {
		return err
	}
	t.local.Contents[at] = f.Content
	mark, err := os.Create(t.missingMark(at))
	if err != nil {
		return err
	}
	return mark.Close()
}

// settleFolders sets modes and times of folders, after what is in them.
func (t *Tenant) settleFolders(index *tenant.FileIndex) error {
	for i := len(index.Entries) - 1; i >= 0; i-- {
		f := index.Entries[i]
		if f.Kind != tenant.Directory {
			continue
		}
		if err := t.root.Chmod(f.Path, os.FileMode(f.Mode).Perm()); err != nil {
			return err
		}
		if err := t.root.setModified(f.Path, f.Modified); err != nil {
			return err
		}
	}
	return nil
}

// findTouched notes the files that differ from the index by size or time, after
// a run that could not say which it had written. Tenant.mu is held.
func (t *Tenant) findTouched(index *tenant.FileIndex) error {
	stored := make(map[string]tenant.FileEntry)
	for _, f := range index.Entries {
		if f.Content != "" {
			stored[f.Content] = f
		}
	}
	return t.root.walk(func(p string, info os.FileInfo) error {
		if !info.Mode().IsRegular() {
			return nil
		}
		at := info.Sys().(*syscall.Stat_t).Ino
		f, ok := stored[t.local.Contents[at]]
		if !ok || f.Size != info.Size() || !f.Modified.Equal(info.ModTime()) {
			if !t.isMissing(at) {
				t.files.touched[at] = struct{}{}
			}
		}
		return nil
	})
}

func (t *Tenant) isMissing(inode uint64) bool {
	_, err := os.Lstat(t.missingMark(inode))
	return err == nil
}

// fill fetches the content of a file that is a hole. The mark goes last, so
// that a kill in between only makes it be fetched again.
func (t *Tenant) fill(ctx context.Context, f *File) error {
	if !t.isMissing(f.inode) {
		return nil
	}
	f.filling.Lock()
	defer f.filling.Unlock()
	if !t.isMissing(f.inode) {
		return nil
	}
	t.mu.Lock()
	content := t.local.Contents[f.inode]
	t.mu.Unlock()
	info, err := f.os.Stat()
	if err != nil {
		return err
	}
	if content != "" {
		w := &offsetWriter{f: f.os}
		if err := t.contents.Fetch(ctx, content, w); err != nil {
			return errors.E("fetch file", t.name(f.path), errors.Other, err)
		}
	}
	if err := setModifiedFile(f.os, info.ModTime()); err != nil {
		return err
	}
	return os.Remove(t.missingMark(f.inode))
}

func setModifiedFile(f *os.File, at time.Time) error {
	ts := []unix.Timespec{unix.NsecToTimespec(at.UnixNano()), unix.NsecToTimespec(at.UnixNano())}
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), ts, 0)
}

// offsetWriter writes to a file from its beginning, whatever its position.
type offsetWriter struct {
	f  *os.File
	at int64
}

func (w *offsetWriter) Write(b []byte) (int, error) {
	n, err := w.f.WriteAt(b, w.at)
	w.at += int64(n)
	return n, err
}

// beginsDatabase reports whether a local file has SQLite's magic.
func (t *Tenant) beginsDatabase(p string) bool {
	f, err := t.root.Open(p)
	if err != nil {
		return false
	}
	defer f.Close()
	var b [journal.HeaderSize]byte
	n, _ := f.ReadAt(b[:], 0)
	_, ok := journal.ParseHeader(b[:n])
	return ok
}

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

// belongsToDatabase reports whether a path is a database or stands beside one,
// or beside a file that is about to become one. Tenant.mu is held.
func (t *Tenant) belongsToDatabase(p string) bool {
	base, role := journal.SplitSidecar(p)
	if t.databases[p] != nil || t.databases[base] != nil {
		return true
	}
	if role == journal.None {
		return false
	}
	return t.mayBecomeDatabase(base)
}

// mayBecomeDatabase reports whether a file is empty, as SQLite leaves it until
// its first commit, or begins like a database.
func (t *Tenant) mayBecomeDatabase(p string) bool {
	st, err := t.root.stat(p)
	if err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return false
	}
	return st.Size == 0 || t.beginsDatabase(p)
}
