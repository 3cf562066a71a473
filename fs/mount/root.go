package mount

import (
	"context"
	"hash/fnv"
	"log/slog"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"atc/fs/errors"
	"atc/fs/tenant/tenantid"
	"atc/fs/volume"
)

// This file defines the root of the mount, whose folders are the tenants.
// Looking at it opens no tenant.

// operations is what all nodes share.
type operations struct {
	volume   *volume.Volume
	logger   *slog.Logger
	requests atomic.Int64
}

const (
	// rootTimeout is how long the kernel may remember which tenants there are:
	// others may make and remove them.
	rootTimeout = time.Second
	// timeout is how long the kernel may remember names and attributes inside a
	// tenant: every change comes through this mount.
	timeout = time.Hour
	// absentTimeout is how long it may remember that there is no such name: SQLite
	// looks for a journal and a log at every read transaction in rollback mode.
	absentTimeout = time.Second
)

// root is the mount's root.
type root struct {
	fs.Inode
	ops *operations
}

var (
	_ fs.NodeLookuper  = (*root)(nil)
	_ fs.NodeGetattrer = (*root)(nil)
	_ fs.NodeReaddirer = (*root)(nil)
	_ fs.NodeMkdirer   = (*root)(nil)
	_ fs.NodeRmdirer   = (*root)(nil)
	_ fs.NodeCreater   = (*root)(nil)
)

// Getattr describes the root.
func (r *root) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Nlink = syscall.S_IFDIR|0o755, 2
	out.SetTimeout(timeout)
	return 0
}

// Lookup finds a tenant. A name that cannot be one is not asked for anywhere.
func (r *root) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if name == pastName {
		return r.past(ctx, out), 0
	}
	if tenantid.Check(name) != nil {
		return nil, syscall.ENOENT
	}
	if _, err := r.ops.volume.Expect(ctx, name); err != nil {
		// Tenants are also made beside this mount, so that their absence is not
		// remembered: go-fuse applies absentTimeout where none is set.
		out.SetEntryTimeout(rootTimeout)
		return nil, errors.Errno(err)
	}
	return r.child(ctx, name, out), 0
}

func (r *root) child(ctx context.Context, id string, out *fuse.EntryOut) *fs.Inode {
	out.Mode, out.Nlink = syscall.S_IFDIR|0o755, 2
	out.SetAttrTimeout(timeout)
	out.SetEntryTimeout(rootTimeout)
	if n := r.GetChild(id); n != nil {
		out.Ino = n.StableAttr().Ino
		return n
	}
	d := &folder{node: node{ops: r.ops, tenant: id}}
	n := r.NewInode(ctx, d, fs.StableAttr{Mode: syscall.S_IFDIR, Ino: r.ops.volume.Serial()})
	d.top = n
	out.Ino = n.StableAttr().Ino
	return n
}

// Readdir lists the tenants.
func (r *root) Readdir(ctx context.Context) (fs.DirStream, syscall.Errno) {
	ids, err := r.ops.volume.Tenants(ctx)
	if err != nil {
		r.ops.logger.Error("cannot list tenants", "err", err)
		return nil, errors.Errno(err)
	}
	entries := make([]fuse.DirEntry, len(ids))
	for i, id := range ids {
		h := fnv.New64a()
		h.Write([]byte(id))
		entries[i] = fuse.DirEntry{Name: id, Mode: syscall.S_IFDIR, Ino: h.Sum64()}
	}
	return fs.NewListDirStream(entries), 0
}

// Mkdir makes a tenant.
func (r *root) Mkdir(ctx context.Context, name string, _ uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if _, err := r.ops.volume.Create(ctx, name); err != nil {
		r.ops.logger.Warn("cannot make tenant", "name", name, "err", err)
		return nil, errors.Errno(err)
	}
	return r.child(ctx, name, out), 0
}

// Rmdir removes a tenant whose folder is empty.
func (r *root) Rmdir(ctx context.Context, name string) syscall.Errno {
	return errors.Errno(r.ops.volume.Remove(ctx, name))
}

// Create refuses files beside the tenants.
func (r *root) Create(_ context.Context, name string, _ uint32, _ uint32, _ *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	r.ops.logger.Warn("only tenants can be made here, as folders", "name", name)
	return nil, nil, 0, syscall.EPERM
}
