package volume

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"atc/fs/errors"
	"atc/fs/tenant"
	"atc/fs/tenant/tenantid"
)

// This file defines which tenants there are: those that were asked for in this
// run and are still remembered, and the rest in the bucket.

// recordsAtOnce is how many records a listing reads at once.
const recordsAtOnce = 32

// Tenants lists the IDs of all tenants that are there, in order.
func (v *Volume) Tenants(ctx context.Context) ([]string, error) {
	ids, err := v.registry.List(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	there := make([]bool, len(ids))
	var next atomic.Int64
	var readers sync.WaitGroup
	for range min(recordsAtOnce, len(ids)) {
		readers.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(ids) {
					return
				}
				var err error
				if there[i], err = v.Exists(ctx, ids[i]); err != nil {
					cancel(err)
				}
			}
		})
	}
	readers.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	left := ids[:0]
	for i, id := range ids {
		if there[i] {
			left = append(left, id)
		}
	}
	return left, nil
}

const (
	// absentFor is how long an ID without a tenant is remembered, so that
	// somebody who tries names causes few requests.
	absentFor = 2 * time.Second
	// maxAbsent bounds how many such IDs are remembered.
	maxAbsent = 10000
)

// Expect is Tenant for who is going to use it: the machine's lease is confirmed
// meanwhile.
func (v *Volume) Expect(ctx context.Context, id string) (*Tenant, error) {
	if tenantid.Check(id) == nil {
		v.lease.Want()
	}
	return v.Tenant(ctx, id)
}

// Exists reports whether there is a tenant of that ID. An ID that cannot be one
// is Invalid and asks nobody.
func (v *Volume) Exists(ctx context.Context, id string) (bool, error) {
	_, err := v.Tenant(ctx, id)
	if errors.Is(errors.NotExist, err) {
		return false, nil
	}
	return err == nil, err
}

// Tenant returns a tenant without opening anything of it. It fails with NotExist
// where there is none.
func (v *Volume) Tenant(ctx context.Context, id string) (*Tenant, error) {
	if err := tenantid.Check(id); err != nil {
		return nil, err
	}
	v.mu.Lock()
	t, at := v.tenants[id], v.absent[id]
	v.mu.Unlock()
	if t != nil {
		return t, nil
	}
	if v.opts.Now().Sub(at) < absentFor {
		return nil, errors.E("open tenant", id, errors.NotExist, nil)
	}
	began := time.Now()
	held, err := v.registry.Load(ctx, id)
	if err != nil {
		if errors.Is(errors.NotExist, err) {
			v.mu.Lock()
			if len(v.absent) >= maxAbsent {
				clear(v.absent)
			}
			v.absent[id] = v.opts.Now()
			v.mu.Unlock()
		}
		return nil, err
	}
	t = v.add(id, held)
	t.viewing.Lock()
	if t.view != nil && t.view.record == held {
		t.view.took = time.Since(began)
	}
	t.viewing.Unlock()
	return t, nil
}

// Known is Exists from memory: known is false where the bucket would have to be
// asked.
func (v *Volume) Known(id string) (there, known bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.tenants[id] != nil {
		return true, true
	}
	return false, v.opts.Now().Sub(v.absent[id]) < absentFor
}

// IDs lists what the bucket has folders for: all tenants, and removed ones.
func (v *Volume) IDs(ctx context.Context) ([]string, error) { return v.registry.List(ctx) }

// add returns the Tenant of an ID. Held is its record if that was just read.
func (v *Volume) add(id string, held *tenant.Held) *Tenant {
	v.mu.Lock()
	delete(v.absent, id)
	t := v.tenants[id]
	if t != nil {
		v.mu.Unlock()
		return t
	}
	t = newTenant(v, id)
	if held != nil {
		t.view = newView(held, v.opts.Now())
	}
	v.tenants[id] = t
	v.mu.Unlock()
	v.tell(id)
	return t
}

// Create makes a tenant. It fails with Invalid for an ID that cannot be one and
// with Exist for one that is there.
func (v *Volume) Create(ctx context.Context, id string) (*Tenant, error) {
	if err := tenantid.Check(id); err != nil {
		return nil, err
	}
	unhold, err := v.lease.Hold(ctx)
	if err != nil {
		return nil, errors.E("create tenant", id, errors.Other, err)
	}
	defer unhold()
	if err := v.registry.Create(ctx, id); err != nil {
		return nil, err
	}
	return v.add(id, nil), nil
}

// Remove removes a tenant whose folder is empty; its history stays in the
// bucket.
func (v *Volume) Remove(ctx context.Context, id string) error {
	return v.Do(ctx, id, func(t *Tenant) error {
		if err := t.remove(ctx); err != nil {
			return err
		}
		v.drop(t)
		return nil
	})
}

// all returns the tenants known in this run.
func (v *Volume) all() []*Tenant {
	v.mu.Lock()
	defer v.mu.Unlock()
	ts := make([]*Tenant, 0, len(v.tenants))
	for _, t := range v.tenants {
		ts = append(ts, t)
	}
	return ts
}
