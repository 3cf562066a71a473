package database

import (
	"context"
	"fmt"
	"os"

	"atc/fs/journal"
)

// This file defines reading and writing the database's file by way of the
// daemon, while pages are missing or the header says rollback journal.

// File is the local file, for who passes it to the kernel. Reads of it are
// right only where Ensure was called before.
func (db *DB) File() *os.File { return db.file }

// WriteAt writes to the local file what the application wrote. Pages that it
// covers whole need not be fetched.
func (db *DB) WriteAt(ctx context.Context, b []byte, off int64) (int, error) {
	if err := db.fetchEdges(ctx, off, int64(len(b))); err != nil {
		return 0, err
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.pageSize == 0 && off == 0 {
		if h, ok := journal.ParseHeader(b); ok {
			db.pageSize = h.PageSize
		}
	}
	if db.pageSize > 0 && len(b) > 0 {
		size := int64(db.pageSize)
		first, last := uint32(off/size)+1, uint32((off+int64(len(b))-1)/size)+1
		// Noted before the bytes are there: should we be killed in between, a
		// journal of the application's restores the page, whereas a page that
		// counts as missing would be fetched over what it wrote.
		if err := db.present.add(first, last); err != nil {
			return 0, err
		}
		db.noteComplete()
		if !db.checkpoints() {
			for page := first; page <= last; page++ {
				db.dirty[page] = struct{}{}
			}
		}
	}
	n, err := db.file.WriteAt(b, off)
	if off == 0 {
		if h, ok := journal.ParseHeader(b[:n]); ok {
			db.walMode.Store(h.WAL)
		}
	}
	if err != nil {
		return n, fmt.Errorf("write local file: %w", err)
	}
	return n, nil
}

// checkpoints reports whether what is written to the file now can only come
// from checkpoints, of pages that are captured from the log.
func (db *DB) checkpoints() bool {
	return db.walMode.Load() && db.users[journal.WAL].Load() > 0
}

// fetchEdges makes the pages present that a write covers only in part.
func (db *DB) fetchEdges(ctx context.Context, off, length int64) error {
	if db.complete.Load() || length == 0 {
		return nil
	}
	db.mu.RLock()
	size := int64(db.pageSize)
	db.mu.RUnlock()
	if size == 0 {
		return nil
	}
	if off%size != 0 {
		if err := db.Ensure(ctx, off, 1); err != nil {
			return err
		}
	}
	if end := off + length; end%size != 0 {
		return db.Ensure(ctx, end-1, 1)
	}
	return nil
}

// Truncate sets the local file's size in bytes.
func (db *DB) Truncate(ctx context.Context, size int64) error {
	if size == 0 && db.checkpoints() {
		// No checkpoint does this: somebody copies another file over a database
		// that is in use.
		db.capture.Lock()
		db.compare = "emptied while its log was in use"
		db.capture.Unlock()
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.pageSize > 0 {
		if err := db.present.cut(uint32((size + int64(db.pageSize) - 1) / int64(db.pageSize))); err != nil {
			return err
		}
		db.noteComplete()
		if !db.checkpoints() {
			db.dirty[1] = struct{}{} // the size is captured along with any page
		}
	}
	if err := db.file.Truncate(size); err != nil {
		return fmt.Errorf("truncate local file: %w", err)
	}
	return nil
}
