package mount

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"atc/fs/errors"
	"atc/fs/volume"
)

// This file defines files and their handles. Requests for a file that is passed
// through do not arrive here, save for open, sync, truncation and release.

// openFlags go with every open file. The page cache is kept: nothing changes a
// file but through this mount. Nothing happens at flush, so the kernel need not
// send it.
const openFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH

// file is a regular file.
type file struct{ node }

var (
	_ fs.NodeOpener    = (*file)(nil)
	_ fs.NodeGetattrer = (*file)(nil)
	_ fs.NodeSetattrer = (*file)(nil)
)

// Open opens the file.
func (f *file) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	h, err := f.open(ctx, f.path(), int(flags)&^(syscall.O_CREAT|syscall.O_EXCL), 0, f.StableAttr().Ino)
	if err != nil {
		f.ops.logger.Debug("cannot open", "tenant", f.tenant, "path", f.path(), "err", err)
		return nil, 0, errors.Errno(err)
	}
	if h.Stale {
		// Without the inode's lock, so that it cannot wait for this answer.
		f.NotifyContent(0, 0)
	}
	return &handle{h}, openFlags, 0
}

// handle is one opening of a file.
type handle struct{ *volume.Handle }

var (
	_ fs.FileReader          = (*handle)(nil)
	_ fs.FileWriter          = (*handle)(nil)
	_ fs.FileFsyncer         = (*handle)(nil)
	_ fs.FileReleaser        = (*handle)(nil)
	_ fs.FileAllocater       = (*handle)(nil)
	_ fs.FilePassthroughFder = (*handle)(nil)
)

// PassthroughFd is the descriptor that the kernel may use instead of asking.
func (h *handle) PassthroughFd() (int, bool) {
	return int(h.File().Fd()), h.Direct()
}

// Read fetches what is missing and lets the kernel take the bytes out of the
// local file. An interrupt does not end it: it would look like a broken disk.
func (h *handle) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if err := h.Ready(context.WithoutCancel(ctx), off, int64(len(dest))); err != nil {
		return nil, errors.Errno(err)
	}
	return fuse.ReadResultFd(h.File().Fd(), off, len(dest)), 0
}

// Write writes.
func (h *handle) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	n, err := h.WriteAt(asking(ctx), data, off)
	return uint32(n), errors.Errno(err)
}

// fdatasync is the flag of FUSE_FSYNC for fdatasync(2) (linux/fuse.h,
// FUSE_FSYNC_FDATASYNC). SQLite asks for no more, and it costs the local
// filesystem no journal commit where a log is overwritten.
const fdatasync = 1

// Fsync syncs.
func (h *handle) Fsync(ctx context.Context, flags uint32) syscall.Errno {
	return errors.Errno(h.Sync(asking(ctx), flags&fdatasync != 0))
}

// Release ends the handle. Nobody hears its errors; the volume has logged them.
func (h *handle) Release(context.Context) syscall.Errno {
	return errors.Errno(h.Close())
}

// Allocate makes a file larger; other forms of fallocate(2) are refused, and
// programs then do without.
func (h *handle) Allocate(ctx context.Context, off, size uint64, mode uint32) syscall.Errno {
	if mode&^unix.FALLOC_FL_KEEP_SIZE != 0 {
		return syscall.EOPNOTSUPP
	}
	if mode&unix.FALLOC_FL_KEEP_SIZE != 0 {
		return 0
	}
	a, err := h.Stat()
	if err != nil {
		return errors.Errno(err)
	}
	if end := int64(off + size); end > a.Size {
		return errors.Errno(h.Truncate(ctx, end))
	}
	return 0
}
