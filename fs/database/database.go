package database

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"atc/fs/bucket"
	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/journal"
)

// Options say which database is opened and from what. They are not changed
// after Open.
type Options struct {
	Name string       // "acme/main.sqlite3", for messages
	Root *os.Root     // the folder that local paths are in and cannot leave
	Path string       // of the local file, which exists; its sidecars lie beside it
	Dir  string       // folder of its own for local state, which exists
	Log  *history.Log // the database's past in the bucket
	At   history.TXID // where a head in the bucket is known to stand; 0 to look
	Head int64        // the size of that head in bytes; 0 if unknown
	// Index is the index at At, if somebody has loaded it already with Log: then
	// At and Head do not matter.
	Index *history.Index
	// IndexTook is how long that took.
	IndexTook time.Duration
	Epoch     uint64 // of the ownership, noted in what is shipped
	New       bool   // there is nothing of it in the bucket, not even to look for
	Keep      bool   // the local file is of this database, at At or with more commits
	Clean     bool   // with Keep: it is exactly the state at At
	// Announce is called before each shipment: nothing may be in the bucket that
	// the tenant's record does not name. Nil for none.
	Announce func(context.Context) error
	Now      func() time.Time
	Logger   *slog.Logger
	// Compaction says how the history is compacted; nil for never.
	Compaction *Compaction
	// SharedIndex says that the "-shm" beside Path is what the application has
	// mapped, so that the index in it can be believed.
	SharedIndex bool
	// Commit makes a commit wait for the bucket (durability = "commit"). The
	// "-wal" must not be passed through then.
	Commit bool
	// FaultTimeout bounds how long a read waits for missing pages, and a commit
	// for the bucket; 30 s by default.
	FaultTimeout time.Duration
	// HydrateBudget bounds what the background fetches, in bytes of pages per
	// second; 0 for no bound but that of the reads under way.
	HydrateBudget int64
	// Crowded says that the local disk has no room for what nobody asked for: the
	// background waits. Nil for never.
	Crowded func() bool
}

// DB is one open database. Its methods may be called concurrently, save Close.
type DB struct {
	opts  Options
	file  *os.File
	index *history.Index

	// mu protects the local file's pages against a fault that arrives while the
	// application writes the same page, and what is known of them.
	mu       sync.RWMutex
	path     string
	present  *presence
	pageSize int                 // 0 until the file has a header
	dirty    map[uint32]struct{} // pages written since the last capture, outside of checkpoints
	fetching map[uint32]chan struct{}
	ahead    readahead
	kin      kin
	touched  []uint32 // the first pages that were asked for, while some were missing

	faulting atomic.Int32 // reads that wait for the bucket
	cold     coldStart

	complete atomic.Bool // no page is missing
	walMode  atomic.Bool // the file's header says so
	direct   atomic.Bool // the kernel writes the file without us
	// wasDirect says that the kernel did so since the last comparison.
	wasDirect atomic.Bool
	syncedAt  atomic.Int64 // the local file's time of modification at its last sync, in nanoseconds
	fetched   fetchWrites
	users     [4]atomic.Int32 // open handles by journal.Sidecar; None is the database itself

	// gate keeps new users out while Idle looks at a database that nobody uses.
	gate sync.RWMutex

	// capture protects the spool and what of the journals is in it.
	capture sync.Mutex
	spool   *spool
	flying  *spool // what a shipment that is under way was made of, closed; nil for none
	wal     walPosition
	compare string // why the whole file must be compared, if it must

	shipping sync.Mutex // one shipment at a time, in order
	inflight *shipment  // protected by shipping

	compacting atomic.Bool        // a compaction runs, which uses compacted
	compacted  history.Compaction // the last one

	background context.Context // ends with Close
	stop       context.CancelFunc
	work       sync.WaitGroup

	stats counters
}

