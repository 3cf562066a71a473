package volume

import (
	"context"
	stderrors "errors"
	"time"

	"atc/fs/errors"
)

// This file defines how long a tenant stays ours: from the first file that is
// opened until nothing of it was used for a while. Then it is released and
// forgotten, so that an idle tenant costs neither memory nor a descriptor nor a
// request, and any machine can take it at once.

// errGone says that a Tenant is not what stands for its ID any more. Who meets
// it asks the volume for the tenant again.
var errGone = stderrors.New("the tenant was released meanwhile")

// Do calls do with a tenant, which is not released before do returns. It fails
// with NotExist where there is none.
func (v *Volume) Do(ctx context.Context, id string, do func(*Tenant) error) error {
	for {
		t, err := v.Tenant(ctx, id)
		if err != nil {
			return err
		}
		if err := do(t); !stderrors.Is(err, errGone) {
			return err
		}
	}
}

// Take makes a tenant ours. It fails with Busy while another machine has it, and
// with Unavailable while nobody can know whether it still is ours.
func (v *Volume) Take(ctx context.Context, id string) error {
	v.lease.Want()
	return v.Do(ctx, id, func(t *Tenant) error {
		leave, err := t.enterOwned(ctx, "")
		if err != nil {
			return err
		}
		defer leave()
		return t.usable()
	})
}

// enter keeps the tenant from being released until leave is called. While it is
// being released it waits for the end of that.
func (t *Tenant) enter(ctx context.Context) (leave func(), err error) {
	for {
		t.mu.Lock()
		left := t.leaving
		if t.gone && left == nil { // until then the volume may still know it
			t.mu.Unlock()
			return nil, errors.E("use tenant", t.id, errors.Unavailable, errGone)
		}
		if left == nil {
			t.users++
			t.mu.Unlock()
			return t.leave, nil
		}
		t.mu.Unlock()
		select {
		case <-left:
		case <-ctx.Done():
			return nil, errors.E("use tenant", t.id, errors.Other, ctx.Err())
		}
	}
}

func (t *Tenant) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.users--
	t.used = t.v.opts.Now()
}

// enterOwned is enter for what needs the tenant to be ours.
func (t *Tenant) enterOwned(ctx context.Context, path string) (leave func(), err error) {
	if leave, err = t.enter(ctx); err != nil {
		return nil, err
	}
	if err := t.own(ctx, path); err != nil {
		leave()
		return nil, err
	}
	return leave, nil
}

// idle reports whether nothing of the tenant was used for d. Tenant.mu is held.
func (t *Tenant) idle(now time.Time, d time.Duration) bool {
	if t.users > 0 || len(t.open) > 0 || t.leaving != nil || t.gone || t.treeShip.busy || t.largeShip.busy {
		return false
	}
	for _, e := range t.databases {
		if e.ship.busy {
			return false
		}
	}
	return len(t.orphans) == 0 && now.Sub(t.used) >= d
}

// forgetAfter is how long a tenant that was only looked at is remembered.
const forgetAfter = 10 * time.Second

// retire forgets a tenant that is not ours and that nobody uses. Tenant.mu is
// held.
func (t *Tenant) retire(now time.Time) {
	if t.held != nil || !t.idle(now, forgetAfter) {
		return
	}
	t.gone = true
	t.v.drop(t)
}

// leaveIdle releases a tenant that is ours and was not used for d, and reports
// whether it began to. Tenant.mu is held.
func (t *Tenant) leaveIdle(now time.Time, d time.Duration) bool {
	if t.held == nil || t.lost != nil || now.Before(t.leaveShip.notUntil) || !t.idle(now, d) {
		return false
	}
	t.end(func() error { return t.release(t.v.ctx) })
	return true
}

// end runs what makes the tenant ours no more, while who wants to use it waits.
// Tenant.mu is held.
func (t *Tenant) end(do func() error) {
	left := make(chan struct{})
	t.leaving = left
	t.v.work.Add(1)
	go func() {
		defer t.v.work.Done()
		err := do()
		t.mu.Lock()
		if err == nil {
			t.gone = true
			t.v.drop(t)
		}
		t.leaving = nil
		t.shipped(&t.leaveShip, err)
		t.mu.Unlock()
		close(left)
		if fn := t.v.released.Load(); err == nil && fn != nil {
			(*fn)(t.id)
		}
	}()
}

// drop makes the volume forget a Tenant.
func (v *Volume) drop(t *Tenant) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.tenants[t.id] == t {
		delete(v.tenants, t.id)
	}
}
