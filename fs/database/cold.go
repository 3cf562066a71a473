package database

import (
	"sync"
	"time"
)

// This file defines what is told about a cold opening: where its time went, and
// what it asked of the bucket.

// Cold is the breakdown of one opening up to the first page that had to be
// fetched. What did not happen is zero.
type Cold struct {
	Index      time.Duration // loading the head, or what stood in for it
	Hot        time.Duration // putting the hot pack into the local file
	HotPages   int           // how many pages that were
	FirstFault time.Duration // the first wait for a page
	Requests   int64         // of all this, to the bucket
	Bytes      int64         // that came from it
	// RoundTrips is how many of the requests were made one after the other.
	RoundTrips int
}

// coldStart collects a Cold. The fields before mu are set by Open alone.
type coldStart struct {
	index, hot time.Duration
	pages      int
	trips      int
	indexBytes int64
	requests   int64

	mu         sync.Mutex // protects what follows
	done       bool
	firstFault time.Duration
	faultTrips int
	after      func() (requests, bytes int64)
	total      [2]int64 // requests and bytes when the first fault had ended
}

// faulted notes the end of a fault; only the first counts.
func (c *coldStart) faulted(d time.Duration, trips int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done || c.after == nil {
		return
	}
	c.done, c.firstFault, c.faultTrips = true, d, trips
	c.total[0], c.total[1] = c.after()
}

func (c *coldStart) read() Cold {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Cold{
		Index: c.index, Hot: c.hot, HotPages: c.pages, FirstFault: c.firstFault,
		Requests: c.requests, Bytes: c.indexBytes, RoundTrips: c.trips + c.faultTrips,
	}
	if c.done {
		s.Requests, s.Bytes = c.total[0], c.total[1]
	}
	return s
}
