package mount

import (
	"context"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"atc/fs/errors"
	"atc/fs/volume"
)

// This file defines the folders of time travel:
//
//	<mount>/.at/<RFC 3339 time>/<tenant>/<path of a database>
//
// They are found by name and listed nowhere above the time. Nothing below can be
// written, and nothing of it changes, so the kernel may keep all of it, but for
// moments to which commits may still arrive. Plain files have no history and are
// not here.

// pastName is the folder of time travel in the mount's root. It cannot be a
// tenant's ID.
const pastName = ".at"

// pastAttr is what all folders of the past look like.
func pastAttr(out *fuse.Attr) {
	out.Mode, out.Nlink = syscall.S_IFDIR|0o555, 2
}

// pastNode refuses, for all nodes of the past, whatever would change something.
type pastNode struct {
	fs.Inode
	ops *operations
}

var (
	_ fs.NodeSetattrer = (*pastNode)(nil)
	_ fs.NodeMkdirer   = (*pastNode)(nil)
	_ fs.NodeRmdirer   = (*pastNode)(nil)
	_ fs.NodeCreater   = (*pastNode)(nil)
	_ fs.NodeUnlinker  = (*pastNode)(nil)
	_ fs.NodeRenamer   = (*pastNode)(nil)
	_ fs.NodeSymlinker = (*pastNode)(nil)
	_ fs.NodeLinker    = (*pastNode)(nil)
	_ fs.NodeMknoder   = (*pastNode)(nil)
	_ fs.NodeAccesser  = (*pastNode)(nil)
)

// Access refuses writing, also for root.
func (n *pastNode) Access(_ context.Context, mask uint32) syscall.Errno {
	const write = 2 // W_OK
	if mask&write != 0 {
		return syscall.EROFS
	}
	return 0
}

// Setattr refuses.
func (n *pastNode) Setattr(context.Context, fs.FileHandle, *fuse.SetAttrIn, *fuse.AttrOut) syscall.Errno {
	return syscall.EROFS
}

// Mkdir refuses.
func (n *pastNode) Mkdir(context.Context, string, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EROFS
}

// Rmdir refuses.
func (n *pastNode) Rmdir(context.Context, string) syscall.Errno { return syscall.EROFS }

// Create refuses.
func (n *pastNode) Create(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	return nil, nil, 0, syscall.EROFS
}

// Unlink refuses.
func (n *pastNode) Unlink(context.Context, string) syscall.Errno { return syscall.EROFS }

// Rename refuses.
func (n *pastNode) Rename(context.Context, string, fs.InodeEmbedder, string, uint32) syscall.Errno {
	return syscall.EROFS
}

// Symlink refuses.
func (n *pastNode) Symlink(context.Context, string, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EROFS
}

// Link refuses.
func (n *pastNode) Link(context.Context, fs.InodeEmbedder, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EROFS
}

// Mknod refuses.
func (n *pastNode) Mknod(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EROFS
}

// pastRoot is the folder .at, whose children are moments.
type pastRoot struct{ pastNode }

// past returns the folder .at.
func (r *root) past(ctx context.Context, out *fuse.EntryOut) *fs.Inode {
	pastAttr(&out.Attr)
	out.SetAttrTimeout(timeout)
	out.SetEntryTimeout(timeout)
	if n := r.GetChild(pastName); n != nil {
		return n
	}
	return r.NewInode(ctx, &pastRoot{pastNode{ops: r.ops}}, fs.StableAttr{Mode: syscall.S_IFDIR})
}

// Getattr describes the folder.
func (d *pastRoot) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	pastAttr(&out.Attr)
	out.SetTimeout(timeout)
	return 0
}

// Readdir lists nothing: there are too many moments.
func (d *pastRoot) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	return fs.NewListDirStream(nil), 0
}

// Lookup finds a moment that has been.
func (d *pastRoot) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	at, err := time.Parse(time.RFC3339, name) // which takes fractions of a second, too
	if err != nil {
		d.ops.logger.Warn("the past is found by a time like 2026-11-21T10:00:00Z or 2026-11-21T11:00:00+01:00", "name", name)
		return nil, syscall.ENOENT
	}
	if err := d.ops.volume.Past().Check(at); err != nil {
		d.ops.logger.Warn("there is no such past", "name", name, "err", err)
		return nil, syscall.ENOENT
	}
	pastAttr(&out.Attr)
	out.SetAttrTimeout(timeout)
	out.SetEntryTimeout(timeout)
	return d.NewInode(ctx, &moment{pastNode{ops: d.ops}, at}, fs.StableAttr{Mode: syscall.S_IFDIR}), 0
}

// moment is a folder whose children are the tenants as they were.
type moment struct {
	pastNode
	at time.Time
}

// Getattr describes the folder.
func (d *moment) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	pastAttr(&out.Attr)
	out.SetTimeout(timeout)
	return 0
}

// Readdir lists the tenants.
func (d *moment) Readdir(ctx context.Context) (fs.DirStream, syscall.Errno) {
	ids, err := d.ops.volume.Past().Tenants(ctx, d.at)
	if err != nil {
		d.ops.logger.Error("cannot list the tenants of the past", "at", d.at, "err", err)
		return nil, errors.Errno(err)
	}
	entries := make([]fuse.DirEntry, len(ids))
	for i, id := range ids {
		entries[i] = fuse.DirEntry{Name: id, Mode: syscall.S_IFDIR}
	}
	return fs.NewListDirStream(entries), 0
}

