package tenant

import (
	"context"
	"math/rand/v2"
	"time"

	"atc/fs/errors"
)

// This file defines what runs while a lease is wanted: one goroutine renews, and
// one notices the end of the lease, also while a renewal hangs, and calls back.

// start lets the heartbeat run. l.mu is held.
func (l *Lease) start() {
	if l.running || l.closed || l.final != nil {
		return
	}
	l.running = true
	ended := make(chan struct{})
	l.work.Go(func() { defer close(ended); l.renewing() })
	l.work.Go(func() { l.watching(ended) })
}

// renewing renews until nobody needs it.
func (l *Lease) renewing() {
	for failures := 0; l.waitDue(); {
		start := l.o.Boottime()
		err := l.renewOnce()
		l.mu.Lock()
		if l.last = err; err == nil {
			failures, l.due = 0, start+l.o.Heartbeat
		} else {
			pause := min(l.o.Heartbeat/10<<min(failures, 8), l.o.Heartbeat/2)
			failures, l.due = failures+1, l.o.Boottime()+pause/2+rand.N(pause)
		}
		if errors.Is(errors.Fenced, err) {
			l.final = err
			l.until = 0
			l.up = true // a lapse also for those who wait for the first one
			l.look(0)
		}
		l.mu.Unlock()
		switch {
		case err == nil || l.ctx.Err() != nil:
		case errors.Is(errors.Fenced, err):
			l.o.Logger.Error("the lease is lost for good", "machine", l.o.Machine, "err", err)
		case failures == 1:
			l.o.Logger.Warn("cannot renew the lease; trying again", "machine", l.o.Machine, "err", err)
		}
	}
}

// waitDue waits for the next renewal. It reports false when there is none: then
// running is false already.
func (l *Lease) waitDue() bool {
	for {
		l.mu.Lock()
		now := l.o.Boottime()
		if l.closed || l.final != nil || l.holders == 0 && now >= l.linger {
			l.running = false
			l.mu.Unlock()
			return false
		}
		wait := l.due - now
		l.mu.Unlock()
		if wait <= 0 {
			return true
		}
		l.pause(min(wait, lapseTick), l.renew, nil)
	}
}

// pause waits so long, or until it is woken or the lease closed.
func (l *Lease) pause(d time.Duration, wake, ended <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-ended:
	case <-l.ctx.Done():
	}
}

// renewOnce writes the heartbeat once and, if that succeeds, counts the lease
// from before: others may have seen this version just then.
func (l *Lease) renewOnce() error {
	ctx, cancel := context.WithTimeout(l.ctx, l.o.timeout())
	defer cancel()
	var err error
	for range placeAttempts {
		start := l.o.Boottime()
		if err = l.beat.replace(ctx, l.gone); err == nil {
			l.confirm(start)
			return nil
		}
		if !errors.Is(errors.Condition, err) {
			return err
		}
	}
	return err
}

// gone makes the lease lapse, because its object is not there any more.
func (l *Lease) gone() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = min(l.until, l.o.Boottime())
	l.look(l.until)
}

func (l *Lease) confirm(start time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.o.Boottime()
	l.look(now)
	l.until = max(l.until, start+l.o.Lease)
	if !l.up && now < l.until {
		l.up = true
		l.signal()
	}
}

// watching notices the end of the lease while a renewal hangs, and calls back.
func (l *Lease) watching(ended <-chan struct{}) {
	for {
		l.mu.Lock()
		now := l.o.Boottime()
		l.look(now)
		wait := lapseTick
		if l.up {
			wait = min(wait, l.until-now)
		}
		l.mu.Unlock()
		l.callBack()
		select {
		case <-ended:
			l.callBack()
			return
		default:
			l.pause(wait, l.tell, ended)
		}
	}
}

// callBack tells of lapses and of what came after them.
func (l *Lease) callBack() {
	l.telling.Lock()
	defer l.telling.Unlock()
	for {
		l.mu.Lock()
		var call func()
		lapsed := l.told < l.lapses
		renewed := !lapsed && l.down && l.up
		switch {
		case l.closed:
		case lapsed:
			l.told, l.down, call = l.lapses, true, l.o.Lapsed
		case renewed:
			l.down, call = false, l.o.Renewed
		}
		last, closed := l.last, l.closed
		l.mu.Unlock()
		if closed || !lapsed && !renewed {
			return
		}
		if lapsed {
			l.o.Logger.Warn("the lease has lapsed", "machine", l.o.Machine, "lease", l.o.Lease, "err", last)
		} else {
			l.o.Logger.Info("the lease is valid again", "machine", l.o.Machine)
		}
		if call != nil {
			call()
		}
	}
}
