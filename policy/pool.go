package policy

import (
	"context"
	stderrors "errors"
	"sync"

	"atc/fs/errors"
)

// The instances of one resolver: how many there may be, which are used again.
//
// A guest that declares at most freshPages of memory gets a fresh instance for
// each call and so cannot carry anything from one request to the next. A larger
// one is used again until something goes wrong with it. The rule looks at the
// module and not at a clock, so that a module behaves the same everywhere, and
// it tells the runtimes apart: WAT, AssemblyScript and C declare 1 to 3 pages
// and start in 40 µs, Rust 17 and starts in 130 µs, Go at least 32 and takes
// 2 to 4 ms.

const (
	freshPages = 24
	pageSize   = 64 << 10

	// waitingLookups is how many calls for each place may wait for the World
	// without one. Each has an instance's memory.
	waitingLookups = 4
)

var errClosed = stderrors.New("the resolver is closed")

// pool hands out instances. Its methods may be called concurrently.
type pool struct {
	host     *host
	reuse    bool
	retireAt uint32 // bytes of memory above which an instance is not used again

	places  chan struct{} // one for each guest that runs; its capacity is the limit
	lookups chan struct{} // one for each call that waits for the World, beside those

	mu      sync.Mutex
	idle    []*instance   // guarded by mu; the last one is the warmest
	calls   int           // guarded by mu: between enter and leave
	closing bool          // guarded by mu: no call may begin any more
	closed  bool          // guarded by mu: the instances are gone
	drained chan struct{} // closed when closing and no call is left
}

func newPool(h *host, limit int) *pool {
	return &pool{
		host:     h,
		reuse:    h.compiled.ExportedMemories()["memory"].Min() > freshPages,
		retireAt: uint32(min(h.memoryLimit, 1<<32-1) / 4 * 3),
		places:   make(chan struct{}, limit),
		lookups:  make(chan struct{}, waitingLookups*limit),
		drained:  make(chan struct{}),
	}
}

// enter waits until a call may be made.
func (p *pool) enter(ctx context.Context) error {
	p.mu.Lock()
	if p.closing {
		p.mu.Unlock()
		return errors.E("wait for an instance", "", errors.Unavailable, errClosed)
	}
	p.calls++
	p.mu.Unlock()
	select {
	case p.places <- struct{}{}:
		return nil
	default:
	}
	select {
	case p.places <- struct{}{}:
		return nil
	case <-ctx.Done():
		p.gone()
		return errors.E("wait for an instance", "", errors.Other, ctx.Err())
	}
}

func (p *pool) leave() {
	<-p.places
	p.gone()
}

// gone counts a call that has ended.
func (p *pool) gone() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.calls--; p.closing && p.calls == 0 {
		close(p.drained)
	}
}

// pause gives a call's place to another one while it waits for the World, so
// that tenants that nobody knows do not hold up those that everybody knows. It
// reports false where too many do so: that call keeps its place.
func (p *pool) pause() bool {
	select {
	case p.lookups <- struct{}{}:
		<-p.places
		return true
	default:
		return false
	}
}

// resume takes a place again. Guests run briefly: it need not be given up.
func (p *pool) resume() {
	p.places <- struct{}{}
	<-p.lookups
}

// run makes a call between enter and leave.
func (p *pool) run(ctx context.Context, world World, request []byte) (outcome, error) {
	p.mu.Lock()
	var in *instance
	if n := len(p.idle); n > 0 {
		in, p.idle[n-1] = p.idle[n-1], nil
		p.idle = p.idle[:n-1]
	}
	p.mu.Unlock()
	if in == nil {
		return p.runFresh(ctx, world, request)
	}
	return p.runOn(in, ctx, world, request)
}

// runFresh makes a call on a new instance.
func (p *pool) runFresh(ctx context.Context, world World, request []byte) (outcome, error) {
	in, err := p.host.newInstance()
	if err != nil {
		return outcome{}, err
	}
	return p.runOn(in, ctx, world, request)
}

// runOn makes a call and keeps the instance where it may be used again: it
// belongs to a guest that is, nothing went wrong, and its memory has not grown
// so far towards the limit that one of the next calls would hit it.
func (p *pool) runOn(in *instance, ctx context.Context, world World, request []byte) (outcome, error) {
	o, healthy, err := in.run(ctx, p, world, request)
	if p.reuse && healthy && in.mod.Memory().Size() <= max(p.retireAt, in.began) {
		p.mu.Lock()
		p.idle = append(p.idle, in)
		p.mu.Unlock()
		return o, err
	}
	in.close()
	return o, err
}

// close stops new calls, waits for those in flight and closes the instances.
// It reports true to the one caller that ended the pool.
func (p *pool) close(ctx context.Context) (bool, error) {
	p.mu.Lock()
	if !p.closing {
		p.closing = true
		if p.calls == 0 {
			close(p.drained)
		}
	}
	p.mu.Unlock()
	select {
	case <-p.drained:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false, nil
	}
	p.closed = true
	for _, in := range p.idle {
		in.close()
	}
	p.idle = nil
	return true, nil
}
