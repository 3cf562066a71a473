package volume

import "atc/fs/journal"

// This file defines which files stay on this machine.

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

// staysLocal reports whether a file that begins like a database is none for us.
func (f *File) staysLocal() bool {
	f.t.mu.Lock()
	defer f.t.mu.Unlock()
	return f.entry == nil && f.t.localOnly(f.path)
}
