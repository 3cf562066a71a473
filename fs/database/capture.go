package database

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"

	"atc/fs/errors"
	"atc/fs/journal"
)

// This file defines the moments at which commits are taken into the spool. Each
// names the fact about SQLite that makes the moment safe. capturewal.go,
// capturerollback.go and capturecompare.go define the three ways of taking.

// WALSync captures inside a sync of the "-wal", before it returns. A checkpoint
// in synchronous=NORMAL or FULL syncs the log before it copies anything into
// the database, and a log restarts only after a checkpoint has copied every
// frame: so no frame that was taken here can be lost to a restart. Where the spool
// has no room for them it waits. The log grows no further meanwhile: the kernel
// writes nothing to a file that is being synced (fs/fuse/file.c, fuse_fsync).
func (db *DB) WALSync(ctx context.Context) error {
	ctx, cancel := db.commitLimit(ctx)
	defer cancel()
	for {
		left, err := db.syncWAL()
		if err != nil {
			return db.captureError("sync of the log", err)
		}
		if !left {
			return nil
		}
		if err := db.awaitRoom(ctx); err != nil {
			return db.captureError("sync of the log", err)
		}
	}
}

// syncWAL takes what there is room for, and reports whether that was not all.
func (db *DB) syncWAL() (left bool, err error) {
	db.capture.Lock()
	defer db.capture.Unlock()
	left, err = db.captureWAL(db.room())
	if err == nil && !left {
		db.wal.synced = db.wal.frame
	}
	return left, err
}

// WALCut captures before a "-wal" is truncated. Whoever does that has the log to
// itself.
func (db *DB) WALCut(ctx context.Context) error { return db.WALSync(ctx) }

// WALEnd captures before a "-wal" is removed, which only the last connection
// does. The next log begins with salts that have nothing to do with it.
func (db *DB) WALEnd(ctx context.Context) error {
	if err := db.WALSync(ctx); err != nil {
		return err
	}
	db.capture.Lock()
	defer db.capture.Unlock()
	if len(db.wal.redo) > 0 {
		db.compare = takenBack
	}
	db.wal = walPosition{}
	return nil
}

// JournalEnd captures before a rollback journal is removed, truncated or zeroed:
// that is SQLite's commit point, and the writer holds its exclusive lock, so
// that the file stands still. A rollback ends its journal in the same way and
// leaves pages as they were, which is harmless.
func (db *DB) JournalEnd(ctx context.Context) error {
	return db.commitJournal(ctx, "end of the journal")
}

// commitJournal takes what was written since the last time, once the spool has
// room, and with durability = "commit" waits for the bucket.
func (db *DB) commitJournal(ctx context.Context, when string) error {
	ctx, cancel := db.commitLimit(ctx)
	defer cancel()
	if err := db.captureJournal(ctx); err != nil {
		return db.captureError(when, err)
	}
	return db.confirmed(ctx)
}

func (db *DB) captureJournal(ctx context.Context) error {
	for {
		db.capture.Lock()
		if db.room() > 0 || db.compare == "" && !db.hasDirty() {
			defer db.capture.Unlock()
			return db.captureRollback(ctx)
		}
		db.capture.Unlock()
		if err := db.awaitRoom(ctx); err != nil {
			return err
		}
	}
}

// Sync captures inside a sync of the database itself where no journal is in
// force: with journal_mode OFF or MEMORY it is the last thing of a commit. In
// WAL mode it ends a checkpoint and has nothing to take.
func (db *DB) Sync(ctx context.Context) error {
	db.syncedAt.Store(db.modified())
	was := db.walMode.Load()
	if h, ok := db.readHeader(); !ok || was && h.WAL || db.journalActive() {
		return nil
	}
	if !db.direct.Load() && !db.hasDirty() {
		return nil
	}
	return db.commitJournal(ctx, "sync of the database")
}

// Idle captures when the last handle on the database and its sidecars was
// closed: nobody can be in the middle of anything, unless a journal was left
// for SQLite to roll back. Nobody is there who could wait, so that it takes all,
// whether the spool has room or not.
func (db *DB) Idle() error {
	db.gate.Lock()
	defer db.gate.Unlock()
	if db.Users() > 0 {
		return nil // somebody has come; the next to leave captures
	}
	return db.captureUnused()
}

// captureUnused takes what is left when nobody can write any more.
func (db *DB) captureUnused() error {
	db.capture.Lock()
	defer db.capture.Unlock()
	_, err := db.captureWAL(noLimit)
	db.wal.synced = db.wal.frame
	if len(db.wal.redo) > 0 && db.compare == "" {
		db.compare = takenBack
	}
	if err == nil && !db.journalActive() && (db.compare != "" || db.hasDirty() || db.leftWALUnseen()) {
		err = db.captureRollback(context.Background())
	}
	if err != nil {
		return db.captureError("close", err)
	}
	return nil
}

// Tick captures what was committed to the log since the last time. It is called
// once per ship interval while the database is in use. What the spool has no room
// for stays in the log.
func (db *DB) Tick() error {
	db.capture.Lock()
	defer db.capture.Unlock()
	if _, err := db.captureWAL(db.room()); err != nil {
		return db.captureError("tick", err)
	}
	return nil
}

