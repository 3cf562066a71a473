package mount

import "github.com/hanwen/go-fuse/v2/fs"

// This file defines what happens when a tenant is ours no more: the kernel is
// told to forget the names in it, which another machine may change.

// forget makes the kernel ask again for every name in a tenant's folder. Folders
// themselves stay known, since somebody may stand in one: they are asked for
// often anyway, and what is in them counts.
// It is not called while a request is being answered, which could hold the lock
// that the kernel takes for it.
func (r *root) forget(id string) {
	if n := r.GetChild(id); n != nil {
		forgetNames(n)
	}
}

func forgetNames(dir *fs.Inode) {
	for name, child := range dir.Children() {
		if child.IsDir() {
			forgetNames(child)
			continue
		}
		dir.NotifyEntry(name)
		child.NotifyContent(0, 0)
	}
}
