package volume

import (
	"context"
	stderrors "errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"atc/fs/bucket"
	"atc/fs/errors"
	"atc/fs/tenant"
)

// This file defines what happens when this machine cannot know that it owns its
// tenants, or knows that it lost one. While the lease has lapsed nothing is
// opened or synced; when it is valid again, each record tells whether the tenant
// is still ours. Of one that is not, what was never shipped is kept and reported.

// Lost is a tenant that another machine took.
type Lost struct {
	ID     string
	At     time.Time
	Epoch  uint64 // of our ownership
	Folder string // where the local files are kept; empty when everything had been shipped
	Pages  int64  // captured and never confirmed
	Err    error  // how it was noticed
}

// lapsed is called when the machine's lease has ended.
func (v *Volume) lapsed() {
	final := v.lease.Check()
	for _, t := range v.all() {
		t.mu.Lock()
		held := t.held != nil && t.lost == nil
		t.suspended = t.suspended || held
		t.lapses++
		t.mu.Unlock()
		if !held {
			continue
		}
		if errors.Is(errors.Fenced, final) {
			t.fence(final)
			continue
		}
		v.opts.Logger.Error("the lease has lapsed: nothing is opened or synced until it is renewed", "tenant", t.id)
		v.tellFenced(t.id)
	}
}

func (v *Volume) tellFenced(id string) {
	if fn := v.fenced.Load(); fn != nil {
		(*fn)(id)
	}
}

// renewed is called when the lease is valid again after it had lapsed.
func (v *Volume) renewed() {
	for _, t := range v.all() {
		t.mu.Lock()
		suspended := t.suspended && t.held != nil && t.lost == nil
		t.mu.Unlock()
		if suspended {
			v.work.Add(1)
			go func() {
				defer v.work.Done()
				t.resume()
			}()
		}
	}
}

// resume asks the record whether the tenant is still ours.
func (t *Tenant) resume() {
	const pause = 500 * time.Millisecond
	for {
		t.recording.Lock()
		t.mu.Lock()
		held, lapses := t.held, t.lapses
		t.mu.Unlock()
		var err error
		if held != nil {
			err = t.v.registry.Mine(t.v.ctx, held)
		}
		t.recording.Unlock()
		switch {
		case err == nil:
			t.mu.Lock()
			if t.lapses == lapses { // else it is asked again, or was already
				t.suspended = false
			}
			t.mu.Unlock()
			t.v.opts.Logger.Info("the tenant is still ours", "tenant", t.id)
			return
		case errors.Is(errors.Fenced, err):
			t.fence(err)
			return
		}
		select {
		case <-time.After(pause):
		case <-t.v.ctx.Done():
			return
		}
	}
}

// fence notes that another machine has the tenant now. Nothing of it is opened
// or synced any more; what was not shipped stays in the cache folder.
func (t *Tenant) fence(cause error) {
	t.mu.Lock()
	first := t.lost == nil
	if first {
		t.lost = errors.E("use tenant", t.id, errors.Fenced, cause)
	}
	t.mu.Unlock()
	if first {
		t.v.opts.Logger.Error("tenant was taken over by another machine", "tenant", t.id, "err", cause)
		t.v.tellFenced(t.id)
	}
}

// usable fails while the tenant may not be served: it was lost, or may have
// been.
func (t *Tenant) usable() error {
	t.mu.Lock()
	lost, suspended := t.lost, t.suspended
	t.mu.Unlock()
	if lost != nil {
		return lost
	}
	if err := t.v.lease.Check(); err != nil {
		return errors.E("use tenant", t.id, errors.Other, err)
	}
	if suspended {
		return errors.E("use tenant", t.id, errors.Unavailable, fmt.Errorf("the lease had lapsed; whether the tenant is still ours is being asked"))
	}
	return nil
}

