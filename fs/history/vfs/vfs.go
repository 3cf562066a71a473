// Package vfs lets SQLite in this process read a database of the bucket as it
// was at one TXID, without a mount and without a local copy.
//
//	log := history.NewLog(b, tenant.DatabaseFolder("acme", folder))
//	x, err := log.LoadAt(ctx, txid)
//	db := vfs.Open(ctx, "acme/main.sqlite3", log, x, pages.Options{})
//	defer db.Close()
//	conn, err := db.Connect()
//
// Any number of connections may read it at once. It is immutable: there are no
// locks, no journal and no log, and writing fails with SQLITE_READONLY. Every
// page that arrives is compared with its hash; one that differs is an I/O error
// to SQLite, and [Database.Err] names it.
//
// Limitations: the context of Open bounds all reads; one connection cannot be
// canceled alone but by sqlite3.Conn.SetInterrupt.
package vfs

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"

	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/history/pages"
)

// serial makes the names under which SQLite finds each Database. SQLite's list of
// VFSes is the process's, so the count is, too.
var serial atomic.Uint64

// Database is one state of a database that SQLite can open. Its methods may be
// called concurrently.
type Database struct {
	ctx  context.Context
	file *pages.File
	name string

	mu  sync.Mutex // protects err
	err error
}

var _ vfs.VFS = (*Database)(nil)

// Open makes the database that x describes known to SQLite until Close. Nothing
// is read yet. The name is for errors.
func Open(ctx context.Context, name string, log *history.Log, x *history.Index, o pages.Options) *Database {
	d := &Database{
		ctx:  ctx,
		file: pages.New(name, log, x, o),
		name: fmt.Sprintf("atc-history-%d", serial.Add(1)),
	}
	vfs.Register(d.name, d)
	return d
}

// URI is the file name by which SQLite opens it, also through database/sql.
func (d *Database) URI() string { return "file:database?mode=ro&immutable=1&vfs=" + d.name }

// Connect opens a connection, which the caller closes before the Database.
func (d *Database) Connect() (*sqlite3.Conn, error) {
	c, err := sqlite3.OpenFlags(d.URI(), sqlite3.OPEN_READONLY|sqlite3.OPEN_URI)
	if err != nil {
		return nil, errors.E("open", d.URI(), errors.KindOf(d.Err()), err)
	}
	return c, nil
}

// Err is the first failure of a read, with the page that it concerns. SQLite
// itself only tells that there was one.
func (d *Database) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// Close makes SQLite forget the database. Connections that are still open go on.
func (d *Database) Close() { vfs.Unregister(d.name) }

// Open opens the one file there is; SQLite's temporary files go where they
// always go.
func (d *Database) Open(name string, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	if name == "" || flags&vfs.OPEN_DELETEONCLOSE != 0 {
		return vfs.Find("").Open(name, flags)
	}
	if flags&vfs.OPEN_MAIN_DB == 0 {
		return nil, flags, sqlite3.CANTOPEN
	}
	return file{d}, flags&^vfs.OPEN_READWRITE | vfs.OPEN_READONLY, nil
}

// Delete refuses.
func (d *Database) Delete(string, bool) error { return sqlite3.IOERR_DELETE }

// Access tells that nothing stands beside the database.
func (d *Database) Access(string, vfs.AccessFlag) (bool, error) { return false, nil }

// FullPathname is the name itself: there are no folders.
func (d *Database) FullPathname(name string) (string, error) { return name, nil }

// note keeps the first failure.
func (d *Database) note(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.err = err
	}
}
