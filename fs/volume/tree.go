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

// openFile opens a file that is no symlink: the kernel follows those itself. It
// fails with ESTALE for one that has just become one, so that the kernel looks
// again.
func (t tree) openFile(p string) (*os.File, error) {
	dir, err := t.Open(path.Dir(p))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), path.Base(p), unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ELOOP {
		err = unix.ESTALE
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: p, Err: err}
	}
	return os.NewFile(uintptr(fd), p), nil
}

// openQuietly opens a file for reading without changing its access time, which
// the application may look at.
func (t tree) openQuietly(path string) (*os.File, error) {
	return t.OpenFile(path, os.O_RDONLY|unix.O_NOATIME, 0)
}

// rename is renameat2(2) below the tree: os.Root refuses to replace a folder.
func (t tree) rename(from, to string, flags uint32) error {
	source, err := t.Open(path.Dir(from))
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := t.Open(path.Dir(to))
	if err != nil {
		return err
	}
	defer target.Close()
	return unix.Renameat2(int(source.Fd()), path.Base(from), int(target.Fd()), path.Base(to), uint(flags))
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
	return t.walkBelow(".", fn)
}

// walkBelow is walk for what is below a folder.
func (t tree) walkBelow(dir string, fn func(path string, info os.FileInfo) error) error {
	return fs.WalkDir(t.FS(), dir, func(p string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) || err == nil && p == dir {
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

// plainAbove reports whether everything above a path is a folder, and no symlink.
func (t tree) plainAbove(p string) bool {
	for d := path.Dir(p); d != "."; d = path.Dir(d) {
		if st, err := t.stat(d); err == nil && st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
			return false
		}
	}
	return true
}

// makeParents makes the folders above a path.
func (t tree) makeParents(p string) error {
	if dir := path.Dir(p); dir != "." {
		return t.MkdirAll(dir, 0o755)
	}
	return nil
}

// holes makes files without content, many of one folder after each other.
type holes struct {
	tree
	dir    string
	folder *os.Root // open at dir; nil for none
	self   *os.File // the same
}

// in opens the folder at a path.
func (h *holes) in(dir string) error {
	if h.folder != nil && h.dir == dir {
		return nil
	}
	h.close()
	if err := h.MkdirAll(dir, 0o755); dir != "." && err != nil {
		return err
	}
	folder, err := h.OpenRoot(dir)
	if err != nil {
		return err
	}
	self, err := folder.Open(".")
	if err != nil {
		folder.Close()
		return err
	}
	h.dir, h.folder, h.self = dir, folder, self
	return nil
}

func (h *holes) close() {
	if h.folder != nil {
		h.folder.Close()
		h.self.Close()
		h.folder = nil
	}
}

// make makes a file of a size.
func (h *holes) make(p string, size int64, mode uint32, modified time.Time) (inode uint64, err error) {
	if err := h.in(path.Dir(p)); err != nil {
		return 0, err
	}
	f, err := h.folder.OpenFile(path.Base(p), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if size > 0 {
		if err := f.Truncate(size); err != nil {
			return 0, err
		}
	}
	if err := f.Chmod(os.FileMode(mode).Perm()); err != nil {
		return 0, err
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", p, err)
	}
	if modified.IsZero() {
		return st.Ino, nil
	}
	return st.Ino, setTimesIn(h.self, path.Base(p), modified, modified)
}

// settle gives a file that is st the mode and the time that it should have.
func (t tree) settle(path string, st syscall.Stat_t, mode uint32, modified time.Time) error {
	if st.Mode&0o777 != mode&0o777 {
		if err := t.Chmod(path, os.FileMode(mode).Perm()); err != nil {
			return err
		}
	}
	if modified.IsZero() || modified.UnixNano() == st.Mtim.Nano() {
		return nil
	}
	return t.setModified(path, modified)
}

func (t tree) setModified(path string, at time.Time) error {
	if at.IsZero() {
		return nil
	}
	return t.setTimes(path, at, at)
}

// setTimes sets the times of a path, of a symlink itself; a zero time leaves that
// one as it is.
func (t tree) setTimes(p string, accessed, modified time.Time) error {
	dir, err := t.Open(path.Dir(in(p)))
	if err != nil {
		return err
	}
	defer dir.Close()
	return setTimesIn(dir, path.Base(in(p)), accessed, modified)
}

func setTimesIn(dir *os.File, name string, accessed, modified time.Time) error {
	spec := func(at time.Time) unix.Timespec {
		if at.IsZero() {
			return unix.Timespec{Nsec: unix.UTIME_OMIT}
		}
		return unix.NsecToTimespec(at.UnixNano())
	}
	ts := []unix.Timespec{spec(accessed), spec(modified)}
	return unix.UtimesNanoAt(int(dir.Fd()), name, ts, unix.AT_SYMLINK_NOFOLLOW)
}
