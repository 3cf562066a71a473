package volume

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"atc/fs/database"
	"atc/fs/errors"
	"atc/fs/journal"
	"atc/fs/tenant"
)

// This file defines the operations on names: each is done on the local tree,
// after whatever it would end was captured, and noted for the bucket.

// Attr is what stat(2) tells of a path. Serial names the file for the kernel: it
// is never used again for another one, which inode numbers of the local
// filesystem are.
type Attr struct {
	syscall.Stat_t
	Serial uint64
	// Shown says that the tenant is not ours: what is told may change without
	// us.
	Shown bool
}

// Stat tells about a path without fetching anything.
func (t *Tenant) Stat(ctx context.Context, path string) (Attr, error) {
	leave, err := t.enter(ctx)
	if err != nil {
		return Attr{}, err
	}
	defer leave()
	if e, ok, err := t.look(ctx, path); ok || err != nil {
		return Attr{e.stat, t.shownSerial(path), true}, err
	}
	if err := t.own(ctx, path); err != nil {
		return Attr{}, err
	}
	st, err := t.root.stat(path)
	if err != nil {
		return Attr{}, err
	}
	return Attr{st, t.serial(st.Ino), false}, nil
}

// shownSerial numbers a path of a view.
func (t *Tenant) shownSerial(path string) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, ok := t.shown[path]
	if !ok {
		n = t.v.Serial()
		t.shown[path] = n
	}
	return n
}

// Stat tells about an open file, also when its name is gone.
func (h *Handle) Stat() (Attr, error) {
	var a Attr
	if err := syscall.Fstat(int(h.f.os.Fd()), &a.Stat_t); err != nil {
		return Attr{}, err
	}
	a.Serial = h.f.t.serial(a.Ino)
	return a, nil
}

func (t *Tenant) serial(inode uint64) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, ok := t.serials[inode]
	if !ok {
		n = t.v.Serial()
		t.serials[inode] = n
	}
	return n
}

// ReadDir lists a folder.
func (t *Tenant) ReadDir(ctx context.Context, path string) ([]os.DirEntry, error) {
	leave, err := t.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if v, err := t.viewed(ctx, true); v != nil || err != nil {
		if err != nil {
			return nil, err
		}
		return v.list(path)
	}
	if err := t.own(ctx, path); err != nil {
		return nil, err
	}
	return t.root.readDir(path)
}

// ReadLink returns where a symlink points.
func (t *Tenant) ReadLink(ctx context.Context, path string) (string, error) {
	leave, err := t.enter(ctx)
	if err != nil {
		return "", err
	}
	defer leave()
	if e, ok, err := t.look(ctx, path); ok || err != nil {
		return e.target, err
	}
	if err := t.own(ctx, path); err != nil {
		return "", err
	}
	return t.root.Readlink(path)
}

// Mkdir makes a folder.
func (t *Tenant) Mkdir(ctx context.Context, path string, mode uint32) error {
	return t.change(ctx, func() error {
		if err := t.root.Mkdir(path, os.FileMode(mode).Perm()); err != nil {
			return err
		}
		if err := t.root.Chmod(path, os.FileMode(mode).Perm()); err != nil {
			return err
		}
		t.changedAt(path)
		return nil
	})
}

// Rmdir removes an empty folder.
func (t *Tenant) Rmdir(ctx context.Context, path string) error {
	return t.change(ctx, func() error {
		at, _ := t.root.inode(path)
		if err := t.root.Remove(path); err != nil {
			return err
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.serials, at)
		t.noteRemoval(path, t.v.opts.Now())
		return nil
	})
}

// Symlink makes a symlink. Where it may point is for the sandbox to bound, as on
// any disk.
func (t *Tenant) Symlink(ctx context.Context, target, path string) error {
	return t.change(ctx, func() error {
		if err := t.root.Symlink(target, path); err != nil {
			return err
		}
		t.changedAt(path)
		return nil
	})
}

