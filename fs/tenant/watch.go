package tenant

import (
	"context"
	"fmt"
	"sync"
	"time"

	"atc/fs/bucket"
	"atc/fs/errors"
)

// This file defines how other machines are judged: whether the owner that a
// record names can still be alive. No clocks of two machines are compared: what
// counts is for how long a heartbeat did not change on our clock, or its age by
// the store's own.

const (
	// readPause is how long the last look at a heartbeat is good for everybody.
	readPause = 500 * time.Millisecond

	// maxWatched bounds the machines that are remembered. Whoever is forgotten
	// is watched from the beginning.
	maxWatched = 1024

	// driftPart of a lease is what others wait longer, because clocks run at
	// different speeds: NTP slews by 1/2000 at most.
	driftPart = 100

	// storePrecision is what each of the store's two times may be off by.
	storePrecision = time.Second

	// absentGaps is for how many leases nobody may look at a heartbeat that is
	// absent, until the watch begins anew: that it was absent all the time is
	// all that we know, it has no version.
	absentGaps = 4
)

// Verdict is what is known of an owner.
type Verdict struct {
	Dead    bool
	Why     string        // for people, follows the owner's name
	Age     time.Duration // of the heartbeat by the store's clock; -1 when unknown
	Address string        // as the heartbeat states them
	Region  string
}

// Watcher judges owners by their machines' heartbeats. Its methods may be called
// concurrently. It has no goroutine: it looks when it is asked.
type Watcher struct {
	bucket   bucket.Bucket
	lease    time.Duration
	boottime func() time.Duration

	mu       sync.Mutex // protects what follows, and the fields of each watched
	reads    uint64     // begun so far
	machines map[string]*watched
}

// watched is one machine's heartbeat as it was read last.
type watched struct {
	reading chan struct{} // closed when the read that runs ends; nil when none runs
	asked   time.Duration // boottime of the start of the last read
	number  uint64        // of the last read; 0 when it may not be used by others
	err     error         // of the last read; what follows is then of the one before
	seen    bool          // a read has succeeded
	version string        // etag; empty for an absent object
	session string        // whose absence is watched
	first   time.Duration // boottime of the end of the first read of this version
	latest  time.Duration // boottime of the start of the last read of this version
	beat    heartbeat
	sound   bool          // beat could be read
	age     time.Duration // by the store's clock at the last read; -1 when unknown
}

// NewWatcher returns a watcher that has seen nothing. Lease is what this machine
// uses itself, bounded by MaxLease, 0 for the default. Boottime is nil for
// CLOCK_BOOTTIME.
func NewWatcher(b bucket.Bucket, lease time.Duration, clock func() time.Duration) *Watcher {
	if lease <= 0 {
		lease = DefaultLease
	}
	if clock == nil {
		clock = boottime
	}
	return &Watcher{bucket: b, lease: min(lease, MaxLease), boottime: clock, machines: make(map[string]*watched)}
}

// Judge says whether the owner's session is dead. It is when its machine's
// heartbeat names another session, did not change for a lease while we watched,
// or is two leases old by the store's clock. Each call looks once; who waits for
// a death calls again. While the owner lives, one look is good for all callers
// for half a second. That it is dead is only said after a look that began after
// the call: what was seen before the caller read its record may be older than
// the owner. The error is that of the look.
func (w *Watcher) Judge(ctx context.Context, owner Owner) (Verdict, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v, err := w.look(ctx, owner)
	if err != nil {
		return Verdict{}, errors.E("watch machine", fmt.Sprintf("%.200q", owner.Machine), errors.Other, err)
	}
	return v, nil
}

