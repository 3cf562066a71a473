package mount

import (
	"context"
	"os"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"atc/fs/errors"
	"atc/fs/volume"
)

// This file defines folders inside a tenant, the tenant's own one included, and
// what all nodes inside a tenant have in common.

// node is a path inside a tenant. It knows the tenant by its ID: the kernel may
// remember a path for longer than the tenant is ours.
type node struct {
	fs.Inode
	ops    *operations
	tenant string
	top    *fs.Inode // the tenant's folder
}

// do calls fn with the node's tenant.
func (n *node) do(ctx context.Context, fn func(*volume.Tenant) error) error {
	return n.ops.volume.Do(ctx, n.tenant, fn)
}

// path is where the node is now, below the tenant's folder.
func (n *node) path() string { return n.Path(n.top) }

// below is the path of a child.
func (n *node) below(name string) string {
	if p := n.path(); p != "" {
		return p + "/" + name
	}
	return name
}

// fill copies what stat told into the kernel's form.
func fill(a volume.Attr, out *fuse.Attr) {
	out.FromStat(&a.Stat_t)
	out.Ino = a.Serial
}

// remember is for how long the kernel may remember what a tells. Folders are not
// forgotten when the tenant is ours no more, so they are asked for often.
func remember(a volume.Attr) time.Duration {
	if a.Shown || a.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		return rootTimeout
	}
	return timeout
}

// Getattr tells about the node. An open file answers also when its name is gone.
func (n *node) Getattr(ctx context.Context, f fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	a, err := n.stat(ctx, f)
	if err != nil {
		return errors.Errno(err)
	}
	fill(a, &out.Attr)
	out.Ino = n.StableAttr().Ino
	out.SetTimeout(remember(a))
	return 0
}

func (n *node) stat(ctx context.Context, f fs.FileHandle) (volume.Attr, error) {
	if h, ok := f.(*handle); ok {
		return h.Stat()
	}
	return n.statPath(ctx, n.path())
}

func (n *node) statPath(ctx context.Context, path string) (a volume.Attr, err error) {
	err = n.do(ctx, func(t *volume.Tenant) error {
		a, err = t.Stat(ctx, path)
		return err
	})
	return a, err
}

// open opens a path of the node's tenant.
func (n *node) open(ctx context.Context, path string, flags int, mode uint32, serial uint64) (h *volume.Handle, err error) {
	err = n.do(ctx, func(t *volume.Tenant) error {
		h, err = t.OpenFile(ctx, path, flags, mode, serial)
		return err
	})
	return h, err
}

// Setattr changes size, mode and times. Owners are those of the mount: chown
// succeeds and changes nothing, since programs that run as root give their
// files to others as a matter of routine.
func (n *node) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok {
		if err := n.truncate(ctx, f, int64(size)); err != nil {
			return errors.Errno(err)
		}
	}
	if mode, ok := in.GetMode(); ok {
		if err := n.do(ctx, func(t *volume.Tenant) error { return t.Chmod(ctx, n.path(), mode) }); err != nil {
			return errors.Errno(err)
		}
	}
	mtime, setM := in.GetMTime()
	atime, setA := in.GetATime()
	if setM || setA {
		if err := n.do(ctx, func(t *volume.Tenant) error { return t.Utimes(ctx, n.path(), atime, mtime) }); err != nil {
			return errors.Errno(err)
		}
	}
	return n.Getattr(ctx, f, out)
}

func (n *node) truncate(ctx context.Context, f fs.FileHandle, size int64) error {
	if h, ok := f.(*handle); ok {
		return h.Truncate(asking(ctx), size)
	}
	h, err := n.open(ctx, n.path(), syscall.O_RDWR, 0, n.StableAttr().Ino)
	if err != nil {
		return err
	}
	err = h.Truncate(ctx, size)
	if closeErr := h.Close(); err == nil {
		err = closeErr
	}
	return err
}

// Statfs reports the space of the cache folder's filesystem, which is where
// writes go first.
func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	var st syscall.Statfs_t
	if err := syscall.Statfs(n.ops.volume.CacheDir(), &st); err != nil {
		return errors.Errno(err)
	}
	out.FromStatfsT(&st)
	return 0
}

// folder is a folder inside a tenant.
type folder struct{ node }

var (
	_ fs.NodeLookuper  = (*folder)(nil)
	_ fs.NodeGetattrer = (*folder)(nil)
	_ fs.NodeSetattrer = (*folder)(nil)
	_ fs.NodeStatfser  = (*folder)(nil)
	_ fs.NodeReaddirer = (*folder)(nil)
	_ fs.NodeFsyncer   = (*folder)(nil)
	_ fs.NodeMkdirer   = (*folder)(nil)
	_ fs.NodeRmdirer   = (*folder)(nil)
	_ fs.NodeCreater   = (*folder)(nil)
	_ fs.NodeUnlinker  = (*folder)(nil)
	_ fs.NodeRenamer   = (*folder)(nil)
	_ fs.NodeSymlinker = (*folder)(nil)
	_ fs.NodeLinker    = (*folder)(nil)
	_ fs.NodeMknoder   = (*folder)(nil)
)

// Lookup finds a child. That there is none is remembered by the kernel too, for
// SQLite looks for a journal at every read transaction; but not for long, since
// no notice takes such a memory away when the tenant has been elsewhere.
func (d *folder) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	a, err := d.statPath(ctx, d.below(name))
	if err != nil {
		return nil, errors.Errno(err)
	}
	return d.child(ctx, name, a, out), 0
}

