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

// commitLimit bounds how long a commit may take that waits for the bucket: not
// much longer than FaultTimeout, whatever it waits for. A signal to the writer
// does not end it: SQLite would take that for a broken disk.
func (db *DB) commitLimit(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx = context.WithoutCancel(ctx)
	if !db.opts.Commit {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, db.opts.FaultTimeout)
}

// LogWritten is called after a write to the "-wal" at which length bytes
// arrived at off. When that completes a commit it waits for the bucket.
func (db *DB) LogWritten(ctx context.Context, off, length int64) error {
	if !db.opts.Commit {
		return nil
	}
	ctx, cancel := db.commitLimit(ctx)
	defer cancel()
	c, err := db.commitAt(off + length)
	if err != nil {
		return db.captureError("commit to the log", err)
	}
	if c == nil {
		return nil
	}
	ok, err := db.captureCommit(ctx, c)
	if err != nil {
		err = db.captureError("commit to the log", err)
	} else if ok {
		err = db.confirm(ctx)
	}
	if err != nil {
		// SQLite overwrites these frames, but should it be killed first, its
		// recovery must not find them.
		return errors.E("commit", db.opts.Name, errors.Other, stderrors.Join(err, db.voidFrame(c.offset)))
	}
	return nil
}

// logCommit is a commit frame that is whole.
type logCommit struct {
	frame  uint32
	offset int64
	again  bool // its header was written once more, and nothing else
}

// commitAt finds the commit frame that became whole by a write that ended at the
// given offset of the log; nil where none did. SQLite writes a frame's header
// and then its page; where a transaction has spilled into the log and changed
// the same pages again, it writes the headers anew in the end (wal.c,
// walRewriteChecksums), and the last of them is what commits.
func (db *DB) commitAt(end int64) (*logCommit, error) {
	f, err := db.openSidecar(journal.WAL)
	if f == nil || err != nil {
		return nil, err
	}
	defer f.Close()
	var b [journal.WALHeaderSize]byte
	if n, _ := f.ReadAt(b[:], 0); n < len(b) {
		return nil, nil
	}
	h, ok := journal.ParseWALHeader(b[:])
	if !ok || end <= journal.WALHeaderSize {
		return nil, nil
	}
	n := uint32((end - journal.WALHeaderSize) / int64(h.PageSize+journal.FrameHeaderSize))
	again := h.FrameOffset(n+1)+journal.FrameHeaderSize == end
	switch {
	case again:
		n++
	case n == 0 || h.FrameOffset(n+1) != end:
		return nil, nil
	}
	var header [journal.FrameHeaderSize]byte
	if _, err := f.ReadAt(header[:], h.FrameOffset(n)); err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	if header == ([journal.FrameHeaderSize]byte{}) {
		// The header came before, so this is the rest of a write that failed:
		// the kernel had split it.
		return nil, errors.E("commit", db.opts.Name, errors.Unavailable, fmt.Errorf("it was taken back"))
	}
	fr, ok, err := journal.ReadFrameHeader(f, h, n)
	if err != nil || !ok || fr.Commit == 0 {
		return nil, err
	}
	if again {
		// The first time round its page is still to come.
		if info, err := f.Stat(); err != nil || info.Size() < h.FrameOffset(n+1) {
			return nil, err
		}
	}
	return &logCommit{frame: n, offset: h.FrameOffset(n), again: again}, nil
}

// captureCommit takes the transaction that ends with c. It reports false where
// that does not commit yet.
func (db *DB) captureCommit(ctx context.Context, c *logCommit) (bool, error) {
	for {
		db.capture.Lock()
		if db.room() > 0 {
			break
		}
		db.capture.Unlock()
		if err := db.awaitRoom(ctx); err != nil {
			return false, err
		}
	}
	defer db.capture.Unlock()
	if _, err := db.captureWAL(noLimit); err != nil {
		return false, err
	}
	if c.again && db.compare == "" && db.wal.frame < c.frame {
		return false, nil // the page that is there is of an earlier generation of the log
	}
	if db.compare != "" {
		// The writer waits here and holds SQLite's lock for writing. What a
		// checkpoint copies meanwhile are pages that the log has, too.
		if err := db.captureCompare(ctx, db.written); err != nil {
			return false, err
		}
	}
	return true, nil
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
func (db *DB) confirmed(ctx context.Context) error {
	if !db.opts.Commit {
		return nil
	}
	db.capture.Lock()
	compare := db.compare
	db.capture.Unlock()
	if compare != "" {
		return errors.E("commit", db.opts.Name, errors.Unavailable, fmt.Errorf("not captured yet: %s", compare))
	}
	if err := db.confirm(ctx); err != nil {
		return errors.E("commit", db.opts.Name, errors.Other, err)
	}
	return nil
}

// confirm ships until nothing captured is left. The context has the commit's
// limit.
func (db *DB) confirm(ctx context.Context) error {
	defer db.waits.begin(forBucket, db.opts.Now())()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(db.background, cancel)()
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
