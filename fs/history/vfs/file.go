package vfs

import (
	"io"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"

	"atc/fs/errors"
)

// This file defines the one file of a Database, as SQLite's I/O methods see it.

type file struct{ *Database }

var _ vfs.File = file{}

// ReadAt reads; what is damaged in the bucket is SQLITE_IOERR_DATA, any other
// failure SQLITE_IOERR_READ.
func (f file) ReadAt(p []byte, offset int64) (int, error) {
	n, err := f.file.ReadAt(f.ctx, p, offset)
	if err != nil {
		f.note(err)
		code := sqlite3.IOERR_READ
		if errors.Is(errors.Corrupt, err) {
			code = sqlite3.IOERR_DATA
		}
		return n, vfs.SystemError(err, code)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Size is the database's.
func (f file) Size() (int64, error) { return f.file.Size(), nil }

// Close has nothing to close.
func (f file) Close() error { return nil }

// WriteAt refuses.
func (f file) WriteAt([]byte, int64) (int, error) { return 0, sqlite3.IOERR_WRITE }

// Truncate refuses.
func (f file) Truncate(int64) error { return sqlite3.IOERR_TRUNCATE }

// Sync has nothing to sync.
func (f file) Sync(vfs.SyncFlag) error { return nil }

// Lock grants everything: nobody writes.
func (f file) Lock(vfs.LockLevel) error { return nil }

// Unlock has nothing to give back.
func (f file) Unlock(vfs.LockLevel) error { return nil }

// CheckReservedLock tells that nobody writes.
func (f file) CheckReservedLock() (bool, error) { return false, nil }

// SectorSize is SQLite's default.
func (f file) SectorSize() int { return 0 }

// DeviceCharacteristics say that the file never changes, so that SQLite neither
// locks it nor looks for a journal.
func (f file) DeviceCharacteristics() vfs.DeviceCharacteristic {
	return vfs.IOCAP_IMMUTABLE | vfs.IOCAP_SUBPAGE_READ
}
