package volume

import (
	"context"
	"fmt"
	"os"
	"path"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"atc/fs/errors"
	"atc/fs/journal"
	"atc/fs/tenant"
)

// This file defines a tenant's plain files on this machine: how the tree is laid
// out, which files are holes, how their contents come, and which were written.

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
