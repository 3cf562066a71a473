package database

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"atc/fs/errors"
)

// This file defines what happens when the spool is full, since the bucket is
// away or takes less than is written: writers wait instead of losing. Ticks take
// nothing more, so that a log is the buffer; the sync before a checkpoint and the
// end of a rollback journal wait. Who waits holds none of our locks. The wait has
// no limit of its own: it ends when the bucket has confirmed enough, when the
// tenant may not be served any more, or when who waits is killed.

// noLimit is room for anything.
const noLimit = math.MaxInt64

// room is how many bytes of pages may still be captured. DB.capture is held.
func (db *DB) room() int64 {
	if db.opts.SpoolLimit <= 0 {
		return noLimit
	}
	pages, _ := db.pendingLocked()
	db.mu.RLock()
	defer db.mu.RUnlock()
	return max(0, db.opts.SpoolLimit-pages*int64(db.pageSize))
}

// hasRoom reports whether the spool has room, and otherwise what is closed when
// it may have.
func (db *DB) hasRoom() (bool, <-chan struct{}) {
	db.capture.Lock()
	defer db.capture.Unlock()
	return db.room() > 0, db.freed
}

// roomLook is how often who waits looks whether he still may.
const roomLook = 100 * time.Millisecond

// awaitRoom returns when the spool has room.
func (db *DB) awaitRoom(ctx context.Context) error {
	defer db.waits.begin(forRoom, db.opts.Now())()
	for {
		ok, freed := db.hasRoom()
		if ok {
			return nil
		}
		err := context.Cause(ctx)
		switch {
		case err != nil:
		case db.background.Err() != nil:
			err = db.background.Err()
		case askerGone(ctx):
			err = errors.E("wait", "", errors.Canceled, fmt.Errorf("who waits is being killed"))
		case db.opts.MayWait != nil:
			err = db.opts.MayWait()
		}
		if err != nil {
			return errors.E("wait for room in the spool", db.opts.Name, errors.Other,
				fmt.Errorf("%w; %s", err, db.waits.why(forRoom, db.opts.SpoolLimit)))
		}
		db.drain()
		select {
		case <-freed:
		case <-ctx.Done():
		case <-time.After(roomLook):
		}
	}
}

const (
	firstDrainPause = 200 * time.Millisecond
	maxDrainPause   = 5 * time.Second
)

// drain ships in the background for as long as anybody waits for room: sooner
// than the next tick, and more patiently than its backoff.
func (db *DB) drain() {
	if !db.draining.CompareAndSwap(false, true) {
		return
	}
	db.work.Go(func() {
		defer db.draining.Store(false)
		for pause := firstDrainPause; db.waits.writers(forRoom) > 0; {
			if ok, _ := db.hasRoom(); ok {
				return // whoever fills it again calls again
			}
			if db.Ship(db.background) == nil {
				pause = firstDrainPause
				continue
			}
			select {
			case <-time.After(pause/2 + rand.N(pause/2)):
			case <-db.background.Done():
				return
			}
			pause = min(2*pause, maxDrainPause)
		}
	})
}

// askerKey is the key of WithAsker in a context.
type askerKey struct{}

// WithAsker has gone called now and then while an operation waits for room. It
// reports whether who asked for the operation is being killed, so that he cannot
// be answered and only waits to end.
func WithAsker(ctx context.Context, gone func() bool) context.Context {
	return context.WithValue(ctx, askerKey{}, gone)
}

func askerGone(ctx context.Context) bool {
	gone, ok := ctx.Value(askerKey{}).(func() bool)
	return ok && gone()
}

// waitFor is what writers wait for.
type waitFor int

const (
	forRoom   waitFor = iota // in the spool
	forBucket                // to confirm a commit, with durability = "commit"
	waitKinds
)

// Wait is writers that wait, as Stat tells of them.
type Wait struct {
	Writers int
	Since   time.Time // the first of them
	Why     string
}

// waits is who waits at the moment.
type waits struct {
	mu     sync.Mutex // protects what follows
	since  [waitKinds][]time.Time
	failed error // how the last shipment ended
}

// begin notes a writer that waits since now, until done is called.
func (w *waits) begin(what waitFor, now time.Time) (done func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.since[what] = append(w.since[what], now)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for i, t := range w.since[what] {
			if t.Equal(now) {
				w.since[what] = append(w.since[what][:i:i], w.since[what][i+1:]...)
				return
			}
		}
	}
}

func (w *waits) writers(what waitFor) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.since[what])
}

// shipped notes how a shipment ended.
func (w *waits) shipped(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = err
}

// why says what writers wait for, and what keeps them waiting.
func (w *waits) why(what waitFor, limit int64) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := "durability is commit"
	if what == forRoom {
		text = fmt.Sprintf("the spool is full (%s)", mebibytes(limit))
	}
	switch {
	case w.failed == nil:
		return text + " and the bucket has not confirmed yet"
	case errors.Retryable(w.failed):
		return fmt.Sprintf("%s because the bucket does not answer: %v", text, w.failed)
	}
	return fmt.Sprintf("%s and shipping fails: %v", text, w.failed)
}

// list is who waits now.
func (w *waits) list(limit int64) (found []Wait) {
	for what := range waitKinds {
		w.mu.Lock()
		var wait Wait
		if wait.Writers = len(w.since[what]); wait.Writers > 0 {
			wait.Since = w.since[what][0]
		}
		w.mu.Unlock()
		if wait.Writers > 0 {
			wait.Why = w.why(what, limit)
			found = append(found, wait)
		}
	}
	return found
}

// mebibytes writes a number of bytes as people do who configured it.
func mebibytes(n int64) string {
	const mib = 1 << 20
	if n%mib == 0 {
		return fmt.Sprintf("%d MiB", n/mib)
	}
	return fmt.Sprintf("%d bytes", n)
}
