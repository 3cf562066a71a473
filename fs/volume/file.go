package volume

import (
	"context"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"atc/fs/database"
	"atc/fs/errors"
	"atc/fs/journal"
)

// This file defines open files: which of them is a database, a sidecar or a
// plain file, and at which operation a commit is captured.

// File is a file that somebody has open, whatever the number of handles.
type File struct {
	t       *Tenant
	inode   uint64
	os      *os.File
	filling sync.Mutex // one fetch of a plain file's content at a time

	// Protected by Tenant.mu.
	path    string
	entry   *entry          // of the database that the file is or stands beside; nil for a plain file
	db      *database.DB    // open while the file is, if entry is set
	role    journal.Sidecar // None for the database itself
	handles int
	counted int  // of the handles, how many the database knows of
	direct  bool // decided at the first opening, for all handles: the kernel allows no mixture
}

// Handle is one opening of a file. Its methods may be called concurrently.
type Handle struct {
	f *File
	// Stale says that the kernel has known the file from before the tenant
	// became ours, so that what it remembers of it may be wrong.
	Stale bool
}

// OpenFile opens a path, with the flags of open(2). It fetches what must be
// known first: the page index of a database, or the content of a plain file.
// Serial is the number that the kernel knows the file by, 0 for none yet. It
// fails with ESTALE where the file is gone or somebody knows it by another
// number meanwhile, since the kernel keeps locks by that number: it looks again
// then.
func (t *Tenant) OpenFile(ctx context.Context, path string, flags int, mode uint32, serial uint64) (*Handle, error) {
	leave, err := t.enterOwned(ctx, path)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := t.usable(); err != nil {
		return nil, err
	}
	created, err := t.createIfAsked(path, flags, mode)
	if err != nil {
		return nil, errors.E("open", t.name(path), errors.Other, err)
	}
	f, stale, err := t.openShared(path, created, serial)
	if os.IsNotExist(err) && serial != 0 {
		err = syscall.ESTALE // the kernel remembers a name that is gone
	}
	if err != nil {
		return nil, errors.E("open", t.name(path), errors.Other, err)
	}
	h := &Handle{f, stale}
	err = f.prepare(ctx, flags)
	if err == nil {
		err = t.usable() // that may have taken long
	}
	if err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// createIfAsked makes the local file when flags ask for it.
func (t *Tenant) createIfAsked(path string, flags int, mode uint32) (bool, error) {
	if flags&syscall.O_CREAT == 0 {
		return false, nil
	}
	f, err := t.root.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, os.FileMode(mode).Perm())
	if os.IsExist(err) && flags&syscall.O_EXCL == 0 {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	return true, f.Chmod(os.FileMode(mode).Perm()) // the caller's umask is in mode already
}

// openShared returns the file at path with one handle more, and whether the
// kernel has its serial from elsewhere.
func (t *Tenant) openShared(path string, created bool, serial uint64) (_ *File, stale bool, err error) {
	local, err := t.root.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, false, err
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(local.Fd()), &st); err != nil {
		local.Close()
		return nil, false, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if created {
		t.forgetInode(st.Ino)
		t.files.dirty = true
	}
	if serial != 0 {
		known, ok := t.serials[st.Ino]
		if ok && known != serial {
			local.Close()
			return nil, false, syscall.ESTALE
		}
		t.serials[st.Ino], stale = serial, !ok
	}
	if f := t.open[st.Ino]; f != nil {
		local.Close()
		f.handles++
		return f, stale, nil
	}
	f := &File{t: t, inode: st.Ino, os: local, path: path, handles: 1}
	if e := t.databases[path]; e != nil {
		f.entry = e
	} else {
		f.entry, f.role = t.sidecarOf(path)
		if f.entry == nil {
			f.role = journal.None
		}
	}
	if created && f.entry == nil {
		t.files.touched[st.Ino] = struct{}{}
	}
	t.open[st.Ino] = f
	return f, stale, nil
}

// forgetInode drops what was known of an inode that the local filesystem uses
// again. Tenant.mu is held.
func (t *Tenant) forgetInode(inode uint64) {
	delete(t.local.Contents, inode)
	delete(t.files.touched, inode)
	delete(t.serials, inode)
	os.Remove(t.missingMark(inode))
}

// prepare makes a file ready for its new handle.
func (f *File) prepare(ctx context.Context, flags int) error {
	t := f.t
	t.mu.Lock()
	e, role := f.entry, f.role
	t.mu.Unlock()
	if e != nil {
		db, err := e.database(ctx)
		if err != nil {
			return err
		}
		defer db.Enter()()
		t.mu.Lock()
		f.register(db)
		if f.handles == 1 {
			f.direct = t.v.passthrough.Load() && f.mayBeDirect()
			if role == journal.None {
				db.SetDirect(f.direct)
			}
		}
		t.mu.Unlock()
		if role == journal.Rollback && flags&syscall.O_ACCMODE != syscall.O_RDONLY {
			if err := db.JournalOpened(); err != nil {
				return err
			}
		}
	} else if flags&syscall.O_TRUNC == 0 {
		if err := t.fill(ctx, f); err != nil {
			return err
		}
	}
	if flags&syscall.O_TRUNC != 0 {
		return (&Handle{f: f}).Truncate(ctx, 0)
	}
	return nil
}

// mayBeDirect decides whether the kernel may read and write the local file
// itself: the log, its index and a rollback journal unless their writes are commits
// that wait, the database once no page is missing and commits go to the log.
func (f *File) mayBeDirect() bool {
	switch f.role {
	case journal.WAL, journal.Rollback:
		return !f.t.v.opts.Commit
	case journal.SHM:
		return true
	case journal.None:
		return f.db.Complete() && f.db.WALMode()
	}
	return false
}

// Direct reports whether the kernel may read and write File itself. It is the
// same for all handles that a file has at a time.
func (h *Handle) Direct() bool {
	h.f.t.mu.Lock()
	defer h.f.t.mu.Unlock()
	return h.f.direct
}

// File is the local file.
func (h *Handle) File() *os.File { return h.f.os }

// Ready makes the bytes [off, off+length) of the local file right to read.
func (h *Handle) Ready(ctx context.Context, off, length int64) error {
	if db, role := h.f.database(); db != nil && role == journal.None {
		return db.Ensure(ctx, off, length)
	}
	return nil
}

func (f *File) database() (*database.DB, journal.Sidecar) {
	f.t.mu.Lock()
	defer f.t.mu.Unlock()
	return f.db, f.role
}

// WriteAt writes what the application wrote.
func (h *Handle) WriteAt(ctx context.Context, b []byte, off int64) (int, error) {
	f := h.f
	db, role := f.database()
	if db == nil && off == 0 {
		if _, ok := journal.ParseHeader(b); ok {
			var err error
			if db, role, err = f.becomeDatabase(ctx); err != nil {
				return 0, err
			}
		}
	}
	switch {
	case db == nil:
		f.t.touch(f.inode)
	case role == journal.None:
		return db.WriteAt(ctx, b, off)
	case role == journal.Rollback && off == 0 && f.endsJournal(b):
		if err := db.JournalEnd(); err != nil {
			return 0, err
		}
	}
	n, err := f.os.WriteAt(b, off)
	if err == nil && db != nil && role == journal.WAL {
		return n, db.LogWritten(off, int64(n))
	}
	if db == nil {
		f.t.touch(f.inode) // again: what was stored since may have missed this write
	}
	if err != nil {
		return n, errors.E("write", f.t.name(f.path), errors.Other, err)
	}
	return n, nil
}

// endsJournal reports whether a write at the beginning of a journal zeroes the
// header that is in force, which is how journal_mode=PERSIST commits.
func (f *File) endsJournal(b []byte) bool {
	was := make([]byte, journal.RollbackHeaderSize)
	n, _ := f.os.ReadAt(was, 0)
	return journal.RollbackActive(was[:n]) && !journal.RollbackActive(b)
}

// becomeDatabase makes a plain file a database, when its header is written. A
// file without a name stays what it is.
func (f *File) becomeDatabase(ctx context.Context) (*database.DB, journal.Sidecar, error) {
	t := f.t
	t.mu.Lock()
	if at, there := t.root.inode(f.path); !there || at != f.inode {
		t.mu.Unlock()
		return nil, 0, nil // it has no name any more, as SQLite's temporary databases
	}
	if f.entry == nil {
		e := t.databases[f.path]
		if e == nil {
			e = t.newEntry(f.path, f.inode)
			if info, err := f.os.Stat(); err == nil {
				e.record.Mode = uint32(info.Mode().Perm())
			}
			if err := t.local.write(t.dir); err != nil {
				t.mu.Unlock()
				return nil, 0, errors.E("make database", t.name(f.path), errors.Other, err)
			}
		}
		f.entry, f.role = e, journal.None
	}
	e := f.entry
	t.mu.Unlock()
	db, err := e.database(ctx)
	if err != nil {
		return nil, 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.adopt(e, db)
	return f.db, f.role, nil
}

// adopt gives the open files of a database that has just become one to it: the
// file itself, and the journal that was opened before. Tenant.mu is held.
func (t *Tenant) adopt(e *entry, db *database.DB) {
	for _, f := range t.open {
		if f.entry == nil {
			if f.entry, f.role = t.sidecarOf(f.path); f.entry == nil {
				f.role = journal.None
			}
		}
		if f.entry == e {
			f.register(db)
			delete(t.files.touched, f.inode) // it is not a plain file any more
		}
	}
}

// register counts the file's handles as users of its database. Tenant.mu is
// held.
func (f *File) register(db *database.DB) {
	if f.db == nil {
		f.db = db
	}
	for ; f.counted < f.handles; f.counted++ {
		f.db.Opened(f.role)
	}
}

// Sync makes what was written survive a loss of power, as fdatasync(2) does if
// dataOnly, and captures what SQLite syncs in order to commit or to checkpoint.
func (h *Handle) Sync(ctx context.Context, dataOnly bool) error {
	if err := h.f.t.usable(); err != nil {
		return err
	}
	db, role := h.f.database()
	if db != nil && role == journal.WAL {
		// Beside each other: what is captured was committed before, and what counts
		// is that both are done before the application goes on.
		captured := make(chan error, 1)
		go func() { captured <- db.WALSync() }()
		err := h.f.sync(dataOnly)
		if captureErr := <-captured; err == nil {
			err = captureErr
		}
		return err
	}
	err := h.f.sync(dataOnly)
	switch {
	case err != nil || db == nil:
		return err
	case role == journal.None:
		return db.Sync()
	case role == journal.Rollback && h.Direct():
		return db.JournalSynced()
	}
	return nil
}

// sync syncs the local file.
func (f *File) sync(dataOnly bool) error {
	sync := unix.Fsync
	if dataOnly {
		sync = unix.Fdatasync
	}
	if err := sync(int(f.os.Fd())); err != nil {
		return errors.E("sync", f.t.name(f.path), errors.Other, err)
	}
	return nil
}

// Truncate sets the file's size.
func (h *Handle) Truncate(ctx context.Context, size int64) error {
	f := h.f
	db, role := f.database()
	var err error
	switch {
	case db == nil:
		f.t.touch(f.inode)
	case role == journal.None:
		return db.Truncate(ctx, size)
	case role == journal.WAL:
		err = db.WALCut()
	case role == journal.Rollback && size < int64(journal.RollbackHeaderSize):
		err = db.JournalEnd()
	}
	if err != nil {
		return err
	}
	if db == nil && size == 0 {
		os.Remove(f.t.missingMark(f.inode)) // nothing of the old content is wanted
	}
	err = f.os.Truncate(size)
	if db == nil {
		f.t.touch(f.inode)
	}
	if err != nil {
		return errors.E("truncate", f.t.name(f.path), errors.Other, err)
	}
	return nil
}

// Close ends the handle. The last one on a database and its sidecars captures
// what was committed; it is shipped within the ship interval.
func (h *Handle) Close() error {
	f, t := h.f, h.f.t
	t.mu.Lock()
	t.users++ // nobody may end the tenant before what was committed is captured
	defer t.leave()
	f.handles--
	last := f.handles == 0
	if last {
		delete(t.open, f.inode)
	}
	db, role, e := f.db, f.role, f.entry
	if last && db != nil && role == journal.None {
		db.SetDirect(false)
	}
	counted := f.counted > f.handles
	if counted {
		f.counted--
	}
	t.mu.Unlock()
	var err error
	if counted {
		if db.Released(role) == 0 {
			err = db.Idle()
			t.mu.Lock()
			e.idle = t.v.opts.Now()
			t.mu.Unlock()
		}
	}
	if last {
		if closeErr := f.os.Close(); err == nil && closeErr != nil {
			err = fmt.Errorf("close %s: %w", f.path, closeErr)
		}
	}
	return err
}
