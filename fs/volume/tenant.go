package volume

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"atc/fs/bucket"
	"atc/fs/database"
	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/journal"
	"atc/fs/tenant"
)

// Tenant is one tenant on this machine. Its methods may be called concurrently.
// Paths are relative to the tenant's folder and use "/"; "" is the folder.
type Tenant struct {
	v        *Volume
	id       string
	dir      string // in the cache: local.json, tree/, db/, missing/
	number   uint64 // counts the Tenants of this run, so that they are shipped in turn
	counters bucket.Counters
	contents *tenant.Files

	owning     sync.Mutex // one acquisition at a time
	complained time.Time  // when a failed one was logged; protected by owning
	root       tree       // the local files, while held is set

	viewing sync.Mutex // protects view
	view    *view      // what is shown while the tenant is not ours

	mu             sync.Mutex   // protects everything below
	held           *tenant.Held // its fields are those of whoever holds recording
	epoch          uint64       // of our ownership
	unhold         func()       // lets go of the machine's lease
	opening        Opening      // what it took to get the tenant
	lost           error        // why the tenant is ours no more
	suspended      bool         // the lease had lapsed, and the record was not asked since
	lapses         int          // of the lease, while the tenant was ours
	local          localState
	databases      map[string]*entry // by path
	open           map[uint64]*File  // files with handles, by inode
	serials        map[uint64]uint64 // inode → number that the kernel knows the file by
	shown          map[string]uint64 // path → such a number, of what was shown of a view
	changed        bool              // the record does not say yet what databases says
	files          plainFiles
	inodes         *inodes              // what is known of local contents
	localDatabases map[string]bool      // paths of databases that are not shipped, as far as they were seen
	removedAt      map[string]time.Time // folder of a database that was removed → when; until the record says so
	treeShip       shipState
	largeShip      shipState
	orphans        []*entry // removed databases that somebody may still have open

	users     int           // operations under way
	used      time.Time     // when the last one ended
	leaving   chan struct{} // closed at the end of a release that is under way; nil for none
	leaveShip shipState     // the backoff of releases
	gone      bool          // this Tenant does not stand for its ID any more

	recording sync.Mutex // one write of the record at a time
	saving    sync.Mutex // one write of the file index at a time
}

// entry is a database of a tenant, whether open or not.
type entry struct {
	tenant   *Tenant
	counters bucket.Counters

	opening sync.Mutex // one opening or closing at a time

	// Protected by Tenant.mu.
	path   string
	folder string
	record tenant.Database
	db     *database.DB // nil while closed
	at     history.TXID // where an index in the bucket is known to stand; 0 to look
	wanted *wanted      // the index there, for the next opening; nil to load it
	// arrived says that the database was opened with wanted.
	arrived bool
	fresh   bool // the bucket has nothing of it
	keep    bool // the local file is of this database
	clean   bool // with keep: exactly as at the transaction at
	gone    bool // removed from the tenant
	parted  bool // with gone: what was committed until then is in the bucket
	idle    time.Time
	ship    shipState
}

func newTenant(v *Volume, id string) *Tenant {
	t := &Tenant{
		v: v, id: id, dir: filepath.Join(v.opts.Cache, "tenants", id), number: v.numbered.Add(1),
		databases: make(map[string]*entry),
		open:      make(map[uint64]*File),
		serials:   make(map[uint64]uint64),
		shown:     make(map[string]uint64),
		removedAt: make(map[string]time.Time),

		localDatabases: make(map[string]bool),
		used:           v.opts.Now(),
	}
	t.contents = tenant.NewFiles(v.bucketFor(&t.counters), id)
	t.files.init()
	t.inodes = newInodes(t.dir)
	return t
}

// ID is the tenant's ID.
func (t *Tenant) ID() string { return t.id }

func (t *Tenant) databaseDir(f string) string { return filepath.Join(t.dir, "db", f) }
func (t *Tenant) name(path string) string     { return t.id + "/" + path }

// own makes this machine the tenant's owner, if it is not yet, and lays out its
// files. Everything but looking goes through here first, between enter and
// leave. Path is what is wanted: of a database the index is fetched meanwhile.
func (t *Tenant) own(ctx context.Context, path string) error {
	t.mu.Lock()
	owned, lost := t.held != nil, t.lost
	t.mu.Unlock()
	if lost != nil {
		return lost
	}
	if owned {
		return nil
	}
	t.owning.Lock()
	defer t.owning.Unlock()
	t.mu.Lock()
	owned = t.held != nil
	t.mu.Unlock()
	if owned {
		return nil
	}
	// The caller may be interrupted at any time; taking a tenant is not left
	// half done for that.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	unhold, err := t.v.lease.Hold(ctx)
	if err == nil {
		err = t.acquire(ctx, path, unhold)
	}
	if err != nil {
		if unhold != nil {
			unhold()
		}
		t.complain(err)
		return err
	}
	return nil
}

