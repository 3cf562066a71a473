package history

import "time"

// This file defines when files are merged, and for how long they stay. All of it
// is in one place, because the numbers depend on each other.

// Policy says how a history is compacted. Level 0 has one file a commit, level 1
// one a Window1, level 2 one a Window2, level 9 snapshots. Start from
// DefaultPolicy. It must not change while it is in use.
type Policy struct {
	// Window1 and Window2 are how far apart the points are that can be restored
	// once single commits, and then Window1's files, are gone. 5 minutes and an
	// hour: what the design promises for a day and for 30 days. Window2 has to be
	// a multiple of Window1.
	Window1, Window2 time.Duration

	// Keep0, Keep1 and Keep2 are how long a file of the level stays at least
	// after the file that replaces it was put. 1 hour, 24 hours, 30 days. Keep0
	// also has to be longer than any upload can be on its way, because a level-0
	// file is what a former owner's upload collides with.
	Keep0, Keep1, Keep2 time.Duration

	// Grace is the longest that anybody reads by an index that still names a
	// replaced file; no file goes earlier, whatever Keep0 to Keep2 say. 15
	// minutes: a whole copy of a database of some GiB.
	Grace time.Duration

	// SnapshotRatio asks for a snapshot when the files behind the last one have
	// so many times its bytes. 1: a restore reads at most about twice the
	// database, and snapshots at most double what is written.
	SnapshotRatio float64

	// SnapshotFiles asks for one when so many files of level 1 and above are
	// behind the last. 128: `litestream restore` opens them all at once, and a
	// file of level 2 can only go when a snapshot covers it.
	SnapshotFiles int

	// SnapshotEvery is the time between two snapshots at least, whatever is
	// written. 24 hours: each stays for Keep2, so that there are about 31.
	SnapshotEvery time.Duration

	// Every is how many transactions have to come before it is worth looking
	// for something to do. 64: a listing then costs a 64th of the uploads.
	Every int

	// Dir is where scratch files are made, as large as the files behind the
	// last snapshot plus a snapshot. Empty for the system's temporary folder.
	Dir string
}

// DefaultPolicy is what is right for most.
func DefaultPolicy() Policy {
	return Policy{
		Window1: 5 * time.Minute, Window2: time.Hour,
		Keep0: time.Hour, Keep1: 24 * time.Hour, Keep2: 30 * 24 * time.Hour,
		Grace:         15 * time.Minute,
		SnapshotRatio: 1, SnapshotFiles: 128, SnapshotEvery: 24 * time.Hour,
		Every: 64,
	}
}

// keep is how long a file of a level stays after its replacement was put.
func (p Policy) keep(level int) time.Duration {
	switch level {
	case 0:
		return max(p.Keep0, p.Grace)
	case 1:
		return max(p.Keep1, p.Grace)
	default:
		return max(p.Keep2, p.Grace)
	}
}

// Compaction is what a call of Compact has done.
type Compaction struct {
	At       TXID      // of the index at that time
	Next     time.Time // before this there is nothing new to do
	Outputs  []FileRef // files that were put, or found to have been put already
	Snapshot TXID      // of the snapshot among them; 0 for none
}

// Due reports whether it is worth calling Compact again, without any request.
// at is the index's transaction now. A database that has just been opened begins
// with a Compaction whose At is the index's transaction then, and nothing else.
func (c Compaction) Due(p Policy, at TXID, now time.Time) bool {
	every := TXID(max(p.Every, 1))
	return at/every != c.At/every && !now.Before(c.Next)
}
