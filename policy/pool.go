package policy

import (
	"context"
	"sync"
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

// pool hands out instances. Its methods may be called concurrently.
type pool struct {
	*gate
	host     *host
	reuse    bool
	retireAt uint32 // bytes of memory above which an instance is not used again

	mu     sync.Mutex
	idle   []*instance // guarded by mu; the last one is the warmest
	closed bool        // guarded by mu: the instances are gone
}

var _ backend = (*pool)(nil)

func newPool(h *host, limit int) *pool {
	return &pool{
		gate:     newGate(limit, waitingLookups*limit),
		host:     h,
		reuse:    h.compiled.ExportedMemories()["memory"].Min() > freshPages,
		retireAt: uint32(min(h.memoryLimit, 1<<32-1) / 4 * 3),
	}
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
	o, healthy, err := in.run(ctx, p.gate, world, request)
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
func (p *pool) close(ctx context.Context) error {
	if err := p.gate.close(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	for _, in := range p.idle {
		in.close()
	}
	p.idle = nil
	p.host.close(context.WithoutCancel(ctx))
	return nil
}
