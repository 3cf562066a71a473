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
)

var errClosed = stderrors.New("the resolver is closed")

// pool hands out instances. Its methods may be called concurrently.
type pool struct {
	host     *host
	reuse    bool
	retireAt uint32 // bytes of memory above which an instance is not used again

	tokens  chan struct{} // one for each call in flight; its capacity is the limit
	closing chan struct{} // closed when no call may begin any more

	mu   sync.Mutex
	idle []*instance // guarded by mu; the last one is the warmest

	closeMu sync.Mutex
	drained int  // guarded by closeMu: tokens that close has taken for good
	closed  bool // guarded by closeMu
}

func newPool(h *host, limit int) *pool {
	return &pool{
		host:     h,
		reuse:    h.compiled.ExportedMemories()["memory"].Min() > freshPages,
		retireAt: uint32(min(h.memoryLimit, 1<<32-1) / 4 * 3),
		tokens:   make(chan struct{}, limit),
		closing:  make(chan struct{}),
	}
}

// enter waits until a call may be made.
func (p *pool) enter(ctx context.Context) error {
	select {
	case <-p.closing:
		return errors.E("wait for an instance", "", errors.Unavailable, errClosed)
	default:
	}
	select {
	case p.tokens <- struct{}{}:
		return nil
	default:
	}
	select {
	case p.tokens <- struct{}{}:
		return nil
	case <-p.closing:
		return errors.E("wait for an instance", "", errors.Unavailable, errClosed)
	case <-ctx.Done():
		return errors.E("wait for an instance", "", errors.Other, ctx.Err())
	}
}

func (p *pool) leave() { <-p.tokens }

// run makes a call between enter and leave.
func (p *pool) run(ctx context.Context, world World, request []byte) (Decision, error) {
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
func (p *pool) runFresh(ctx context.Context, world World, request []byte) (Decision, error) {
	in, err := p.host.newInstance()
	if err != nil {
		return Decision{}, err
	}
	return p.runOn(in, ctx, world, request)
}

// runOn makes a call and keeps the instance where it may be used again: it
// belongs to a guest that is, nothing went wrong, and its memory has not grown
// so far towards the limit that one of the next calls would hit it.
func (p *pool) runOn(in *instance, ctx context.Context, world World, request []byte) (Decision, error) {
	d, healthy, err := in.run(ctx, world, request)
	if p.reuse && healthy && in.mod.Memory().Size() <= max(p.retireAt, in.began) {
		p.mu.Lock()
		p.idle = append(p.idle, in)
		p.mu.Unlock()
		return d, err
	}
	in.close()
	return d, err
}

// close stops new calls, waits for those in flight and closes the instances.
// It reports true to the one caller that ended the pool.
func (p *pool) close(ctx context.Context) (bool, error) {
	p.closeMu.Lock()
	defer p.closeMu.Unlock()
	if p.closed {
		return false, nil
	}
	select {
	case <-p.closing:
	default:
		close(p.closing)
	}
	for ; p.drained < cap(p.tokens); p.drained++ {
		select {
		case p.tokens <- struct{}{}:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	p.closed = true
	for _, in := range p.idle {
		in.close()
	}
	p.idle = nil
	return true, nil
}
