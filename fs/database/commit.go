package database

import (
	"context"
	stderrors "errors"
	"fmt"
	"os"
	"time"

	"atc/fs/errors"
	"atc/fs/journal"
)

// This file defines durability = "commit": the operation by which SQLite commits
// returns only when the bucket holds what it committed. For a rollback journal
// that is the journal's end. For a log it is the write that completes a commit
// frame, which comes before the log's index publishes it, so that no reader sees
// a commit that the bucket has not.
//
// Where the bucket does not confirm in time the operation fails, and SQLite
// undoes the transaction. Whether the bucket has it is unknown then; the pages
// concerned are shipped again with the next transaction, so that the history
// comes to match the file.

// commitPause is between two attempts to ship what a commit waits for.
const commitPause = 200 * time.Millisecond

// LogWritten is called after a write to the "-wal" at which length bytes
// arrived at off. When that completes a commit it waits for the bucket.
func (db *DB) LogWritten(off, length int64) error {
	if !db.opts.Commit {
		return nil
	}
	began, err := db.captureCommit(off + length)
	if err != nil {
		return db.captureError("commit to the log", err)
	}
	if began == 0 {
		return nil
	}
	if err := db.confirm(); err != nil {
		// SQLite overwrites these frames, but should it be killed first, its
		// recovery must not find them.
		return errors.E("commit", db.opts.Name, errors.Other, stderrors.Join(err, db.voidFrame(began)))
	}
	return nil
}

// captureCommit takes the transaction whose commit frame became whole by a write
// that ended at the given offset of the log, and returns where that frame
// begins; 0 where none did. SQLite writes a frame's header and then its page;
// where a transaction has spilled into the log and changed the same pages again,
// it writes the headers anew in the end (wal.c, walRewriteChecksums), and the
// last of them is what commits.
func (db *DB) captureCommit(end int64) (frame int64, err error) {
	db.capture.Lock()
	defer db.capture.Unlock()
	f, err := db.openSidecar(journal.WAL)
	if f == nil || err != nil {
		return 0, err
	}
	defer f.Close()
	var b [journal.WALHeaderSize]byte
	if n, _ := f.ReadAt(b[:], 0); n < len(b) {
		return 0, nil
	}
	h, ok := journal.ParseWALHeader(b[:])
	if !ok || end <= journal.WALHeaderSize {
		return 0, nil
	}
	n := uint32((end - journal.WALHeaderSize) / int64(h.PageSize+journal.FrameHeaderSize))
	again := h.FrameOffset(n+1)+journal.FrameHeaderSize == end
	switch {
	case again:
		n++
	case n == 0 || h.FrameOffset(n+1) != end:
		return 0, nil
	}
	var header [journal.FrameHeaderSize]byte
	if _, err := f.ReadAt(header[:], h.FrameOffset(n)); err != nil {
		return 0, fmt.Errorf("read log: %w", err)
	}
	if header == ([journal.FrameHeaderSize]byte{}) {
		// The header came before, so this is the rest of a write that failed:
		// the kernel had split it.
		return 0, errors.E("commit", db.opts.Name, errors.Unavailable, fmt.Errorf("it was taken back"))
	}
	fr, ok, err := journal.ReadFrameHeader(f, h, n)
	if err != nil || !ok || fr.Commit == 0 {
		return 0, err
	}
	if again {
		// The first time round its page is still to come.
		if info, err := f.Stat(); err != nil || info.Size() < h.FrameOffset(n+1) {
			return 0, err
		}
	}
	if err := db.captureWAL(); err != nil {
		return 0, err
	}
	if again && db.compare == "" && db.wal.frame < n {
		return 0, nil // the page that is there is of an earlier generation of the log
	}
	if db.compare != "" {
		// The writer waits here and holds SQLite's lock for writing. What a
		// checkpoint copies meanwhile are pages that the log has, too.
		if err := db.captureCompare(db.written); err != nil {
			return 0, err
		}
	}
	return h.FrameOffset(n), nil
}

// voidFrame makes a frame of the log one that SQLite's recovery stops at.
func (db *DB) voidFrame(at int64) error {
	f, err := db.opts.Root.OpenFile(db.sidecar(journal.WAL), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("void the commit: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, journal.FrameHeaderSize), at); err != nil {
		return fmt.Errorf("void the commit: %w", err)
	}
	return nil
}

// confirmed ends a capture at a commit point: with durability = "commit" it
// waits for the bucket.
func (db *DB) confirmed() error {
	if !db.opts.Commit {
		return nil
	}
	db.capture.Lock()
	compare := db.compare
	db.capture.Unlock()
	if compare != "" {
		return errors.E("commit", db.opts.Name, errors.Unavailable, fmt.Errorf("not captured yet: %s", compare))
	}
	if err := db.confirm(); err != nil {
		return errors.E("commit", db.opts.Name, errors.Other, err)
	}
	return nil
}

// confirm ships until nothing captured is left.
func (db *DB) confirm() error {
	ctx, cancel := context.WithTimeout(db.background, db.opts.FaultTimeout)
	defer cancel()
	for {
		err := db.Flush(ctx)
		if err == nil || !errors.Retryable(err) {
			return err
		}
		select {
		case <-time.After(commitPause):
		case <-ctx.Done():
			return fmt.Errorf("the bucket did not confirm within %s: %w", db.opts.FaultTimeout, err)
		}
	}
}
