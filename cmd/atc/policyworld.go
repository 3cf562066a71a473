package main

import (
	"context"
	"sync"
	"time"

	"atc/fs/errors"
	"atc/fs/volume"
	"atc/policy"
	"atc/proxy"
)

// This file defines what a resolver and the proxy are told of tenants, and how
// little the bucket is asked for it, whatever host names somebody makes up.

// tenantStore is what a directory asks; volume.Volume is one.
type tenantStore interface {
	Known(id string) (there, known bool)
	Exists(ctx context.Context, id string) (bool, error)
	IDs(ctx context.Context) ([]string, error)
}

var _ tenantStore = (*volume.Volume)(nil)

const (
	lookupRate  = 4 // requests to the bucket a second for IDs that nobody knows
	lookupBurst = 16
	lookupLimit = 10 * time.Second // for one request that several callers may wait for

	// listEvery is how old a listing may become before it is made again; more
	// where it takes many requests, one for each 1,000 tenants.
	listEvery = 2 * time.Second
	listPage  = 1000
	// listStale is how long an old one still answers while a new one is made.
	listStale = time.Minute
)

// directory knows which tenants there are. Who asks for tenants that are known
// is answered from memory; for one that is not the bucket is asked, up to the
// rate above. Beyond it, all tenants are listed every few seconds, and an ID that
// the listing has not is absent: so 10,000 invented names cost as many requests
// as a few, and a tenant that nobody has visited yet is found among them.
// Its methods may be called concurrently.
type directory struct {
	store tenantStore
	now   func() time.Time

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	tokens  float64            // guarded by mu, like all below
	filled  time.Time          // when tokens were last counted
	flights map[string]*flight // by ID; "" is the listing
	listed  map[string]struct{}
	at      time.Time // when that was begun
	listing *flight   // the last one, which may have failed; nil before the first
	began   time.Time // when it was begun
}

// flight is a request to the bucket that callers wait for.
type flight struct {
	done chan struct{} // closed at its end
	ok   bool
	err  error
}

var _ proxy.Tenants = (*directory)(nil)

func newDirectory(store tenantStore, now func() time.Time) *directory {
	d := &directory{store: store, now: now, tokens: lookupBurst, filled: now(), flights: map[string]*flight{}}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// close ends the requests under way.
func (d *directory) close() {
	d.mu.Lock()
	d.cancel()
	d.mu.Unlock()
	d.work.Wait()
}

// Recall is Exists from memory.
func (d *directory) Recall(id string) (there, known bool) {
	if there, known = d.store.Known(id); known {
		return there, known
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	_, has := d.listed[id]
	return false, !has && d.pressed() && d.fresh()
}

// Exists reports whether there is a tenant of that ID, which is well-formed.
func (d *directory) Exists(ctx context.Context, id string) (bool, error) {
	for {
		if there, known := d.store.Known(id); known {
			return there, nil
		}
		d.mu.Lock()
		if d.ctx.Err() != nil {
			d.mu.Unlock()
			return false, errors.E("look up tenant", id, errors.Unavailable, d.ctx.Err())
		}
		f := d.flights[id]
		_, has := d.listed[id]
		fresh := d.fresh()
		usable := fresh || d.listed != nil && d.now().Sub(d.at) < listStale
		switch {
		case f != nil:
		case !d.pressed():
			d.tokens--
			f = d.ask(id)
		case usable && has:
			// Somebody who knows names has few of them, and each is remembered.
			f = d.ask(id)
		default:
			list := d.listing
			if !fresh && (list == nil || d.now().Sub(d.began) >= listEvery && d.flights[""] == nil) {
				list = d.list()
			}
			d.mu.Unlock()
			if usable {
				return false, nil
			}
			if _, err := list.wait(ctx, id); err != nil {
				return false, err
			}
			continue
		}
		d.mu.Unlock()
		return f.wait(ctx, id)
	}
}

// pressed reports whether the bucket may not be asked for one ID now. mu is
// held.
func (d *directory) pressed() bool {
	now := d.now()
	d.tokens = min(lookupBurst, d.tokens+lookupRate*now.Sub(d.filled).Seconds())
	d.filled = now
	return d.tokens < 1
}

// fresh reports whether the listing is as new as it has to be. mu is held.
func (d *directory) fresh() bool {
	every := max(listEvery, time.Duration(len(d.listed)/listPage)*time.Second/lookupRate)
	return d.listed != nil && d.now().Sub(d.at) < every
}

// ask begins to look up one ID. mu is held.
func (d *directory) ask(id string) *flight {
	return d.fly(id, func(ctx context.Context) (bool, error) { return d.store.Exists(ctx, id) })
}

// list begins to list all tenants. mu is held.
func (d *directory) list() *flight {
	began := d.now()
	d.began = began
	d.listing = d.fly("", func(ctx context.Context) (bool, error) {
		ids, err := d.store.IDs(ctx)
		if err != nil {
			return false, err
		}
		listed := make(map[string]struct{}, len(ids))
		for _, id := range ids {
			listed[id] = struct{}{}
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.listed, d.at = listed, began
		return true, nil
	})
	return d.listing
}

// fly begins a request, which goes on when who began it leaves. mu is held.
func (d *directory) fly(id string, do func(context.Context) (bool, error)) *flight {
	f := &flight{done: make(chan struct{})}
	d.flights[id] = f
	d.work.Go(func() {
		ctx, cancel := context.WithTimeout(d.ctx, lookupLimit)
		defer cancel()
		f.ok, f.err = do(ctx)
		d.mu.Lock()
		delete(d.flights, id)
		d.mu.Unlock()
		close(f.done)
	})
	return f
}

// wait returns when the request or ctx has ended.
func (f *flight) wait(ctx context.Context, id string) (bool, error) {
	select {
	case <-f.done:
		if f.err != nil {
			return false, errors.E("look up tenant", id, errors.Other, f.err)
		}
		return f.ok, nil
	case <-ctx.Done():
		return false, errors.E("look up tenant", id, errors.Other, ctx.Err())
	}
}

// world is what a resolver may ask about: the tenants, and this machine alone,
// as long as machines do not know each other.
type world struct {
	tenants         *directory
	machine, region string
}

var _ policy.World = world{}

func (w world) Recall(id string) (string, bool, bool) {
	there, known := w.tenants.Recall(id)
	return "", there, known
}

func (w world) Tenant(ctx context.Context, id string) (string, bool, error) {
	ok, err := w.tenants.Exists(ctx, id)
	return "", ok, err
}

func (w world) Machines(context.Context) []policy.Machine {
	return []policy.Machine{{ID: w.machine, Region: w.region, State: "started"}}
}