// Open opens a database. Unless opts.Keep, whatever the local file holds is
// forgotten. What it finds in the local file and not in the bucket is captured
// before it returns.
func Open(ctx context.Context, opts Options) (_ *DB, err error) {
	if opts.FaultTimeout == 0 {
		opts.FaultTimeout = 30 * time.Second
	}
	db := &DB{
		opts: opts, path: opts.Path,
		dirty:    make(map[uint32]struct{}),
		fetching: make(map[uint32]chan struct{}),
	}
	defer func() {
		if err != nil {
			db.stop()
			db.closeFiles()
			err = errors.E("open database", opts.Name, errors.Other, err)
		}
	}()
	db.background, db.stop = context.WithCancel(context.WithoutCancel(ctx))
	if err := db.loadIndex(ctx); err != nil {
		return nil, err
	}
	if db.file, err = opts.Root.OpenFile(opts.Path, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	pageSize, pages := db.index.Size()
	if db.present, err = openPresence(filepath.Join(opts.Dir, "present"), pages); err != nil {
		return nil, err
	}
	db.pageSize = pageSize
	if opts.Keep {
		db.index.DropHot()
	} else if err := db.startCold(pageSize, pages); err != nil {
		return nil, err
	}
	if db.spool, err = newSpool(opts.Dir, pages); err != nil {
		return nil, err
	}
	db.noteComplete()
	db.syncedAt.Store(db.modified())
	if pages > 0 {
		if err := db.learnMode(ctx); err != nil {
			return nil, err
		}
	}
	if opts.Keep {
		if err := db.resume(); err != nil {
			return nil, err
		}
	}
	return db, nil
}

// loadIndex takes the index that somebody has loaded, or loads it.
func (db *DB) loadIndex(ctx context.Context) (err error) {
	before, began := db.opts.Log.Counts(), time.Now()
	if db.opts.Index != nil {
		before, began = bucket.Counts{}, began.Add(-db.opts.IndexTook)
	}
	switch {
	case db.opts.New:
		db.index = history.NewIndex()
	case db.opts.Index != nil:
		db.index = db.opts.Index
	default:
		db.index, err = db.opts.Log.Load(ctx, db.opts.At, db.opts.Head)
	}
	db.cold.index = time.Since(began)
	used := db.opts.Log.Counts().Sub(before)
	db.cold.requests, db.cold.indexBytes, db.cold.trips = used.Requests(), used.BytesIn, int(used.Requests())
	db.cold.after = func() (int64, int64) {
		used := db.opts.Log.Counts().Sub(before)
		return used.Requests(), used.BytesIn
	}
	if err == nil {
		db.compacted.At = db.index.TXID()
	}
	return err
}

// startCold makes the local file a hole of the database's size, with the hot
// pack's pages in it.
func (db *DB) startCold(pageSize int, pages uint32) error {
	for _, role := range []journal.Sidecar{journal.WAL, journal.SHM, journal.Rollback} {
		if err := db.opts.Root.Remove(db.path + role.Suffix()); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("remove stale sidecar: %w", err)
		}
	}
	if err := db.file.Truncate(0); err != nil {
		return fmt.Errorf("empty the local file: %w", err)
	}
	if err := db.present.reset(pages); err != nil {
		return err
	}
	if err := db.file.Truncate(int64(pageSize) * int64(pages)); err != nil {
		return fmt.Errorf("size the local file: %w", err)
	}
	began := time.Now()
	err := db.installHot()
	db.cold.hot = time.Since(began)
	return err
}

// resume takes up a local file that was kept. Unless it was left cleanly it may
// hold commits that the bucket has not.
func (db *DB) resume() error {
	h, ok := db.readHeader()
	db.capture.Lock()
	defer db.capture.Unlock()
	if db.opts.Clean {
		if !ok {
			return nil
		}
		_, _, err := db.committedLog(h) // what the log holds was shipped
		return err
	}
	db.compare = "the last run did not end cleanly"
	err := db.captureCompare(db.recovered)
	if errors.Is(errors.Unsupported, err) {
		return nil // SQLite recovers it; the end of its journal compares
	}
	return err
}

// learnMode reads the header, so that the journal mode is known before the
// first handle is opened.
func (db *DB) learnMode(ctx context.Context) error {
	if err := db.Ensure(ctx, 0, journal.HeaderSize); err != nil {
		return err
	}
	db.readHeader()
	return nil
}

// readHeader takes page size and journal mode from the local file.
func (db *DB) readHeader() (journal.Header, bool) {
	var b [journal.HeaderSize]byte
	if _, err := db.file.ReadAt(b[:], 0); err != nil {
		return journal.Header{}, false
	}
	h, ok := journal.ParseHeader(b[:])
	if ok {
		db.walMode.Store(h.WAL)
		db.mu.Lock()
		if db.pageSize == 0 {
			db.pageSize = h.PageSize
		}
		db.mu.Unlock()
	}
	return h, ok
}

