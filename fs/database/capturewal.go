package database

import (
	"fmt"
	"io"
	"maps"
	"os"

	"atc/fs/journal"
)

// This file defines the capture from a write-ahead log: the committed frames
// behind the last one taken, following salts and checksums.

// walPosition is how far one generation of the log was taken. A generation is
// what lies between two restarts; its salts name it.
type walPosition struct {
	salt   [2]uint32
	known  bool             // whether any generation was seen
	frame  uint32           // last frame taken, always one that ends a transaction
	sum    journal.Checksum // of that frame
	synced uint32           // last frame taken inside a sync

	// Where the last transaction taken begins, and whether the log's index said
	// that it was published: one that was not may be overwritten.
	start     uint32 // the frame before it
	startSum  journal.Checksum
	published bool

	// redo are pages that were taken from frames which are gone: the next
	// transaction takes them anew.
	redo  map[uint32]struct{}
	pages map[uint32]struct{}
}

// captureWAL takes the transactions that were committed to the log since the
// last time. DB.capture is held.
func (db *DB) captureWAL() error {
	f, err := db.openSidecar(journal.WAL)
	if f == nil || err != nil {
		return err
	}
	defer f.Close()
	var b [journal.WALHeaderSize]byte
	if n, _ := f.ReadAt(b[:], 0); n < len(b) {
		return nil
	}
	h, ok := journal.ParseWALHeader(b[:])
	if !ok {
		return nil
	}
	if db.pageSize != 0 && h.PageSize != db.pageSize {
		// The page size was changed where nobody saw it, or the log is not
		// SQLite's. To fail would keep the application from removing it.
		db.compare = "the log has pages of another size"
		return nil
	}
	limit, limited := db.committedFrames(h)
	if limited && db.wal.known && h.Salt == db.wal.salt && limit <= db.wal.frame {
		return nil
	}
	err = db.followWAL(f, h)
	if err != nil || db.compare != "" {
		// What the log holds now belongs on top of pages that were not
		// captured: shipping it alone would make a state that never existed.
		return err
	}
	if db.index.TXID() == 0 && db.spool.empty() && db.flying == nil {
		db.compare = firstCapture
		return nil
	}
	kept := db.spool.size
	var taken takenFrames
	if limited {
		taken, err = db.takePublished(f, h, limit)
	} else {
		taken, err = db.takeChecked(f, h)
	}
	if err != nil {
		db.spool.size = kept // a full disk is not filled further by trying again
	}
	if err != nil || taken.size == 0 {
		return err
	}
	return db.commitFrames(h, taken, limited)
}

// takenFrames are the transactions that one look at the log took into the spool.
type takenFrames struct {
	pages map[uint32]int64 // page → offset of its newest version in the spool
	size  uint32           // of the database after the last of them, in pages; 0 for none
	last  journal.Frame    // the frame that ends the last of them; without its page
	start uint32           // the frame before the last of them, as in walPosition
	sum   journal.Checksum // of that
}

// takePublished takes what the log's index says is committed. Those frames are
// whole, and the index knows their pages, so that only the newest version of each
// page is read: a log of a thousand one-row commits holds a few dozen.
func (db *DB) takePublished(f *os.File, h journal.WALHeader, limit uint32) (t takenFrames, err error) {
	first := db.wal.frame + 1
	if limit < first {
		return t, nil // a generation of which nothing is published yet
	}
	pages, err := db.indexedPages(first, limit)
	if err != nil {
		return t, err
	}
	newest := make(map[uint32]uint32) // page → frame
	for i, page := range pages {
		newest[page] = first + uint32(i)
	}
	kept := db.spool.size
	t.pages = make(map[uint32]int64, len(newest))
	frame := make([]byte, journal.FrameHeaderSize+h.PageSize)
	sound := true
	for page, n := range newest {
		read, err := f.ReadAt(frame, h.FrameOffset(n))
		if err != nil && err != io.EOF {
			return t, fmt.Errorf("read log: %w", err)
		}
		fr, ok := journal.ParseFrame(frame[:read], h, n)
		if sound = ok && fr.Page == page && len(fr.Data) == h.PageSize; !sound {
			break
		}
		if t.pages[page], err = db.spool.write(fr.Data); err != nil {
			return t, err
		}
		if n == limit {
			t.last, t.size = fr, fr.Commit
			t.last.Data = nil
		}
	}
	// A restart writes the header before it overwrites any frame.
	var b [journal.WALHeaderSize]byte
	if _, err := f.ReadAt(b[:], 0); err != nil && err != io.EOF {
		return t, fmt.Errorf("read log: %w", err)
	}
	now, ok := journal.ParseWALHeader(b[:])
	restarted := !ok || now.Salt != h.Salt // this moment; the next look sees it
	if sound = sound && t.size > 0; restarted || !sound {
		db.spool.size = kept
		if !restarted {
			db.compare = "the log's index does not say what its frames hold"
		}
		return takenFrames{}, nil
	}
	return t, nil
}