// look reads the owner's heartbeat, unless what somebody read will do. w.mu is
// held, but not while it waits.
func (w *Watcher) look(ctx context.Context, owner Owner) (Verdict, error) {
	called := w.reads
	for {
		m := w.machines[owner.Machine]
		if m == nil {
			m = &watched{}
			w.forget()
			w.machines[owner.Machine] = m
		}
		if m.reading == nil {
			if m.number > 0 && w.boottime()-m.asked < readPause {
				if m.err != nil {
					return Verdict{}, m.err
				}
				if v := m.judge(owner, w.lease); !v.Dead || m.number > called {
					return v, nil
				}
			}
			if err := w.read(ctx, m, owner); err != nil {
				return Verdict{}, err
			}
			return m.judge(owner, w.lease), nil
		}
		reading := m.reading
		w.mu.Unlock()
		select {
		case <-reading:
		case <-ctx.Done():
		}
		w.mu.Lock()
		if err := ctx.Err(); err != nil {
			return Verdict{}, err
		}
	}
}

// read looks at the object. w.mu is held, but not during the request.
func (w *Watcher) read(ctx context.Context, m *watched, owner Owner) error {
	reading := make(chan struct{})
	w.reads++
	m.reading, m.asked, m.number = reading, w.boottime(), w.reads
	w.mu.Unlock()
	var body []byte
	var info bucket.Info
	var err error
	if soundMachine(owner.Machine) { // else nothing can have run as it: absent
		body, info, err = readHeartbeat(ctx, w.bucket, owner.Machine)
	}
	w.mu.Lock()
	defer close(reading)
	m.reading, m.err = nil, err
	if err != nil {
		if ctx.Err() != nil {
			m.err, m.number = nil, 0 // our caller's end says nothing to others
		}
		return err
	}
	same := m.seen && m.version == info.ETag
	if info.ETag == "" {
		same = same && m.session == owner.Session && m.asked-m.latest <= absentGaps*w.lease
	}
	if !same {
		m.first = w.boottime()
	}
	m.seen, m.version, m.session, m.latest = true, info.ETag, owner.Session, m.asked
	m.beat, m.sound = parseHeartbeat(body, owner.Machine)
	m.age = -1
	if info.ETag != "" && !info.Now.IsZero() && !info.Modified.IsZero() {
		m.age = max(info.Now.Sub(info.Modified), 0)
	}
	return nil
}

// judge says what the last read means for an owner.
func (m *watched) judge(owner Owner, ours time.Duration) Verdict {
	lease := m.beat.lease(ours)
	v := Verdict{Age: m.age}
	if m.sound {
		v.Address, v.Region = m.beat.Address, m.beat.Region
	}
	unchanged := max(m.latest-m.first, 0) // from the end of a read to the start of another
	shown := unchanged.Round(time.Millisecond)
	switch {
	case m.sound && m.beat.Session != owner.Session:
		v.Dead, v.Why = true, fmt.Sprintf("has restarted: its heartbeat is that of session %.64q", m.beat.Session)
	case m.age >= 2*lease+storePrecision:
		v.Dead, v.Why = true, fmt.Sprintf("has a heartbeat that is %s old, its lease being %s", m.age.Truncate(time.Second), lease)
	case unchanged >= lease+lease/driftPart && m.version == "":
		v.Dead, v.Why = true, fmt.Sprintf("has no heartbeat, as watched for %s", shown)
	case unchanged >= lease+lease/driftPart:
		v.Dead, v.Why = true, fmt.Sprintf("has a heartbeat that did not change for %s, its lease being %s", shown, lease)
	case m.version == "":
		v.Why = fmt.Sprintf("has no heartbeat, as watched for %s of %s", shown, lease)
	case !m.sound:
		v.Why = fmt.Sprintf("has a heartbeat that cannot be read, unchanged for %s of %s", shown, lease)
	case m.age < 0:
		v.Why = "has a heartbeat of unknown age"
	default:
		v.Why = fmt.Sprintf("has a heartbeat that is %s old", m.age.Truncate(time.Second))
	}
	return v
}

// forget makes room for one more machine. w.mu is held.
func (w *Watcher) forget() {
	if len(w.machines) < maxWatched {
		return
	}
	oldest := ""
	for id, m := range w.machines {
		if m.reading == nil && (oldest == "" || m.asked < w.machines[oldest].asked) {
			oldest = id
		}
	}
	if oldest != "" {
		delete(w.machines, oldest)
	}
}
