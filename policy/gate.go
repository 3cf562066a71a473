package policy

import (
	"context"
	stderrors "errors"
	"sync"

	"atc/fs/errors"
)

// How many calls there may be at a time, whatever they run on, and how the last
// one is waited for.

// waitingLookups is how many calls for each place may wait for the World
// without one. Each has an instance's memory.
const waitingLookups = 4

var errClosed = stderrors.New("the resolver is closed")

// gate lets calls in. Its methods may be called concurrently.
type gate struct {
	places  chan struct{} // one for each guest that runs; its capacity is the limit
	lookups chan struct{} // one for each call that waits for the World, beside those

	mu      sync.Mutex
	calls   int           // guarded by mu: between enter and leave
	closing bool          // guarded by mu: no call may begin any more
	drained chan struct{} // closed when closing and no call is left
}

func newGate(limit, lookups int) *gate {
	return &gate{places: make(chan struct{}, limit), lookups: make(chan struct{}, lookups), drained: make(chan struct{})}
}

// enter waits until a call may be made.
func (g *gate) enter(ctx context.Context) error {
	g.mu.Lock()
	if g.closing {
		g.mu.Unlock()
		return errors.E("wait for an instance", "", errors.Unavailable, errClosed)
	}
	g.calls++
	g.mu.Unlock()
	select {
	case g.places <- struct{}{}:
		return nil
	default:
	}
	select {
	case g.places <- struct{}{}:
		return nil
	case <-ctx.Done():
		g.gone()
		return errors.E("wait for an instance", "", errors.Other, ctx.Err())
	}
}

func (g *gate) leave() {
	<-g.places
	g.gone()
}

// gone counts a call that has ended.
func (g *gate) gone() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.calls--; g.closing && g.calls == 0 {
		close(g.drained)
	}
}

// pause gives a call's place to another one while it waits for the World, so
// that tenants that nobody knows do not hold up those that everybody knows. It
// reports false where too many do so: that call keeps its place.
func (g *gate) pause() bool {
	select {
	case g.lookups <- struct{}{}:
		<-g.places
		return true
	default:
		return false
	}
}

// resume takes a place again. Guests run briefly: it need not be given up.
func (g *gate) resume() {
	g.places <- struct{}{}
	<-g.lookups
}

// close stops new calls and waits for those in flight.
func (g *gate) close(ctx context.Context) error {
	g.mu.Lock()
	if !g.closing {
		g.closing = true
		if g.calls == 0 {
			close(g.drained)
		}
	}
	g.mu.Unlock()
	select {
	case <-g.drained:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