// noteComplete remembers that no page is missing, once it is so.
func (db *DB) noteComplete() {
	if db.present.missing == 0 {
		db.complete.Store(true)
	}
}

// Complete reports whether every page is in the local file.
func (db *DB) Complete() bool { return db.complete.Load() }

// WALMode reports whether the database's header says WAL.
func (db *DB) WALMode() bool { return db.walMode.Load() }

// SetDirect says whether the kernel passes reads and writes of the database
// through to the local file, so that ReadAt and WriteAt are not called.
func (db *DB) SetDirect(on bool) {
	db.direct.Store(on)
	if on {
		db.wasDirect.Store(true)
	}
}

// Enter waits until nothing is captured on the assumption that nobody uses the
// database, and keeps it so until the returned function is called. A new user is
// counted in between.
func (db *DB) Enter() (leave func()) {
	db.gate.RLock()
	return db.gate.RUnlock
}

// Opened and Released count the handles on the database (journal.None) and its
// sidecars. Released returns how many of any role are left.
func (db *DB) Opened(role journal.Sidecar) { db.users[role].Add(1) }

// Released is the counterpart of Opened.
func (db *DB) Released(role journal.Sidecar) int {
	db.users[role].Add(-1)
	return db.Users()
}

// Users is how many handles are open on the database and its sidecars.
func (db *DB) Users() int {
	n := int32(0)
	for i := range db.users {
		n += db.users[i].Load()
	}
	return int(n)
}

// Renamed tells the database where its local file lies now.
func (db *DB) Renamed(path string) {
	db.mu.Lock()
	db.path = path
	db.mu.Unlock()
}

func (db *DB) sidecar(role journal.Sidecar) string {
	db.mu.RLock()
	defer db.mu.RUnlock()
	return db.path + role.Suffix()
}

// Position is the last transaction that the bucket is known to hold, and the
// database's size there.
func (db *DB) Position() (txid history.TXID, pageSize int, pages uint32) {
	pageSize, pages = db.index.Size()
	return db.index.TXID(), pageSize, pages
}

// Close captures and ships what is left, leaves an index for the next opening
// in the bucket, and closes the local files. When it cannot ship, it says so
// and the local file remains the only copy.
func (db *DB) Close(ctx context.Context) error {
	db.stop()
	db.work.Wait()
	err := db.captureUnused()
	if err == nil {
		err = db.uncompared()
	}
	if err == nil {
		err = db.Flush(ctx)
	}
	if err == nil {
		err = db.saveIndex(ctx)
	}
	if syncErr := db.syncLocal(); err == nil {
		err = syncErr
	}
	if closeErr := db.closeFiles(); err == nil {
		err = closeErr
	}
	if err != nil {
		return errors.E("close database", db.opts.Name, errors.Other, err)
	}
	return nil
}

// uncompared fails while the file may hold commits that were not captured: a
// database that is closed so must not count as clean.
func (db *DB) uncompared() error {
	db.capture.Lock()
	defer db.capture.Unlock()
	if db.compare == "" {
		return nil
	}
	kind := errors.Unavailable // the bucket did not answer; the next opening compares
	if db.journalActive() {
		kind = errors.Unsupported // SQLite has to recover it first
	}
	return errors.E("compare", db.opts.Name, kind, fmt.Errorf("still to do: %s", db.compare))
}

// Abandon closes a database that was removed, without shipping what is left.
func (db *DB) Abandon() error {
	db.stop()
	db.work.Wait()
	return db.closeFiles()
}

// syncLocal makes the local file survive a loss of power, so that the next run
// may trust it.
func (db *DB) syncLocal() error {
	if err := db.file.Sync(); err != nil {
		return fmt.Errorf("sync local file: %w", err)
	}
	if err := db.present.file.Sync(); err != nil {
		return fmt.Errorf("sync presence map: %w", err)
	}
	return nil
}

func (db *DB) closeFiles() error {
	var err error
	if db.file != nil {
		err = db.file.Close()
	}
	if db.present != nil {
		if e := db.present.close(); err == nil {
			err = e
		}
	}
	if db.spool != nil {
		if e := db.spool.close(); err == nil {
			err = e
		}
	}
	return err
}
