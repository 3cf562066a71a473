package database

import (
	"fmt"
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
	if !db.spool.empty() && db.pageSize != 0 && h.PageSize != db.pageSize {
		return fmt.Errorf("log has pages of %d bytes, database of %d", h.PageSize, db.pageSize)
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
	if db.index.TXID() == 0 && db.spool.empty() && !db.hasInflight() {
		db.compare = firstCapture
		return nil
	}
	r := journal.NewWALReader(f, h, db.wal.frame, db.wal.sum)
	open := make(map[uint32]int64) // pages of the transaction that is being read
	var size uint32
	taken := make(map[uint32]int64)
	at, begin, beginSum := db.wal, db.wal.frame, db.wal.sum
	kept := db.spool.size // what lies behind belongs to a transaction that is not committed
	for {
		fr, ok, err := r.Next()
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		if !ok || limited && fr.Number > limit {
			break
		}
		if open[fr.Page], err = db.spool.write(fr.Data); err != nil {
			return err
		}
		if fr.Commit == 0 {
			continue
		}
		for page, off := range open {
			taken[page] = off
		}
		clear(open)
		kept = db.spool.size
		at.start, at.startSum = begin, beginSum
		size, at.frame, at.sum = fr.Commit, fr.Number, fr.Sum
		begin, beginSum = fr.Number, fr.Sum
	}
	db.spool.size = kept
	if size == 0 {
		return nil
	}
	at.published = limited
	if err := db.retake(db.wal.redo, taken, size); err != nil {
		return err
	}
	if db.wal.pages == nil {
		db.wal.pages = make(map[uint32]struct{})
	}
	for page := range taken {
		db.wal.pages[page] = struct{}{}
		if page > size {
			delete(taken, page)
		}
	}
	delete(taken, journal.LockPage(h.PageSize))
	at.pages, at.redo = db.wal.pages, nil
	db.wal = at
	if db.pageSize == 0 {
		db.pageSize = h.PageSize
	}
	db.commitSpool(taken, size)
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
		sum, ok, err := journal.FrameSum(f, h, db.wal.frame)
		return ok && sum == db.wal.sum, err
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
		return h.Sequence != 0
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
	if !db.opts.SharedIndex || db.users[journal.SHM].Load() == 0 {
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