// complain logs why the tenant cannot be opened; programs try again and again,
// and once a second is enough. Tenant.owning is held.
func (t *Tenant) complain(err error) {
	now := t.v.opts.Now()
	if now.Sub(t.complained) < time.Second {
		return
	}
	t.complained = now
	level := slog.LevelError
	if errors.Is(errors.Busy, err) {
		level = slog.LevelWarn
	}
	t.v.opts.Logger.Log(context.Background(), level, "cannot open tenant", "tenant", t.id, "err", err)
}

// newEntry makes the database that begins with the file at path. Nothing is in
// the bucket yet. Tenant.mu is held.
func (t *Tenant) newEntry(path string, inode uint64) *entry {
	e := &entry{tenant: t, path: path, folder: tenant.NewFolder(path), fresh: true, keep: true}
	e.record = tenant.Database{Folder: e.folder, Mode: 0o644}
	t.databases[path] = e
	t.local.Databases[e.folder] = localDatabase{Inode: inode}
	t.changed = true
	return e
}

// options is how the database of e is opened now. Tenant.mu is held.
func (e *entry) options() database.Options {
	t := e.tenant
	o := database.Options{
		Name:         t.name(e.path),
		Root:         t.root.Root,
		Path:         e.path,
		Dir:          t.databaseDir(e.folder),
		Log:          history.NewLog(t.v.bucketFor(&t.counters, &e.counters), tenant.DatabaseFolder(t.id, e.folder)),
		At:           e.at,
		Head:         e.record.Head,
		Epoch:        t.epoch,
		New:          e.fresh,
		Keep:         e.keep,
		Commit:       t.v.opts.Commit,
		Compaction:   t.v.compaction,
		Clean:        e.clean,
		Announce:     t.announce,
		Now:          t.v.opts.Now,
		Logger:       t.v.opts.Logger,
		FaultTimeout: t.v.opts.FaultTimeout,
		Crowded:      t.v.crowded.Load,
		SharedIndex:  t.v.passthrough.Load(),
	}
	if e.wanted != nil {
		o.Log, o.Index, o.IndexTook = e.wanted.log, e.wanted.index, e.wanted.took
	}
	return o
}

// database opens the database of e, or returns it. Whoever has a file of e in
// Tenant.open may use it; others hold e.opening.
func (e *entry) database(ctx context.Context) (*database.DB, error) {
	t := e.tenant
	t.mu.Lock()
	db := e.db
	t.mu.Unlock()
	if db != nil {
		return db, nil
	}
	e.opening.Lock()
	defer e.opening.Unlock()
	return e.openLocked(ctx)
}

// openLocked is database for who holds e.opening.
func (e *entry) openLocked(ctx context.Context) (*database.DB, error) {
	t := e.tenant
	t.mu.Lock()
	if e.db != nil || t.lost != nil {
		db, err := e.db, t.lost
		t.mu.Unlock()
		return db, err
	}
	opts := e.options()
	e.wanted, e.arrived = nil, e.wanted != nil
	t.mu.Unlock()
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, errors.E("open database", opts.Name, errors.Other, err)
	}
	db, err := database.Open(ctx, opts)
	if err != nil {
		t.mu.Lock()
		moved := e.path != opts.Path
		t.mu.Unlock()
		if moved && errors.Is(errors.NotExist, err) {
			return e.openLocked(ctx) // renamed before its file was opened
		}
		return nil, err
	}
	t.mu.Lock()
	db.Renamed(e.path) // it may have been, meanwhile
	e.db, e.idle = db, t.v.opts.Now()
	t.mu.Unlock()
	if after := t.v.opts.HydrateAfter; after >= 0 {
		db.HydrateAfter(after)
	}
	return db, nil
}

// sidecarOf returns the database that the file at path stands beside, and its
// role; nil for any other file. Tenant.mu is held.
func (t *Tenant) sidecarOf(path string) (*entry, journal.Sidecar) {
	base, role := journal.SplitSidecar(path)
	if role == journal.None {
		return nil, journal.None
	}
	return t.databases[base], role
}
