package volume

import (
	"slices"
	"strings"

	"atc/fs/bucket"
	"atc/fs/database"
)

// This file defines what a volume tells about itself.

// Stat is a volume at one moment.
type Stat struct {
	Machine, Session string
	Cache, Store     string
	Bucket           bucket.Counts // since the volume was opened
	Lease            error         // why nothing may be served now; nil if it may
	Tenants          []TenantStat
	Lost             []Lost
}

// TenantStat is one tenant that was used in this run.
type TenantStat struct {
	ID           string
	State        string // unopened, open, suspended or fenced
	Epoch        uint64
	Opening      Opening // zero while it is not open
	Bucket       bucket.Counts
	Files        int  // plain files, folders and symlinks that the bucket's index names
	PendingFiles int  // plain files that were written and are not in the bucket
	Pending      bool // names or the record are not in the bucket
	Databases    []DatabaseStat
}

// DatabaseStat is one database of a tenant.
type DatabaseStat struct {
	Path   string
	Open   bool
	Bucket bucket.Counts
	// Arrived says that the database was opened with its tenant, whose Opening
	// belongs to it: its index was loaded while the tenant was taken.
	Arrived bool
	// LocalOnly says that nothing of it is shipped, since a pattern says so.
	LocalOnly bool
	database.Stat
}

// RoundTrips is how many requests it took one after the other from the wish for
// the database to its first page: the record, the tenant's taking with the index
// beside it, and what the page cost.
func (d DatabaseStat) RoundTrips() int {
	if d.Arrived {
		return 1 + d.Cold.RoundTrips
	}
	return d.Cold.RoundTrips
}

// Stat tells about all tenants that were used in this run, or about the one
// whose ID is given.
func (v *Volume) Stat(id string) Stat {
	s := Stat{
		Machine: v.machine, Session: v.session, Cache: v.opts.Cache, Store: v.opts.Bucket.URL(),
		Bucket: v.counters.Snapshot(), Lease: v.lease.Check(),
	}
	for _, l := range v.Lost() {
		if id == "" || l.ID == id {
			s.Lost = append(s.Lost, l)
		}
	}
	for _, t := range v.all() {
		if id == "" || t.id == id {
			s.Tenants = append(s.Tenants, t.stat())
		}
	}
	slices.SortFunc(s.Tenants, func(a, b TenantStat) int { return strings.Compare(a.ID, b.ID) })
	return s
}

func (t *Tenant) stat() TenantStat {
	t.mu.Lock()
	defer t.mu.Unlock()
	written := 0
	for _, c := range t.inodes.known {
		if c.touched {
			written++
		}
	}
	s := TenantStat{
		ID: t.id, State: "unopened", Bucket: t.counters.Snapshot(),
		Files:        len(t.files.index.Entries),
		PendingFiles: written, Pending: t.changed || t.files.pending() || t.treeShip.busy || t.largeShip.busy,
	}
	if t.held != nil {
		s.State, s.Epoch, s.Opening = "open", t.epoch, t.opening
	}
	switch {
	case t.lost != nil:
		s.State = "fenced"
	case t.suspended:
		s.State = "suspended"
	}
	for path, e := range t.databases {
		d := DatabaseStat{Path: path, Bucket: e.counters.Snapshot()}
		if e.db != nil {
			d.Open, d.Arrived, d.Stat = true, e.arrived, e.db.Stat()
		} else {
			d.TXID, d.PageSize, d.Pages = e.record.TXID, e.record.PageSize, e.record.Pages
		}
		s.Databases = append(s.Databases, d)
	}
	s.Databases = append(s.Databases, t.localStats()...)
	slices.SortFunc(s.Databases, func(a, b DatabaseStat) int { return strings.Compare(a.Path, b.Path) })
	return s
}

// Shipped reports whether the bucket holds everything that was committed in a
// tenant until now.
func (v *Volume) Shipped(id string) bool {
	v.mu.Lock()
	t := v.tenants[id]
	v.mu.Unlock()
	if t == nil {
		return true
	}
	for _, e := range t.entries() {
		t.mu.Lock()
		db := e.db
		t.mu.Unlock()
		if db == nil {
			continue
		}
		if db.Tick() != nil {
			return false
		}
		if s := db.Stat(); s.PendingPages > 0 || s.InFlight || s.TXID == 0 || len(s.Degraded) > 0 {
			return false
		}
	}
	if !t.recording.TryLock() {
		return false // the record is on its way
	}
	t.recording.Unlock()
	return !t.stat().Pending
}
