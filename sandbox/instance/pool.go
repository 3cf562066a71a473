package instance

import (
	"context"
	stderrors "errors"
	"sync"
	"time"

	"atc/fs/errors"
)

// This file decides what a request for a tenant gets: a running instance, a
// place in the queue of one that starts, or a refusal. What an instance does by
// itself is in instance.go.

// retryFull is when a request that found the queue full may come again.
const retryFull = time.Second

// Pool holds the instances of all tenants. Its methods may be called
// concurrently.
type Pool struct {
	config Config

	// hurry ends when Close has waited long enough: what still stops is killed.
	hurry context.Context
	kill  context.CancelFunc

	running sync.WaitGroup // one for each instance

	// mu protects everything below and, of each tenant and instance, the fields
	// that say so. It is never held while anything is waited for.
	mu      sync.Mutex
	closed  bool
	tenants map[string]*tenant // those that run, wait, or have crashed
}

// tenant is what outlives an instance. Protected by Pool.mu.
type tenant struct {
	name    string
	current *instance // nil when stopped or crashed
	waiting int
	crashes crashes
}

// New makes an empty pool. Close must be called.
func New(config Config) *Pool {
	p := &Pool{config: config.complete(), tenants: map[string]*tenant{}}
	p.hurry, p.kill = context.WithCancel(context.Background())
	return p
}

// Acquire returns a lease on the tenant's instance, which it starts when there
// is none. It returns when the instance answers, when it cannot be started, or
// when ctx ends; the start itself goes on without the one who gave up.
//
// Errors: that of [Config.Open] with its own kind; else Unavailable, with an
// [*Unready] when it is known when to come again; ctx's own.
func (p *Pool) Acquire(ctx context.Context, name string) (*Lease, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if p.closed {
			return nil, errors.E("acquire", name, errors.Unavailable, stderrors.New("shutting down"))
		}
		if err := ctx.Err(); err != nil {
			return nil, errors.E("acquire", name, errors.Other, err)
		}
		t := p.tenants[name]
		if t == nil {
			t = &tenant{name: name}
			p.tenants[name] = t
		}
		if t.current == nil {
			if after := t.crashes.remaining(p.config.Now()); after > 0 {
				return nil, errors.E("acquire", name, errors.Unavailable, &Unready{name, after, t.crashes.last})
			}
			t.current = p.launch(t)
		}
		i := t.current
		var change <-chan struct{}
		switch i.state {
		case Starting:
			change = i.started
		case Stopping:
			change = i.ended
		default:
			i.leases++
			return &Lease{instance: i}, nil
		}
		if t.waiting >= p.config.MaxWaiting {
			return nil, errors.E("acquire", name, errors.Unavailable, &Unready{name, retryFull, stderrors.New("too many requests wait for it")})
		}
		if err := p.wait(ctx, t, change); err != nil {
			return nil, errors.E("acquire", name, errors.Other, err)
		}
		if i.failed != nil {
			return nil, errors.E("acquire", name, errors.Other, i.failed)
		}
	}
}

// wait gives up the lock until the channel is closed or ctx ends.
func (p *Pool) wait(ctx context.Context, t *tenant, change <-chan struct{}) error {
	t.waiting++
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		t.waiting--
		p.forget(t)
	}()
	select {
	case <-change:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// forget drops a tenant of whom there is nothing to remember. mu is held.
func (p *Pool) forget(t *tenant) {
	if t.current == nil && t.waiting == 0 && t.crashes.inARow == 0 && p.tenants[t.name] == t {
		delete(p.tenants, t.name)
	}
}

// Stop stops the tenant's instance, whoever uses it, and returns when it is
// reaped and closed, or when ctx ends; it stops all the same then. It also
// forgets the tenant's crashes. Requests that wait for its start are refused.
func (p *Pool) Stop(ctx context.Context, name string) error {
	p.mu.Lock()
	t := p.tenants[name]
	if t == nil || t.current == nil {
		if t != nil {
			t.crashes = crashes{}
			p.forget(t)
		}
		p.mu.Unlock()
		return nil
	}
	i := t.current
	i.askToStop()
	p.mu.Unlock()
	select {
	case <-i.ended:
		return nil
	case <-ctx.Done():
		return errors.E("stop", name, errors.Other, ctx.Err())
	}
}

// Kill ends the tenant's instance at once, without a grace period and without
// waiting: what it does from now on may do harm.
func (p *Pool) Kill(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.tenants[name]; t != nil && t.current != nil {
		t.current.rush()
		t.current.askToStop()
	}
}

// Close refuses new requests, stops every instance side by side and returns
// when all are reaped and closed. When ctx ends it kills what has not ended,
// and still waits for that; the error is then ctx's.
func (p *Pool) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	for _, t := range p.tenants {
		if t.current != nil {
			t.current.askToStop()
		}
	}
	p.mu.Unlock()
	stop := context.AfterFunc(ctx, p.kill)
	p.running.Wait()
	if !stop() {
		return errors.E("close", "instances", errors.Other, ctx.Err())
	}
	p.kill()
	return nil
}
