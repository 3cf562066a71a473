package database

// This file defines readahead: a read that follows another in the file is a
// scan, and while the application works through what is here the next windows
// are on their way. What is fetched ahead grows with what was read in order, so
// that a few rows cost little and a scan keeps several large reads in flight.

const (
	// streams is how many scans are followed at a time. A scan of a table reads
	// its interior pages in between, and an index may be scanned beside it.
	streams = 4
	// streamSlack is how far from where a scan stands, in bytes, a read still
	// belongs to it: the kernel asks in several threads.
	streamSlack = 512 << 10
	// maxWindow is how large a window gets, maxWindows how many are on their way.
	maxWindow  = 4 << 20
	maxWindows = 4
	// sequentialBlocks is how many index blocks a scan fetches at once: those of
	// 32 MiB at 4096 bytes a page.
	sequentialBlocks = 16
)

// stream is one scan. DB.mu protects it.
type stream struct {
	next uint32 // the page behind the last that was read
	end  uint32 // the page behind the last that was claimed
	read int64  // bytes that were read in order
	used uint64 // when, by readahead.clock
}

// readahead follows scans. DB.mu protects it.
type readahead struct {
	streams [streams]stream
	clock   uint64
	windows int // on their way
}

// find returns the stream that a read belongs to, or the one that it replaces.
func (a *readahead) find(first uint32, slack uint32) (s *stream, follows bool) {
	a.clock++
	oldest := &a.streams[0]
	for i := range a.streams {
		s := &a.streams[i]
		if s.next != 0 && first+slack >= s.next && first <= s.next+slack {
			s.used = a.clock
			return s, true
		}
		if s.used < oldest.used {
			oldest = s
		}
	}
	*oldest = stream{used: a.clock}
	return oldest, false
}

// foresee notes a read of the pages first..last, and fetches ahead of it.
func (db *DB) foresee(first, last uint32) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.touch(first, last)
	size := int64(db.pageSize)
	if int64(db.present.limit)*size <= smallDatabase || db.background.Err() != nil {
		return
	}
	s, follows := db.ahead.find(first, uint32(max(streamSlack/size, 1)))
	if !follows {
		s.next = last + 1
		return
	}
	if last+1 <= s.next {
		return // again, or an interior page of the same table
	}
	s.read += int64(last+1-first) * size
	s.next = last + 1
	s.end = max(s.end, s.next)
	for page := first; page <= min(last, db.present.limit); page++ {
		if !db.present.has(page) {
			_, end := db.neighbours(first, last)
			s.end = max(s.end, end+1) // the fault of this read fetches these
			break
		}
	}
	// Twice of what was read in order, in four windows.
	ahead := min(2*s.read, maxWindows*maxWindow)
	window := int64(minAhead)
	for window*2 <= ahead/maxWindows && window < maxWindow {
		window *= 2
	}
	for db.ahead.windows < maxWindows && s.end <= db.present.limit && int64(s.end-s.next)*size+window <= ahead {
		// What is here already needs no window.
		if db.present.has(s.end) || db.fetching[s.end] != nil {
			s.end++
			continue
		}
		end := s.end + uint32(max(window/size, 1))
		pages := db.claimLocked(s.end, end-1)
		s.end = end
		unit := 1
		if window >= 1<<20 {
			unit = sequentialBlocks
		}
		db.ahead.windows++
		db.prefetch(pages, unit, func() { db.ahead.windows-- })
	}
}
