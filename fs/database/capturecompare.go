package database

import (
	"context"
	"fmt"
	"time"

	"github.com/cespare/xxhash/v2"

	"atc/fs/errors"
	"atc/fs/journal"
)

// This file defines the capture by comparison: every page of the database as it
// stands, the log's committed frames over the file, against the hashes that the
// bucket's index has. It answers everything that was not seen when it happened,
// at the price of reading the whole local file.

// compareTimeout bounds the wait for the index's hashes.
const compareTimeout = 2 * time.Minute

// captureCompare takes every page that differs from the bucket. Pages that are
// missing locally cannot differ. DB.capture is held, and nobody may be able to
// write: the caller says why at the moment it chose. What the committed state is
// depends on that moment too, so the caller brings the view.
func (db *DB) captureCompare(ctx context.Context, committed func(journal.Header) (*view, uint32, error)) error {
	h, ok := db.readHeader()
	if !ok {
		db.compare = ""
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	if err := db.index.LoadAll(ctx); err != nil {
		return fmt.Errorf("compare with the bucket: %w", err)
	}
	resized, err := db.resize(h.PageSize)
	if err != nil {
		return err
	}
	defer func() { db.spool.discard() }() // the view, and what an error has left
	dirty := db.takeDirty()
	view, size, err := committed(h)
	if err != nil {
		return err
	}
	taken := make(map[uint32]int64)
	data := make([]byte, h.PageSize)
	lock := journal.LockPage(h.PageSize)
	for page := uint32(1); page <= size; page++ {
		if page == lock || !view.has(page) && !db.has(page) {
			continue
		}
		if err := view.page(page, data); err != nil {
			return err
		}
		// A page by which the database has grown back is another one for the
		// bucket, whatever it holds.
		_, pending := db.spool.at[page]
		if !pending && !resized && db.flying == nil && page <= db.spool.low {
			want, known, err := db.index.Hash(ctx, page)
			if err != nil {
				return fmt.Errorf("compare with the bucket: %w", err)
			}
			if known && want == xxhash.Sum64(data) {
				continue
			}
		}
		if taken[page], err = db.spool.write(data); err != nil {
			db.mu.Lock()
			db.dirty = dirty
			db.mu.Unlock()
			return err
		}
	}
	db.compare = ""
	db.wasDirect.Store(db.direct.Load())
	_, before := db.index.Size()
	if len(taken) > 0 || size != before || !db.spool.empty() {
		db.commitSpool(taken, size)
	}
	return nil
}

// has reports whether the local file holds a page.
func (db *DB) has(page uint32) bool {
	db.mu.RLock()
	defer db.mu.RUnlock()
	return db.present.has(page)
}

// resize follows a change of the page size by VACUUM, which rewrites the whole
// file: what was captured of the old one is void.
func (db *DB) resize(pageSize int) (bool, error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.pageSize == pageSize {
		was, _ := db.index.Size()
		return was != 0 && was != pageSize, nil
	}
	if db.present.missing > 0 {
		return false, fmt.Errorf("page size changed from %d to %d while %d pages were missing", db.pageSize, pageSize, db.present.missing)
	}
	db.pageSize = pageSize
	s, err := newSpool(db.opts.Dir, 0)
	if err != nil {
		return false, err
	}
	old := db.spool
	db.spool = s
	return true, old.close()
}

// written is the database as its writers have left it, and its size in pages:
// the file under the committed frames of a log. That is what is committed when a
// journal ends, or when there is none.
func (db *DB) written(h journal.Header) (*view, uint32, error) {
	v, size, err := db.committedLog(h)
	if err != nil || size > 0 {
		return v, size, err
	}
	size, err = db.filePages(h.PageSize)
	return v, size, err
}

// recovered is the database as SQLite will make it when it is opened next: where
// a journal was left in force, its transaction is undone.
func (db *DB) recovered(h journal.Header) (*view, uint32, error) {
	if db.journalActive() {
		return db.restoredByJournal(h)
	}
	return db.written(h)
}

// view is the local file with other versions of some pages over it, which were
// copied into the spool's file.
type view struct {
	db *DB
	at map[uint32]int64
}

func (v *view) has(page uint32) bool {
	_, ok := v.at[page]
	return ok
}

func (v *view) page(page uint32, data []byte) error {
	off, ok := v.at[page]
	if !ok {
		return v.db.readLocal(page, data)
	}
	if _, err := v.db.spool.file.ReadAt(data, off); err != nil {
		return fmt.Errorf("read page %d of the journal: %w", page, err)
	}
	return nil
}

// restoredByJournal is the database as SQLite will restore it from a hot
// journal.
func (db *DB) restoredByJournal(h journal.Header) (*view, uint32, error) {
	f, err := db.openSidecar(journal.Rollback)
	if err != nil || f == nil {
		return nil, 0, fmt.Errorf("open the journal: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, fmt.Errorf("open the journal: %w", err)
	}
	originals, pages, ok, err := journal.ReadRollback(f, info.Size(), h.PageSize)
	if err != nil {
		return nil, 0, fmt.Errorf("read the journal: %w", err)
	}
	if !ok {
		return nil, 0, errors.E("compare", db.opts.Name, errors.Unsupported,
			fmt.Errorf("its journal is part of a transaction over several databases: open it with SQLite once"))
	}
	v := &view{db: db, at: make(map[uint32]int64)}
	data := make([]byte, h.PageSize)
	for _, o := range originals {
		if _, err := f.ReadAt(data, o.Offset); err != nil {
			return nil, 0, fmt.Errorf("read the journal: %w", err)
		}
		if v.at[o.Page], err = db.spool.write(data); err != nil {
			return nil, 0, err
		}
	}
	return v, pages, nil
}

// committedLog reads which pages the log's committed frames hold, and the
// database's size after the last of them: 0 if there are none. It moves the
// position of the log there.
func (db *DB) committedLog(h journal.Header) (*view, uint32, error) {
	v := &view{db: db, at: make(map[uint32]int64)}
	if !h.WAL {
		return v, 0, nil
	}
	f, err := db.openSidecar(journal.WAL)
	if f == nil || err != nil {
		return v, 0, err
	}
	defer f.Close()
	var b [journal.WALHeaderSize]byte
	if n, _ := f.ReadAt(b[:], 0); n < len(b) {
		return v, 0, nil
	}
	wh, ok := journal.ParseWALHeader(b[:])
	if !ok || wh.PageSize != h.PageSize {
		return v, 0, nil
	}
	pos := walPosition{salt: wh.Salt, known: true, sum: wh.Sum, pages: make(map[uint32]struct{})}
	var size uint32
	open := make(map[uint32]int64)
	r := journal.NewWALReader(f, wh, 0, wh.Sum)
	for {
		fr, ok, err := r.Next()
		if err != nil {
			return v, 0, fmt.Errorf("read log: %w", err)
		}
		if !ok {
			break
		}
		if err := db.spool.replace(open, fr.Page, fr.Data); err != nil {
			return v, 0, err
		}
		if fr.Commit == 0 {
			continue
		}
		for page := range open {
			pos.pages[page] = struct{}{}
		}
		db.spool.merge(v.at, open)
		pos.start, pos.startSum = pos.frame, pos.sum
		size, pos.frame, pos.sum, pos.synced = fr.Commit, fr.Number, fr.Sum, fr.Number
	}
	db.wal = pos
	return v, size, nil
}