// Chmod sets permission bits.
func (t *Tenant) Chmod(ctx context.Context, path string, mode uint32) error {
	return t.change(ctx, func() error {
		if err := t.root.Chmod(in(path), os.FileMode(mode&0o777)); err != nil {
			return err
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		t.noteChange(path, false)
		if e := t.databases[path]; e != nil {
			e.record.Mode, t.changed = mode&0o777, true
		}
		return nil
	})
}

// Utimes sets the times of a path; a zero time leaves that one as it is.
func (t *Tenant) Utimes(ctx context.Context, path string, accessed, modified time.Time) error {
	return t.change(ctx, func() error {
		if err := t.root.setTimes(path, accessed, modified); err != nil {
			return err
		}
		t.changedAt(path)
		return nil
	})
}

// Unlink removes a name. Removing a journal or a log is how SQLite commits or
// ends, so what it holds is captured first; removing a database keeps its
// history in the bucket.
func (t *Tenant) Unlink(ctx context.Context, path string) error {
	return t.change(ctx, func() error {
		if err := t.beforeGone(ctx, path); err != nil {
			return err
		}
		t.beforeDatabaseGone(path)
		return t.drop(path, func() error { return t.root.Remove(path) })
	})
}

// changedAt notes that a path was made or changed.
func (t *Tenant) changedAt(path string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.noteChange(path, false)
}

// change does something to the tree of a tenant that is ours.
func (t *Tenant) change(ctx context.Context, do func() error) error {
	leave, err := t.enterOwned(ctx, "")
	if err != nil {
		return err
	}
	defer leave()
	if err := t.usable(); err != nil {
		return err
	}
	return do()
}

// beforeGone captures what a sidecar holds before it is removed or replaced.
func (t *Tenant) beforeGone(ctx context.Context, path string) error {
	if journal.MayBeSuperJournal(path) {
		return t.beforeSuperGone(path)
	}
	t.mu.Lock()
	e, role := t.sidecarOf(path)
	var db *database.DB
	if e != nil && t.hasOpen(e) {
		db = e.db // in use, so that nobody closes it
	}
	t.mu.Unlock()
	if e == nil || role == journal.SHM {
		return nil
	}
	if _, there := t.root.inode(path); !there {
		return nil // there is nothing to remove
	}
	if db == nil {
		e.opening.Lock() // it must not be closed meanwhile
		defer e.opening.Unlock()
		var err error
		if db, err = e.openLocked(ctx); err != nil {
			return err
		}
	}
	if role == journal.WAL {
		return db.WALEnd()
	}
	return db.JournalEnd()
}

// beforeDatabaseGone captures what was committed to a database, which undelete
// may bring back. It does not stand in the way of the removal.
func (t *Tenant) beforeDatabaseGone(path string) {
	t.mu.Lock()
	var db *database.DB
	if e := t.databases[path]; e != nil && t.hasOpen(e) { // in use, so that nobody closes it
		db = e.db
	}
	t.mu.Unlock()
	if db == nil {
		return
	}
	if err := db.Tick(); err != nil {
		t.v.opts.Logger.Warn("cannot capture the last commits of a database that is removed", "database", t.name(path), "err", err)
	}
}

// beforeSuperGone captures the databases whose journals name a super-journal: its
// removal is what commits all of them, and SQLite does not heed what fails when
// it removes their own journals after that (vdbeaux.c, vdbeCommit).
func (t *Tenant) beforeSuperGone(super string) error {
	var dbs []*database.DB
	t.mu.Lock()
	for _, e := range t.databases {
		if e.db != nil && t.hasOpen(e) { // in use, so that nobody closes it
			dbs = append(dbs, e.db)
		}
	}
	t.mu.Unlock()
	for _, db := range dbs {
		// The journal has the name as the application sees it.
		if name := db.SuperJournal(); name == "" || filepath.Base(name) != filepath.Base(super) {
			continue
		}
		if err := db.JournalEnd(); err != nil {
			return err
		}
	}
	return nil
}

// Sync makes the names in a folder survive a loss of power.
func (t *Tenant) Sync(ctx context.Context, path string) error {
	leave, err := t.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	t.mu.Lock()
	owned := t.held != nil
	t.mu.Unlock()
	if !owned {
		return nil // nothing was changed here
	}
	if err := t.usable(); err != nil {
		return err
	}
	d, err := t.root.Open(in(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// drop removes a path with do and forgets what stood there.
func (t *Tenant) drop(path string, do func() error) error {
	at, _ := t.root.inode(path)
	if err := do(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.v.opts.Now()
	err := t.forget(path, at, now)
	t.noteRemoval(path, now)
	return err
}

// forget notes that the file of inode at is no longer at path. That of a
// database is noted on disk at once, since the next file may get its inode.
// Tenant.mu is held.
func (t *Tenant) forget(path string, at uint64, now time.Time) error {
	var err error
	if e := t.databases[path]; e != nil {
		delete(t.databases, path)
		delete(t.local.Databases, e.folder)
		e.gone, t.changed = true, true
		t.removedAt[e.folder] = now
		t.orphans = append(t.orphans, e)
		err = t.local.write(t.dir)
	}
	if f := t.open[at]; f != nil {
		f.nameless = true
		return err
	}
	if forgetErr := t.forgetInode(at); err == nil {
		err = forgetErr
	}
	return err
}

// Rename moves a path, also over another one. Databases keep their history.
func (t *Tenant) Rename(ctx context.Context, from, to string, flags uint32) error {
	if flags&^unix.RENAME_NOREPLACE != 0 {
		return errors.E("rename", t.name(from), errors.Invalid, fmt.Errorf("flags %#x", flags))
	}
	return t.change(ctx, func() error {
		if err := t.beforeGone(ctx, to); err != nil {
			return err
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		over, there := t.root.inode(to)
		if err := t.root.rename(from, to, flags); err != nil {
			return err
		}
		var err error
		if there {
			err = t.forget(to, over, t.v.opts.Now())
		}
		t.moved(from, to)
		if adoptErr := t.adoptLocal(from, to); err == nil {
			err = adoptErr
		}
		t.noteChange(from, true)
		t.noteChange(to, true)
		return err
	})
}

// moved makes everything that was at or below from be at to. Tenant.mu is held.
func (t *Tenant) moved(from, to string) {
	relocated := func(path string) (string, bool) {
		if path == from {
			return to, true
		}
		rest, below := strings.CutPrefix(path, from+"/")
		return to + "/" + rest, below
	}
	databases := make(map[string]*entry, len(t.databases))
	for path, e := range t.databases {
		if p, ok := relocated(path); ok {
			e.path, t.changed = p, true
			path = p
			if e.db != nil {
				e.db.Renamed(p)
			}
		}
		databases[path] = e
	}
	t.databases = databases
	for _, f := range t.open {
		if p, ok := relocated(f.path); ok {
			f.path = p
		}
	}
}

// remove removes the tenant itself.
func (t *Tenant) remove(ctx context.Context) error {
	leave, err := t.enterOwned(ctx, "")
	if err != nil {
		return err
	}
	defer leave()
	entries, err := t.root.readDir("")
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return syscall.ENOTEMPTY
	}
	if err := t.shipAll(ctx); err != nil {
		return err
	}
	if err := t.partAll(ctx); err != nil {
		return err
	}
	now := t.v.opts.Now()
	t.mu.Lock()
	emptied := t.files.removals.began(now)
	t.mu.Unlock()
	if emptied.IsZero() {
		emptied = now
	}
	if err := t.saveRecord(ctx, func(r *tenant.Record) { r.Owner, r.Deleted, r.Emptied = nil, now, emptied }); err != nil {
		return err
	}
	t.mu.Lock()
	t.held = nil
	t.unhold()
	t.lost = errors.E("use tenant", t.id, errors.NotExist, fmt.Errorf("it was removed"))
	t.gone = true
	t.mu.Unlock()
	if err := t.waitShips(ctx); err != nil {
		return err
	}
	t.root.Close()
	t.mu.Lock()
	t.inodes.end() // a file without a name may still be written
	t.mu.Unlock()
	return os.RemoveAll(t.dir)
}

// waitShips returns when nothing of a tenant is on its way any more.
func (t *Tenant) waitShips(ctx context.Context) error {
	const pause = 5 * time.Millisecond
	for {
		t.mu.Lock()
		busy := t.treeShip.busy
		for _, e := range t.databases {
			busy = busy || e.ship.busy
		}
		for _, e := range t.orphans {
			busy = busy || e.ship.busy
		}
		if !busy {
			for _, e := range t.orphans {
				if e.db != nil {
					e.db.Abandon()
					e.db = nil
				}
			}
			t.orphans = nil
		}
		t.mu.Unlock()
		if !busy {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
