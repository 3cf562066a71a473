package policy

import (
	"context"
	"sync/atomic"
	"time"
)

// guard is the context that a guest runs under: it ends when the guest has
// used up its time, and it leads host functions to their instance. It is a
// type of its own since a context.WithTimeout costs an allocation and a
// goroutine's worth of bookkeeping for each call, ends with the client, and
// cannot stop its clock while the host itself is at work. An instance has one
// guard for all of its calls; one goroutine uses it at a time.
type guard struct {
	in    *instance
	timer *time.Timer
	late  atomic.Bool
	done  chan struct{} // closed, after late is set, when the time is up

	left  time.Duration // of the budget when the clock was last started
	since time.Time     // when it was last started
}

var _ context.Context = (*guard)(nil)

// instanceKey finds the instance in a guard.
type instanceKey struct{}

func newGuard(in *instance, budget time.Duration) *guard {
	g := &guard{in: in, done: make(chan struct{}), left: budget, since: time.Now()}
	g.timer = time.AfterFunc(budget, func() {
		g.late.Store(true)
		close(g.done)
	})
	return g
}

// start gives the guest a new budget. The clock must stand.
func (g *guard) start(budget time.Duration) {
	g.left, g.since = budget, time.Now()
	g.timer.Reset(budget)
}

// stop stops the clock and reports whether it did so in time. A guard that was
// late stays so: its instance is of no use any more.
func (g *guard) stop() bool {
	g.left -= time.Since(g.since)
	return g.timer.Stop()
}

// resume lets the clock run on after a stop that was in time.
func (g *guard) resume() { g.start(max(g.left, time.Millisecond)) }

// Deadline is unknown: it moves while the host works for the guest.
func (g *guard) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done is closed when the guest's time is up.
func (g *guard) Done() <-chan struct{} { return g.done }

// Err is context.DeadlineExceeded when the guest's time is up.
func (g *guard) Err() error {
	if g.late.Load() {
		return context.DeadlineExceeded
	}
	return nil
}

// Value gives the instance for an instanceKey.
func (g *guard) Value(key any) any {
	if _, ok := key.(instanceKey); ok {
		return g.in
	}
	return nil
}