// takenBack is why a database is compared of which something was captured that
// the log does not hold any more, and nothing was committed since.
const takenBack = "the log ended after commits that were taken back"

// firstCapture is why a database that the bucket does not know is compared with
// it: transaction 1 holds every page.
const firstCapture = "first capture"

// leftWALUnseen reports whether a database whose writes are passed through is in
// WAL mode no more: what it was written since, nobody saw.
func (db *DB) leftWALUnseen() bool {
	h, ok := db.readHeader()
	return db.wasDirect.Load() && ok && !h.WAL
}

func (db *DB) captureError(when string, err error) error {
	db.stats.captureFailures.Add(1)
	return errors.E("capture at "+when, db.opts.Name, errors.Other, err)
}

func (db *DB) hasDirty() bool {
	db.mu.RLock()
	defer db.mu.RUnlock()
	return len(db.dirty) > 0
}

// takeDirty returns the pages written since the last capture and forgets them.
func (db *DB) takeDirty() map[uint32]struct{} {
	db.mu.Lock()
	defer db.mu.Unlock()
	taken := db.dirty
	db.dirty = make(map[uint32]struct{})
	return taken
}

// captureRollback takes the pages that were written to the database. What was
// written is known from the writes, not from the journal: a page that SQLite
// takes from its free list is overwritten without having been journaled. It
// compares the whole file instead where the writes were not seen: at the first
// capture, after an unclean end, or when the kernel passed them through.
func (db *DB) captureRollback(ctx context.Context) error {
	h, ok := db.readHeader()
	if !ok {
		db.compare = ""
		return nil // not a database yet, or emptied
	}
	switch {
	case db.index.TXID() == 0 && db.spool.empty() && db.flying == nil:
		db.compare = firstCapture
	case (db.direct.Load() || db.leftWALUnseen()) && db.compare == "":
		db.compare = "written past us: journal mode changed while the log was passed through"
	case h.PageSize != db.pageSize:
		db.compare = "page size changed"
	}
	if db.compare != "" {
		err := db.captureCompare(ctx, db.written)
		if errors.Retryable(err) {
			return nil // the bucket is away: the application goes on, and db.compare stands
		}
		return err
	}
	dirty := db.takeDirty()
	if err := db.spoolFilePages(dirty, h.PageSize); err != nil {
		db.mu.Lock()
		for page := range dirty {
			db.dirty[page] = struct{}{}
		}
		db.mu.Unlock()
		return err
	}
	return nil
}

// spoolFilePages takes the given pages from the local file into the spool, as
// one commit of the file's present size.
func (db *DB) spoolFilePages(pages map[uint32]struct{}, pageSize int) error {
	if len(pages) == 0 {
		return nil
	}
	size, err := db.filePages(pageSize)
	if err != nil {
		return err
	}
	defer db.spool.discard() // what an error has left
	taken := make(map[uint32]int64, len(pages))
	data := make([]byte, pageSize)
	lock := journal.LockPage(pageSize)
	for page := range pages {
		if page > size || page == lock {
			continue
		}
		if err := db.readLocal(page, data); err != nil {
			return err
		}
		if taken[page], err = db.spool.write(data); err != nil {
			return err
		}
	}
	db.commitSpool(taken, size)
	return nil
}

// readLocal reads a page of the local file; what lies behind its end is zero.
func (db *DB) readLocal(page uint32, data []byte) error {
	n, err := db.file.ReadAt(data, int64(page-1)*int64(len(data)))
	if err != nil && err != io.EOF {
		return fmt.Errorf("read page %d: %w", page, err)
	}
	clear(data[n:])
	return nil
}

// filePages is the local file's size in pages.
func (db *DB) filePages(pageSize int) (uint32, error) {
	info, err := db.file.Stat()
	if err != nil {
		return 0, fmt.Errorf("size of the local file: %w", err)
	}
	pages := (info.Size() + int64(pageSize) - 1) / int64(pageSize)
	// Some filesystems compress; none of them so much that a database passes for
	// a hole.
	const mostCompression = 64
	written := mostCompression * info.Sys().(*syscall.Stat_t).Blocks * 512 / int64(pageSize)
	db.mu.RLock()
	missing := int64(db.present.limit)
	db.mu.RUnlock()
	if pages > missing+written+maxUnwritten {
		return 0, tooSparse(db.opts.Name, pages, missing+written)
	}
	return uint32(pages), nil
}

// maxUnwritten is how many pages a database may grow by without anybody having
// written them. SQLite leaves out some; a program that cuts a file to a size of
// its fancy, or forges a log, would have us ship as many zeros.
const maxUnwritten = 1 << 20

func tooSparse(name string, pages, known int64) error {
	return errors.E("capture", name, errors.Corrupt, fmt.Errorf("it claims %d pages, of which at most %d were ever written", pages, known))
}

func (db *DB) commitSpool(pages map[uint32]int64, size uint32) {
	if db.spool.empty() {
		db.spool.since = db.opts.Now()
	}
	db.spool.commit(pages, size)
}

// openSidecar opens a sidecar for reading; nil if there is none.
func (db *DB) openSidecar(role journal.Sidecar) (*os.File, error) {
	f, err := db.opts.Root.Open(db.sidecar(role))
	if os.IsNotExist(err) {
		return nil, nil
	}
	return f, err
}
