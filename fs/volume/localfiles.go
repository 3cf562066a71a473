package volume

import (
	"maps"
	"os"
	"slices"
	"syscall"

	"atc/fs/database"
	"atc/fs/journal"
)

// This file defines which files stay on this machine: those that a pattern says,
// databases included. A database that the bucket has already stays there.

// localOnly reports whether a path never reaches the bucket. What stands beside a
// database does as the database.
func (t *Tenant) localOnly(path string) bool {
	set := t.v.localOnly
	if set == nil {
		return false
	}
	if base, role := journal.SplitSidecar(path); role != journal.None && set.Match(base) {
		return true
	}
	return set.Match(path)
}

// staysLocal reports whether a file never reaches the bucket. That it is a
// database is remembered, so that somebody is told.
func (f *File) staysLocal(database bool) bool {
	t := f.t
	if t.v.localOnly == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.entry != nil || !t.localOnly(f.path) {
		return false
	}
	if database && !t.localDatabases[f.path] {
		t.localDatabases[f.path] = true
		t.v.opts.Logger.Warn("a database matches a pattern of local files: it is not shipped, and lost with this machine", "database", t.name(f.path))
	}
	return true
}

// localOnlyReason is what is told of a database that is not shipped.
const localOnlyReason = "local only: it matches a pattern of local_only, so it never reaches the bucket and has no history"

// localStats tells about databases that are not shipped. Tenant.mu is held.
func (t *Tenant) localStats() (stats []DatabaseStat) {
	for _, path := range slices.Sorted(maps.Keys(t.localDatabases)) {
		if t.held == nil || t.databases[path] != nil || !t.localOnly(path) || !t.beginsDatabase(path) {
			continue
		}
		stats = append(stats, DatabaseStat{Path: path, LocalOnly: true, Stat: database.Stat{Degraded: []string{localOnlyReason}}})
	}
	return stats
}

// adoptLocal makes databases of those that were local only and have moved to where
// files are shipped. Tenant.mu is held.
func (t *Tenant) adoptLocal(from, to string) error {
	if t.v.localOnly == nil || t.localOnly(to) {
		return nil
	}
	adopt := func(p string, info os.FileInfo) error {
		if !info.Mode().IsRegular() || t.databases[p] != nil || t.localOnly(p) || !t.beginsDatabase(p) {
			return nil
		}
		e := t.newEntry(p, info.Sys().(*syscall.Stat_t).Ino)
		e.record.Mode = uint32(info.Mode().Perm())
		return nil
	}
	info, err := t.root.Lstat(to)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		err = t.root.walkBelow(to, adopt)
	case t.localOnly(from):
		err = adopt(to, info)
	}
	if err == nil && t.changed {
		err = t.local.write(t.dir)
	}
	return err
}
