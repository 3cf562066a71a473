package volume

import (
	"context"
	stderrors "errors"
	"sync"
	"time"

	"atc/fs/errors"
	"atc/fs/tenant"
)

// This file defines how a tenant is given back: everything is shipped, every
// database leaves a head, and the record says where they stand and names no owner
// any more.

// shipAll ships whatever a tenant has.
func (t *Tenant) shipAll(ctx context.Context) error {
	if err := t.saveRecord(ctx, nil); err != nil {
		return err
	}
	if err := t.shipFiles(ctx, true); err != nil {
		return err
	}
	for _, e := range t.entries() {
		t.mu.Lock()
		db := e.db
		t.mu.Unlock()
		if db == nil {
			continue
		}
		if err := db.Tick(); err != nil {
			return err
		}
		if err := db.Flush(ctx); err != nil {
			return err
		}
	}
	return nil
}

// release ships everything of a tenant and gives it back.
func (t *Tenant) release(ctx context.Context) error {
	t.mu.Lock()
	held, lost := t.held, t.lost
	t.mu.Unlock()
	if held == nil {
		return nil
	}
	if lost != nil {
		return t.bury()
	}
	t.mu.Lock()
	t.files.all = true // should a change not have been noted
	t.mu.Unlock()
	if err := t.shipAll(ctx); err != nil {
		return err
	}
	for _, e := range t.entries() {
		// One that was left by a killed run, or could not be closed, may hold
		// commits that the bucket has not.
		t.mu.Lock()
		unsettled := e.db == nil && e.keep && !e.clean
		t.mu.Unlock()
		if unsettled {
			if _, err := e.database(ctx); err != nil {
				return err
			}
		}
		if err := e.close(ctx, true); err != nil {
			return err
		}
	}
	if err := t.letGo(ctx); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held = nil
	defer t.root.Close()
	defer t.inodes.end()
	t.unhold()
	if err := t.root.sync(); err != nil {
		return err
	}
	t.local.Clean = true
	if err := t.local.write(t.dir); err != nil {
		return err
	}
	t.v.rest(t.id, t.dir, t.v.opts.Now())
	return nil
}

// letGo writes the record without an owner. Once that was tried and its outcome
// is unknown there is no way back: the write may arrive at any time, and another
// machine take the tenant. So it is tried until it is known, or ctx ends.
func (t *Tenant) letGo(ctx context.Context) error {
	const pause = 200 * time.Millisecond
	t.mu.Lock()
	base := t.files.index.Base()
	t.mu.Unlock()
	for again := false; ; again = true {
		err := t.saveRecord(ctx, func(r *tenant.Record) { r.Owner, r.Released, r.Files = nil, t.v.opts.Now(), base })
		if again && errors.Is(errors.Fenced, err) {
			return nil // somebody has it now, and there is nothing that the bucket has not
		}
		if !errors.Retryable(err) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

// releasePatiently tries until ctx ends while the bucket does not answer: this
// may be the last chance that the local disk's content has.
func (t *Tenant) releasePatiently(ctx context.Context) error {
	const pause = time.Second
	for {
		err := t.release(ctx)
		if !errors.Retryable(err) || ctx.Err() != nil {
			return err
		}
		t.v.opts.Logger.Warn("cannot release tenant yet; trying again", "tenant", t.id, "err", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

// releaseAll releases every tenant, several at a time.
func (v *Volume) releaseAll(ctx context.Context) error {
	const atOnce = 8
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex // protects errs
		errs  []error
		slots = make(chan struct{}, atOnce)
	)
	for _, t := range v.all() {
		wg.Add(1)
		slots <- struct{}{}
		go func() {
			defer func() { <-slots; wg.Done() }()
			if err := t.releasePatiently(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, errors.E("release tenant", t.id+" (its files stay in "+t.dir+")", errors.Other, err))
			}
		}()
	}
	wg.Wait()
	return stderrors.Join(errs...)
}