// child returns the node of what a describes. A folder stays the same one
// whoever has had the tenant meanwhile: a process may stand in it.
func (d *folder) child(ctx context.Context, name string, a volume.Attr, out *fuse.EntryOut) *fs.Inode {
	fill(a, &out.Attr)
	out.SetEntryTimeout(remember(a))
	out.SetAttrTimeout(remember(a))
	if n := d.GetChild(name); n != nil && n.IsDir() && a.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		out.Ino = n.StableAttr().Ino
		return n
	}
	var ops fs.InodeEmbedder
	switch a.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		ops = &folder{node{ops: d.ops, tenant: d.tenant, top: d.top}}
	case syscall.S_IFLNK:
		ops = &link{node{ops: d.ops, tenant: d.tenant, top: d.top}}
	default:
		ops = &file{node{ops: d.ops, tenant: d.tenant, top: d.top}}
	}
	return d.NewInode(ctx, ops, fs.StableAttr{Mode: a.Mode & syscall.S_IFMT, Ino: a.Serial})
}

// made returns the node of what was just made at name.
func (d *folder) made(ctx context.Context, name string, out *fuse.EntryOut, err error) (*fs.Inode, syscall.Errno) {
	if err != nil {
		return nil, errors.Errno(err)
	}
	return d.Lookup(ctx, name, out)
}

// Readdir lists the folder.
func (d *folder) Readdir(ctx context.Context) (fs.DirStream, syscall.Errno) {
	var there []os.DirEntry
	err := d.do(ctx, func(t *volume.Tenant) (err error) {
		there, err = t.ReadDir(ctx, d.path())
		return err
	})
	if err != nil {
		return nil, errors.Errno(err)
	}
	entries := make([]fuse.DirEntry, 0, len(there))
	for _, e := range there {
		mode := uint32(syscall.S_IFREG)
		switch {
		case e.IsDir():
			mode = syscall.S_IFDIR
		case e.Type()&os.ModeSymlink != 0:
			mode = syscall.S_IFLNK
		}
		a, err := d.statPath(ctx, d.below(e.Name()))
		if err != nil {
			continue // gone meanwhile
		}
		entries = append(entries, fuse.DirEntry{Name: e.Name(), Mode: mode, Ino: a.Serial})
	}
	return fs.NewListDirStream(entries), 0
}

// Fsync syncs the folder, which SQLite does when it removes a journal with
// synchronous=EXTRA, or a super-journal: it takes a refusal for a broken disk.
func (d *folder) Fsync(ctx context.Context, _ fs.FileHandle, _ uint32) syscall.Errno {
	return errors.Errno(d.do(ctx, func(t *volume.Tenant) error { return t.Sync(ctx, d.path()) }))
}

// Mkdir makes a folder.
func (d *folder) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return d.made(ctx, name, out, d.do(ctx, func(t *volume.Tenant) error { return t.Mkdir(ctx, d.below(name), mode) }))
}

// Rmdir removes an empty folder.
func (d *folder) Rmdir(ctx context.Context, name string) syscall.Errno {
	return errors.Errno(d.do(ctx, func(t *volume.Tenant) error { return t.Rmdir(ctx, d.below(name)) }))
}

// Create makes and opens a file.
func (d *folder) Create(ctx context.Context, name string, flags uint32, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	h, err := d.open(ctx, d.below(name), int(flags)|syscall.O_CREAT, mode, 0)
	if err != nil {
		return nil, nil, 0, errors.Errno(err)
	}
	a, err := h.Stat()
	if err != nil {
		h.Close()
		return nil, nil, 0, errors.Errno(err)
	}
	return d.child(ctx, name, a, out), &handle{h}, openFlags, 0
}

// Unlink removes a file.
func (d *folder) Unlink(ctx context.Context, name string) syscall.Errno {
	return errors.Errno(d.do(ctx, func(t *volume.Tenant) error { return t.Unlink(asking(ctx), d.below(name)) }))
}

// Rename moves within one tenant.
func (d *folder) Rename(ctx context.Context, name string, to fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	target, ok := to.(*folder)
	if !ok || target.tenant != d.tenant {
		return syscall.EXDEV
	}
	return errors.Errno(d.do(ctx, func(t *volume.Tenant) error {
		return t.Rename(asking(ctx), d.below(name), target.below(newName), flags)
	}))
}

// Symlink makes a symlink.
func (d *folder) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return d.made(ctx, name, out, d.do(ctx, func(t *volume.Tenant) error { return t.Symlink(ctx, target, d.below(name)) }))
}

// Link refuses hard links: a file is one path in the bucket. EPERM is what
// link(2) gives on a filesystem without them.
func (d *folder) Link(context.Context, fs.InodeEmbedder, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

// Mknod refuses devices and sockets.
func (d *folder) Mknod(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

// link is a symlink.
type link struct{ node }

var (
	_ fs.NodeReadlinker = (*link)(nil)
	_ fs.NodeGetattrer  = (*link)(nil)
)

// Readlink returns where the symlink points.
func (l *link) Readlink(ctx context.Context) ([]byte, syscall.Errno) {
	var target string
	err := l.do(ctx, func(t *volume.Tenant) (err error) {
		target, err = t.ReadLink(ctx, l.path())
		return err
	})
	return []byte(target), errors.Errno(err)
}
