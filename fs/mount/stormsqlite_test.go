package mount_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/util/vfsutil"
	"github.com/ncruces/go-sqlite3/vfs"

	"atc/fs/errors"
	"atc/fs/volume"
)

// This file defines the application of the storm: a real SQLite that uses a
// volume's files as the mount would for it, without a kernel in between, so that
// hundreds of stories run in minutes.

// application is somebody who uses a database.
type application interface {
	// exec runs statements and returns the rows, columns joined by "|".
	exec(statements string) ([]string, error)
	// leave closes the connection as a program does that ends.
	leave() error
	// die ends it in the middle of whatever it does, with the machine.
	die()
}

// onVolume is SQLite on a volume's handles. It has the database alone, so that
// locks need not exist, and a log's index can be in its own memory
// (locking_mode=EXCLUSIVE).
type onVolume struct {
	tenant *volume.Tenant
	name   string // of the VFS
	conn   *sqlite3.Conn
	dead   atomic.Bool // the machine is off: nothing reaches a file any more
}

var vfsNumber atomic.Uint64

func openOnVolume(t *volume.Tenant, path string) (*onVolume, error) {
	a := &onVolume{tenant: t, name: fmt.Sprint("storm", vfsNumber.Add(1))}
	vfs.Register(a.name, a)
	var err error
	if a.conn, err = sqlite3.Open("file:" + path + "?vfs=" + a.name); err != nil {
		vfs.Unregister(a.name)
		return nil, err
	}
	return a, nil
}

func (a *onVolume) exec(statements string) (rows []string, err error) {
	for statements != "" {
		s, tail, err := a.conn.Prepare(statements)
		if err != nil {
			return rows, err
		}
		statements = tail
		if s == nil {
			continue
		}
		for s.Step() {
			columns := make([]string, s.ColumnCount())
			for i := range columns {
				columns[i] = s.ColumnText(i)
			}
			rows = append(rows, strings.Join(columns, "|"))
		}
		if err := s.Close(); err != nil {
			return rows, err
		}
	}
	return rows, nil
}

func (a *onVolume) leave() error {
	defer vfs.Unregister(a.name)
	return a.conn.Close()
}

func (a *onVolume) die() {
	a.dead.Store(true)
	_ = a.leave()
}

var errOff = vfs.SystemError(syscall.EIO, sqlite3.IOERR)

// Open is part of vfs.VFS. Temporary files are nobody's but SQLite's.
func (a *onVolume) Open(name string, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	if name == "" || flags&(vfs.OPEN_MAIN_DB|vfs.OPEN_MAIN_JOURNAL|vfs.OPEN_WAL) == 0 {
		return new(vfsutil.SliceFile), flags | vfs.OPEN_MEMORY, nil
	}
	if a.dead.Load() {
		return nil, flags, errOff
	}
	how := os.O_RDWR
	if flags&vfs.OPEN_CREATE != 0 {
		how |= os.O_CREATE
	}
	if flags&vfs.OPEN_EXCLUSIVE != 0 {
		how |= os.O_EXCL
	}
	h, err := a.tenant.OpenFile(context.Background(), name, how, 0o644, 0)
	if err != nil {
		return nil, flags, vfs.SystemError(err, sqlite3.CANTOPEN)
	}
	return &volumeFile{h, a}, flags, nil
}

// Delete is part of vfs.VFS.
func (a *onVolume) Delete(name string, _ bool) error {
	if a.dead.Load() {
		return errOff
	}
	err := a.tenant.Unlink(context.Background(), name)
	if errors.Is(errors.NotExist, err) {
		return sqlite3.IOERR_DELETE_NOENT
	}
	return vfs.SystemError(err, sqlite3.IOERR_DELETE)
}

// Access is part of vfs.VFS. A file of no bytes counts as absent (os_unix.c).
func (a *onVolume) Access(name string, flags vfs.AccessFlag) (bool, error) {
	if a.dead.Load() {
		return false, errOff
	}
	st, err := a.tenant.Stat(context.Background(), name)
	if errors.Is(errors.NotExist, err) {
		return false, nil
	}
	return err == nil && (flags != vfs.ACCESS_EXISTS || st.Size > 0), vfs.SystemError(err, sqlite3.IOERR_ACCESS)
}

// FullPathname is part of vfs.VFS.
func (a *onVolume) FullPathname(name string) (string, error) { return name, nil }

// volumeFile does to a handle what fs/mount does.
type volumeFile struct {
	h *volume.Handle
	a *onVolume
}

func (f *volumeFile) Close() error {
	if f.a.dead.Load() {
		return nil
	}
	return f.h.Close()
}

func (f *volumeFile) ReadAt(p []byte, off int64) (int, error) {
	if f.a.dead.Load() {
		return 0, errOff
	}
	if err := f.h.Ready(context.Background(), off, int64(len(p))); err != nil {
		return 0, vfs.SystemError(err, sqlite3.IOERR_READ)
	}
	return f.h.File().ReadAt(p, off)
}

func (f *volumeFile) WriteAt(p []byte, off int64) (int, error) {
	if f.a.dead.Load() {
		return 0, errOff
	}
	n, err := f.h.WriteAt(context.Background(), p, off)
	return n, vfs.SystemError(err, sqlite3.IOERR_WRITE)
}

func (f *volumeFile) Truncate(size int64) error {
	if f.a.dead.Load() {
		return errOff
	}
	return vfs.SystemError(f.h.Truncate(context.Background(), size), sqlite3.IOERR_TRUNCATE)
}

func (f *volumeFile) Sync(flags vfs.SyncFlag) error {
	if f.a.dead.Load() {
		return errOff
	}
	return vfs.SystemError(f.h.Sync(context.Background(), flags&vfs.SYNC_DATAONLY != 0), sqlite3.IOERR_FSYNC)
}

func (f *volumeFile) Size() (int64, error) {
	if f.a.dead.Load() {
		return 0, errOff
	}
	a, err := f.h.Stat()
	return a.Size, vfs.SystemError(err, sqlite3.IOERR_FSTAT)
}

func (f *volumeFile) Lock(vfs.LockLevel) error         { return nil }
func (f *volumeFile) Unlock(vfs.LockLevel) error       { return nil }
func (f *volumeFile) CheckReservedLock() (bool, error) { return false, nil }
func (f *volumeFile) SectorSize() int                  { return 512 }
func (f *volumeFile) DeviceCharacteristics() vfs.DeviceCharacteristic {
	return vfs.IOCAP_POWERSAFE_OVERWRITE // as on Linux (os_unix.c)
}
