package volume

import (
	"fmt"
	"os"
	"path"
	"syscall"
	"time"

	"atc/fs/journal"
	"atc/fs/tenant"
)

// This file defines a tenant's plain files on this machine: how the tree is laid
// out, which files are holes, how their contents come, and which were written.

// plainFiles is what is known of a tenant's plain files. Tenant.mu protects it;
// which content an inode has is in Tenant.inodes.
type plainFiles struct {
	index    *tenant.FileIndex // as it is in the bucket
	notes    map[string]note   // paths that may differ from it
	all      bool              // any path may
	again    bool              // the trash is not empty yet
	large    map[string]note   // files that are shipped beside the others
	unsteady map[uint64]bool   // inodes that were written while they were stored
	rests    map[uint64]time.Time
	removals removals
	swept    map[string]bool // contents that were deleted and are in the trash still
	fills    map[uint64]*filling
}

func (p *plainFiles) init() {
	*p = plainFiles{
		index: &tenant.FileIndex{}, notes: make(map[string]note), large: make(map[string]note),
		rests: make(map[uint64]time.Time), unsteady: make(map[uint64]bool), swept: make(map[string]bool), fills: make(map[uint64]*filling),
	}
}

// keepWithSidecars adds a database and what stands beside it.
func keepWithSidecars(keep map[string]bool, path string) {
	keep[path] = true
	for _, beside := range sidecars(path) {
		keep[beside] = true
	}
}

// sidecars are the paths beside a database that belong to it.
func sidecars(path string) (paths []string) {
	for _, role := range []journal.Sidecar{journal.WAL, journal.SHM, journal.Rollback} {
		paths = append(paths, path+role.Suffix())
	}
	return paths
}

// sweep removes from the tree what neither is kept nor a folder of the index. With
// keepLocal what stays on this machine is left, unless the bucket has something at
// its path, which is laid out there.
// Tenant.mu is held.
func (t *Tenant) sweep(keep map[string]bool, index *tenant.FileIndex, keepLocal bool) error {
	folders := make(map[string]bool)
	note := func(p string) {
		for d := path.Dir(p); d != "."; d = path.Dir(d) {
			folders[d] = true
		}
	}
	for p := range keep {
		note(p)
	}
	laidOut := make(map[string]bool)
	for p := range t.databases {
		keepWithSidecars(laidOut, p)
	}
	for _, f := range index.Entries {
		note(f.Path)
		laidOut[f.Path] = f.Kind != tenant.Directory
		if f.Kind == tenant.Directory {
			folders[f.Path] = true
		}
	}
	var stale []string
	err := t.root.walk(func(p string, info os.FileInfo) error {
		if !keep[p] && !(info.IsDir() && folders[p]) && !(keepLocal && t.localOnly(p) && !laidOut[p]) {
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
func (t *Tenant) layOutFile(to *holes, f tenant.FileEntry) error {
	switch f.Kind {
	case tenant.Directory:
		return t.root.MkdirAll(f.Path, 0o755) // mode and time come last, in settleFolders
	case tenant.Symlink:
		if err := t.root.makeParents(f.Path); err != nil {
			return err
		}
		if err := t.root.Symlink(f.Target, f.Path); err != nil {
			return err
		}
		return t.root.setModified(f.Path, f.Modified)
	case tenant.Regular:
	default:
		return fmt.Errorf("unknown kind %q", f.Kind)
	}
	at, err := to.make(f.Path, f.Size, f.Mode, f.Modified)
	if err != nil || f.Content == "" {
		return err
	}
	t.inodes.known[at] = content{id: f.Content, missing: true} // written with the others
	return nil
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
// a run that was killed. Tenant.mu is held.
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
		c := t.inodes.known[at]
		f, ok := stored[c.id]
		if c.missing || c.touched || ok && f.Size == info.Size() && f.Modified.Equal(info.ModTime()) {
			return nil
		}
		c.touched = true
		return t.inodes.set(at, c)
	})
}

// beginsDatabase reports whether a local file has SQLite's magic.
func (t *Tenant) beginsDatabase(p string) bool {
	f, err := t.root.openQuietly(p)
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