// indexedPages reads from the log's index which pages its frames hold; none where
// it does not say so.
func (db *DB) indexedPages(first, last uint32) ([]uint32, error) {
	f, err := db.openSidecar(journal.SHM)
	if err != nil {
		return nil, err
	}
	if f == nil {
		return nil, nil
	}
	defer f.Close()
	pages, err := journal.ReadWALIndexPages(f, first, last)
	if err == io.EOF {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the log's index: %w", err)
	}
	return pages, nil
}

// takeChecked takes whatever transactions follow in the log by salts and
// checksums, where its index cannot be asked.
func (db *DB) takeChecked(f *os.File, h journal.WALHeader) (t takenFrames, err error) {
	r := journal.NewWALReader(f, h, db.wal.frame, db.wal.sum)
	t.pages = make(map[uint32]int64)
	open := make(map[uint32]int64) // pages of the transaction that is being read
	begin, beginSum := db.wal.frame, db.wal.sum
	kept := db.spool.size // what lies behind belongs to a transaction that is not committed
	for {
		fr, ok, err := r.Next()
		if err != nil {
			return t, fmt.Errorf("read log: %w", err)
		}
		if !ok {
			break
		}
		if open[fr.Page], err = db.spool.write(fr.Data); err != nil {
			return t, err
		}
		if fr.Commit == 0 {
			continue
		}
		for page, off := range open {
			t.pages[page] = off
		}
		clear(open)
		kept = db.spool.size
		t.size, t.last, t.start, t.sum = fr.Commit, fr, begin, beginSum
		begin, beginSum = fr.Number, fr.Sum
	}
	db.spool.size = kept
	return t, nil
}

// commitFrames makes what was taken a commit of the spool, and moves the
// position behind it.
func (db *DB) commitFrames(h journal.WALHeader, t takenFrames, published bool) error {
	if db.pageSize == 0 {
		db.pageSize = h.PageSize
	}
	if err := db.retake(db.wal.redo, t.pages, t.size); err != nil {
		return err
	}
	at := db.wal
	at.frame, at.sum, at.start, at.startSum, at.published = t.last.Number, t.last.Sum, t.start, t.sum, published
	if at.redo = nil; at.pages == nil {
		at.pages = make(map[uint32]struct{})
	}
	for page := range t.pages {
		at.pages[page] = struct{}{}
		if page > t.size {
			delete(t.pages, page)
		}
	}
	delete(t.pages, journal.LockPage(h.PageSize))
	db.wal = at
	db.commitSpool(t.pages, t.size)
	return nil
}

