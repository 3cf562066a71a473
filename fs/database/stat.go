package database

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"atc/fs/history"
)

// This file defines what a database tells about itself.

// counters are what is counted while a database is open. Each field is
// consistent by itself only.
type counters struct {
	faults, fetchedPages, fetchedBytes, corrupt atomic.Int64
	captureFailures, shipFailures               atomic.Int64
	shippedAt                                   atomic.Int64 // nanoseconds of Unix time
	shippedPages, shippedFiles                  atomic.Int64
	compactions, expiredFiles                   atomic.Int64

	mu        sync.Mutex // protects latencies
	latencies []time.Duration
}

// latencySamples is of how many of the newest faults the latencies are known.
const latencySamples = 512

func (c *counters) faulted(d time.Duration) {
	n := c.faults.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.latencies) < latencySamples {
		c.latencies = append(c.latencies, d)
		return
	}
	c.latencies[int(n)%latencySamples] = d
}

func (c *counters) shipped(s *shipment, now time.Time) {
	c.shippedAt.Store(now.UnixNano())
	c.shippedFiles.Add(1)
	c.shippedPages.Add(int64(s.pages))
}

// percentiles returns the median and the 99th percentile of fault latencies.
func (c *counters) percentiles() (p50, p99 time.Duration) {
	c.mu.Lock()
	sorted := slices.Clone(c.latencies)
	c.mu.Unlock()
	if len(sorted) == 0 {
		return 0, 0
	}
	slices.Sort(sorted)
	return sorted[len(sorted)/2], sorted[len(sorted)*99/100]
}

// Stat is a database at one moment.
type Stat struct {
	TXID         history.TXID // last transaction that the bucket confirmed
	PageSize     int          // bytes
	Pages        uint32       // size of the local database
	Present      uint32       // of these, pages in the local file
	WAL, Direct  bool         // journal mode; whether the kernel passes the file through
	Users        int          // open handles, sidecars included
	ShippedAt    time.Time    // of the last shipment in this run; zero if none
	PendingPages int64        // captured and not confirmed, those on their way included
	PendingBytes int64
	PendingSince time.Time // of the oldest of them; zero if nothing is pending
	InFlight     bool      // a file is on its way, or its outcome is unknown
	Faults       int64     // reads that had to wait for the bucket
	FaultP50     time.Duration
	FaultP99     time.Duration
	FetchedPages int64
	FetchedBytes int64
	CorruptPages int64 // fetched and refused
	ShipFailures int64
	Compactions  int64    // runs that went well
	ExpiredFiles int64    // deleted since something compacted had replaced them for long enough
	Cold         Cold     // how it was opened
	Degraded     []string // why commits may be exposed for longer than the ship interval
	Waits        []Wait   // writers that wait for the bucket, by what for
}

// Stat tells how the database stands.
func (db *DB) Stat() Stat {
	s := Stat{
		TXID: db.index.TXID(), WAL: db.walMode.Load(), Direct: db.direct.Load(), Users: db.Users(),
		Faults: db.stats.faults.Load(), FetchedPages: db.stats.fetchedPages.Load(),
		FetchedBytes: db.stats.fetchedBytes.Load(), CorruptPages: db.stats.corrupt.Load(),
		ShipFailures: db.stats.shipFailures.Load(), Cold: db.cold.read(),
		Compactions: db.stats.compactions.Load(), ExpiredFiles: db.stats.expiredFiles.Load(),
	}
	s.Waits = db.waits.list(db.opts.SpoolLimit)
	s.FaultP50, s.FaultP99 = db.stats.percentiles()
	if at := db.stats.shippedAt.Load(); at != 0 {
		s.ShippedAt = time.Unix(0, at)
	}
	db.mu.RLock()
	s.PageSize = db.pageSize
	missing, unsynced := db.present.missing, len(db.dirty) > 0
	db.mu.RUnlock()
	if unsynced && !db.journalActive() {
		s.Degraded = append(s.Degraded, "written without a journal or a sync; captured at the next sync or when it is closed")
	}
	if s.PageSize > 0 {
		if pages, err := db.filePages(s.PageSize); err == nil {
			s.Pages = pages
		}
	}
	s.Present = s.Pages - min(missing, s.Pages)
	db.capture.Lock()
	s.InFlight = db.flying != nil
	s.PendingPages, s.PendingSince = db.pendingLocked()
	s.PendingBytes = s.PendingPages * int64(s.PageSize)
	if db.compare != "" {
		s.Degraded = append(s.Degraded, db.compare)
	}
	db.capture.Unlock()
	return s
}