// Lookup finds a tenant that had databases then.
func (d *moment) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	f := &pastFolder{pastNode{ops: d.ops}, d.at, name, ""}
	if _, err := f.list(ctx); err != nil {
		return nil, errors.Errno(err)
	}
	f.times(out)
	pastAttr(&out.Attr)
	return d.NewInode(ctx, f, fs.StableAttr{Mode: syscall.S_IFDIR}), 0
}

// pastFolder is a tenant's folder, or one inside, that holds databases.
type pastFolder struct {
	pastNode
	at     time.Time
	tenant string
	path   string // below the tenant's folder
}

// list is what the tenant had; who looks hears of a failure in the log.
func (d *pastFolder) list(ctx context.Context) ([]volume.PastFile, error) {
	files, err := d.ops.volume.Past().List(context.WithoutCancel(ctx), d.tenant, d.at)
	if err != nil {
		d.ops.logger.Warn("cannot look back", "tenant", d.tenant, "at", d.at.UTC().Format(time.RFC3339Nano), "err", err)
	}
	return files, err
}

// times sets how long the kernel may remember what it finds.
func (d *pastFolder) times(out *fuse.EntryOut) {
	keep := timeout
	if !d.ops.volume.Past().Settled(d.at) {
		keep = rootTimeout
	}
	out.SetEntryTimeout(keep)
	out.SetAttrTimeout(keep)
}

// Getattr describes the folder.
func (d *pastFolder) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	pastAttr(&out.Attr)
	out.SetTimeout(timeout)
	return 0
}

// below takes a path apart into the name of a child of this folder and what is
// below that one.
func (d *pastFolder) below(p string) (name, rest string, ok bool) {
	if d.path != "" {
		if p, ok = strings.CutPrefix(p, d.path+"/"); !ok {
			return "", "", false
		}
	}
	name, rest, _ = strings.Cut(p, "/")
	return name, rest, true
}

// Readdir lists databases and the folders that hold some.
func (d *pastFolder) Readdir(ctx context.Context) (fs.DirStream, syscall.Errno) {
	files, err := d.list(ctx)
	if err != nil {
		return nil, errors.Errno(err)
	}
	var entries []fuse.DirEntry
	seen := make(map[string]bool)
	for _, f := range files {
		name, rest, ok := d.below(f.Path)
		if !ok || seen[name] {
			continue
		}
		seen[name] = true
		if rest != "" {
			entries = append(entries, fuse.DirEntry{Name: name, Mode: syscall.S_IFDIR})
		} else {
			entries = append(entries, fuse.DirEntry{Name: name, Mode: syscall.S_IFREG, Ino: f.Serial()})
		}
	}
	return fs.NewListDirStream(entries), 0
}

// Lookup finds a database, or a folder that holds some. SQLite asks for a journal
// and a log beside a database: that there are none is remembered.
func (d *pastFolder) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	files, err := d.list(ctx)
	if err != nil {
		return nil, errors.Errno(err)
	}
	d.times(out)
	for _, f := range files {
		child, rest, ok := d.below(f.Path)
		if !ok || child != name {
			continue
		}
		if rest != "" {
			pastAttr(&out.Attr)
			folder := &pastFolder{pastNode{ops: d.ops}, d.at, d.tenant, path.Join(d.path, name)}
			return d.NewInode(ctx, folder, fs.StableAttr{Mode: syscall.S_IFDIR}), 0
		}
		file := &pastFile{pastNode{ops: d.ops}, f}
		file.fill(&out.Attr)
		return d.NewInode(ctx, file, fs.StableAttr{Mode: syscall.S_IFREG, Ino: f.Serial()}), 0
	}
	out.NodeId = 0
	return nil, syscall.ENOENT
}

// pastFile is a database as it was. Its inode number is made of what it holds, so
// that the kernel keeps no page of another state for it.
type pastFile struct {
	pastNode
	volume.PastFile
}

var (
	_ fs.NodeOpener = (*pastFile)(nil)
	_ fs.NodeReader = (*pastFile)(nil)
)

func (f *pastFile) fill(out *fuse.Attr) {
	out.Mode, out.Nlink, out.Size = syscall.S_IFREG|0o444, 1, uint64(f.Size)
	out.Ino = f.Serial()
	out.Blocks = (out.Size + 511) / 512
	out.SetTimes(&f.Modified, &f.Modified, &f.Modified)
}

// Getattr describes the file.
func (f *pastFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f.fill(&out.Attr)
	out.SetTimeout(timeout)
	return 0
}

// Open opens for reading. SQLite, which asks for writing first, opens again
// without when it gets EROFS.
func (f *pastFile) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY || flags&syscall.O_TRUNC != 0 {
		return nil, 0, syscall.EROFS
	}
	if err := f.ops.volume.Past().Open(context.WithoutCancel(ctx), f.PastFile); errors.Is(errors.NotExist, err) {
		return nil, 0, syscall.ESTALE // the kernel looks the name up again, and opens what it finds
	} else if err != nil {
		f.ops.logger.Error("cannot open the past", "tenant", f.Tenant, "path", f.Path, "txid", f.TXID, "err", err)
		return nil, 0, errors.Errno(err)
	}
	return nil, openFlags, 0
}

// Read fetches what is read. An interrupt does not end it: it would look like a
// broken disk.
func (f *pastFile) Read(ctx context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n, err := f.ops.volume.Past().ReadAt(context.WithoutCancel(ctx), f.PastFile, dest, off)
	if err != nil {
		f.ops.logger.Error("cannot read the past", "tenant", f.Tenant, "path", f.Path, "txid", f.TXID, "err", err)
		return nil, syscall.EIO
	}
	return fuse.ReadResultData(dest[:n]), 0
}