// bury ends a Tenant that was lost and of which nothing is open any more. Should
// there be anything that was not shipped, its files are kept aside.
func (t *Tenant) bury() error {
	t.mu.Lock()
	if t.held == nil {
		t.mu.Unlock()
		return nil
	}
	lost := Lost{ID: t.id, At: t.v.opts.Now(), Epoch: t.epoch, Err: t.lost}
	var left []*entry
	unshipped := t.files.pending() || t.changed
	for _, e := range t.databases {
		if e.db == nil {
			unshipped = unshipped || e.keep && !e.clean
			continue
		}
		failed := e.db.Idle() != nil // as when the last handle was closed
		s := e.db.Stat()
		lost.Pages += e.db.Unshipped()
		unshipped = unshipped || failed || s.PendingPages > 0 || s.InFlight || len(s.Degraded) > 0
		left = append(left, e)
	}
	t.held, t.gone = nil, true
	t.unhold()
	t.root.Close()
	t.inodes.end()
	t.mu.Unlock()
	defer t.v.drop(t)
	for _, e := range left { // nobody else has them: nothing of the tenant is open
		if err := t.salvage(e); err != nil {
			t.v.opts.Logger.Error("cannot copy unshipped pages into the bucket; they stay in the cache folder", "tenant", t.id, "err", err)
		}
		t.mu.Lock()
		e.db.Abandon()
		e.db = nil
		t.mu.Unlock()
	}
	var err error
	if unshipped {
		lost.Folder, err = t.setAside()
	} else {
		err = os.RemoveAll(t.dir)
	}
	t.v.report(lost)
	if err != nil {
		return errors.E("keep local files of tenant", t.id, errors.Other, err)
	}
	return nil
}

// salvageWithin bounds how long the bucket is given to take what was not shipped.
const salvageWithin = 20 * time.Second

// salvage puts what a database could not ship beside its tenant in the bucket,
// under this machine's name: the local disk may go with the machine. It needs no
// lease, since nobody else writes there.
func (t *Tenant) salvage(e *entry) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.v.ctx), salvageWithin)
	defer cancel()
	plain := bucket.Count(t.v.opts.Bucket, &t.v.counters)
	return e.db.Salvage(ctx, func(ctx context.Context, txid uint64, file io.ReadSeeker) error {
		key := tenant.LostKey(t.id, t.v.machine, t.epoch, e.folder, txid)
		_, err := plain.Put(ctx, key, file, bucket.PutOptions{})
		return err
	})
}

// Lost lists the tenants that this run has lost to other machines, and those of
// which it found files that an earlier run had lost.
func (v *Volume) Lost() []Lost {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.lost)
}

func (v *Volume) report(l Lost) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lost = append(v.lost, l)
}

// lostErrors says which tenants were lost with something that was not shipped.
func (v *Volume) lostErrors() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var errs []error
	for _, l := range v.lost {
		if l.Folder != "" {
			errs = append(errs, errors.E("serve tenant", l.ID, errors.Fenced,
				fmt.Errorf("another machine took it over; what was not shipped until then is kept in %s: %w", l.Folder, l.Err)))
		}
	}
	return stderrors.Join(errs...)
}

// setAside moves everything local of a tenant out of the way, where it stays.
func (t *Tenant) setAside() (folder string, err error) {
	lost := filepath.Join(t.v.opts.Cache, "lost")
	if err := os.MkdirAll(lost, 0o700); err != nil {
		return "", fmt.Errorf("keep local files aside: %w", err)
	}
	to := filepath.Join(lost, t.id+"-"+t.v.opts.Now().UTC().Format("20060102T150405.000"))
	if err := os.Rename(t.dir, to); err != nil {
		return "", fmt.Errorf("keep local files aside: %w", err)
	}
	t.v.opts.Logger.Warn("local files may hold commits that were not shipped before the tenant was lost; they are kept",
		"tenant", t.id, "folder", to)
	return to, os.MkdirAll(t.dir, 0o700)
}
