package volume

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// This file defines the tree: the local files of one tenant, seen by paths that
// cannot leave it. A tenant may replace a folder by a symlink at any moment, also
// between the kernel's look at a path and ours, so every access goes through
// os.Root, which refuses what points outside.

// tree is the folder of a tenant's local files.
type tree struct{ *os.Root }

// openTree opens a tree, which is made if it is not there.
func openTree(dir string) (tree, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return tree{}, err
	}
	root, err := os.OpenRoot(dir)
	return tree{root}, err
}

// in is a tenant's path as os.Root wants it.
func in(path string) string {
	if path == "" {
		return "."
	}
	return path
}

// stat is lstat(2) below the tree.
func (t tree) stat(path string) (syscall.Stat_t, error) {
	info, err := t.Lstat(in(path))
	if err != nil {
		return syscall.Stat_t{}, err
	}
	return *info.Sys().(*syscall.Stat_t), nil
}

// inode is the inode of a path, if there is something.
func (t tree) inode(path string) (uint64, bool) {
	st, err := t.stat(path)
	return st.Ino, err == nil
}

// sync makes everything in the tree survive a loss of power.
func (t tree) sync() error {
	d, err := t.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", t.Name(), err)
	}
	return nil
}

// readDir lists a folder.
func (t tree) readDir(path string) ([]os.DirEntry, error) {
	d, err := t.Open(in(path))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.ReadDir(-1)
}

// walk calls fn with every path below the tree but the tree itself. What goes
// away meanwhile is passed over.
func (t tree) walk(fn func(path string, info os.FileInfo) error) error {
	return fs.WalkDir(t.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) || err == nil && p == "." {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return fn(p, info)
	})
}

// makeParents makes the folders above a path.
func (t tree) makeParents(p string) error {
	if dir := path.Dir(p); dir != "." {
		return t.MkdirAll(dir, 0o755)
	}
	return nil
}

// makeHole makes a file of a size without content.
func (t tree) makeHole(p string, size int64, mode uint32, modified time.Time) (inode uint64, err error) {
	if err := t.makeParents(p); err != nil {
		return 0, err
	}
	f, err := t.OpenFile(p, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return 0, err
	}
	if err := f.Chmod(os.FileMode(mode).Perm()); err != nil {
		return 0, err
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", p, err)
	}
	return st.Ino, t.setModified(p, modified)
}

func (t tree) setModified(path string, at time.Time) error {
	if at.IsZero() {
		return nil
	}
	return t.Chtimes(in(path), at, at)
}