// followWAL sets the position at which reading goes on. Where the log was
// rewound, since a writer died before it published its commit, the frames that
// were taken are gone: it starts the generation again and notes the pages that
// have to be taken anew.
func (db *DB) followWAL(f *os.File, h journal.WALHeader) error {
	if !db.wal.known || h.Salt != db.wal.salt {
		if db.restartedUnseen(h) {
			db.compare = "log restarted without a sync (synchronous=OFF)"
		}
		db.wal = walPosition{salt: h.Salt, known: true, sum: h.Sum}
		return nil
	}
	if db.wal.frame == 0 {
		return nil
	}
	standing, err := db.lastStands(f, h)
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	if !standing {
		redo := maps.Clone(db.wal.pages)
		maps.Copy(redo, db.wal.redo)
		db.wal = walPosition{salt: h.Salt, known: true, sum: h.Sum, redo: redo}
	}
	return nil
}

// lastStands reports whether the last transaction taken is still in the log. Of
// one that was published its last frame tells; another one is read again, since
// what overwrites it may be shorter and leave that frame where it is.
func (db *DB) lastStands(f *os.File, h journal.WALHeader) (bool, error) {
	if db.wal.published {
		fr, ok, err := journal.ReadFrameHeader(f, h, db.wal.frame)
		return ok && fr.Sum == db.wal.sum, err
	}
	r := journal.NewWALReader(f, h, db.wal.start, db.wal.startSum)
	for {
		fr, ok, err := r.Next()
		if !ok || err != nil {
			return false, err
		}
		if fr.Number == db.wal.frame {
			return fr.Sum == db.wal.sum, nil
		}
	}
}

// restartedUnseen reports whether frames of a generation before h may have been
// checkpointed and overwritten without a sync, at which they would have been
// taken. A restart counts the first salt up by one (wal.c, walRestartHdr), and a
// checkpoint that syncs the log also syncs the database behind its last write.
func (db *DB) restartedUnseen(h journal.WALHeader) bool {
	if !db.wal.known {
		// A checkpoint of an empty log counts as a restart (wal_checkpoint with
		// TRUNCATE or RESTART), and writes nothing into the database.
		return h.Sequence != 0 && db.modified() != db.syncedAt.Load()
	}
	if h.Sequence == 0 && db.wal.frame == 0 && len(db.wal.redo) == 0 {
		// A transaction that was rolled back after it had spilled into an empty
		// log leaves a header there, which the next one writes anew with other
		// salts. What never restarted was never checkpointed.
		return false
	}
	if h.Salt[0] != db.wal.salt[0]+1 || db.wal.frame > db.wal.synced {
		return true
	}
	return db.complete.Load() && db.modified() != db.syncedAt.Load()
}

// modified is the local file's time of modification in nanoseconds.
func (db *DB) modified() int64 {
	info, err := db.file.Stat()
	if err != nil {
		return 0
	}
	return info.ModTime().UnixNano()
}

// retake adds to taken the pages of redo that the log no longer has: their
// committed content is the database's own.
func (db *DB) retake(redo map[uint32]struct{}, taken map[uint32]int64, size uint32) error {
	data := make([]byte, db.pageSize)
	for page := range redo {
		if _, ok := taken[page]; ok || page > size {
			continue
		}
		if err := db.readLocal(page, data); err != nil {
			return err
		}
		off, err := db.spool.write(data)
		if err != nil {
			return err
		}
		taken[page] = off
	}
	return nil
}

// committedFrames is the last frame that the log's index in shared memory says
// is committed. It reports false where that is not known: nobody has the index
// open, or it is not passed through and the kernel may hold newer bytes of it.
func (db *DB) committedFrames(h journal.WALHeader) (uint32, bool) {
	// A commit that waits for the bucket is not published yet.
	if db.opts.Commit || !db.opts.SharedIndex || db.users[journal.SHM].Load() == 0 {
		return 0, false
	}
	f, err := db.openSidecar(journal.SHM)
	if f == nil || err != nil {
		return 0, false
	}
	defer f.Close()
	var b [journal.WALIndexSize]byte
	const tries = 8 // a writer changes it within nanoseconds
	for range tries {
		if n, _ := f.ReadAt(b[:], 0); n < len(b) {
			return 0, false
		}
		if x, ok := journal.ParseWALIndex(b[:]); ok && x.Salt == h.Salt {
			return x.MaxFrame, true
		}
	}
	return 0, false
}
