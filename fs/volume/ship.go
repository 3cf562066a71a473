package volume

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"atc/fs/database"
	"atc/fs/errors"
	"atc/fs/tenant"
)

// This file defines when things go to the bucket: once per ship interval for
// whatever is in use. A tenant that nobody uses is
// not looked at.

// shipState is the backoff of one database while the bucket does not answer.
// Only the goroutine that ships it uses it.
type shipState struct {
	busy     bool // a goroutine ships it; protected by Tenant.mu
	failures int
	notUntil time.Time
}

const (
	firstBackoff = 500 * time.Millisecond
	maxBackoff   = 30 * time.Second
)

// failed sets when the next attempt may begin: later each time, and not at the
// same moment for all.
func (s *shipState) failed(now time.Time) {
	d := min(firstBackoff<<min(s.failures, 10), maxBackoff)
	s.failures++
	s.notUntil = now.Add(d/2 + rand.N(d/2))
}

const (
	// shipSlots is in how many parts of the ship interval the tenants are looked
	// at, each tenant in one of them: several hundred shipments that begin at the
	// same moment wait for each other.
	shipSlots = 16
	// leastSlot bounds how short such a part is.
	leastSlot = 20 * time.Millisecond
)

// shipLoop runs until the volume is closed.
func (v *Volume) shipLoop() {
	defer v.work.Done()
	slots := uint64(min(max(v.opts.ShipInterval/leastSlot, 1), shipSlots))
	ticker := time.NewTicker(v.opts.ShipInterval / time.Duration(slots))
	defer ticker.Stop()
	var ships sync.WaitGroup
	defer ships.Wait()
	for slot := uint64(0); ; slot = (slot + 1) % slots {
		select {
		case <-ticker.C:
		case <-v.ctx.Done():
			return
		}
		for _, t := range v.inSlot(slot, slots) {
			t.tick(&ships)
		}
	}
}

// inSlot returns the tenants known in this run whose turn it is.
func (v *Volume) inSlot(slot, slots uint64) (ts []*Tenant) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, t := range v.tenants {
		if t.number%slots == slot {
			ts = append(ts, t)
		}
	}
	return ts
}

// tick starts what is due for a tenant. It does not wait: a slow database does
// not delay another.
func (t *Tenant) tick(ships *sync.WaitGroup) {
	now := t.v.opts.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held == nil {
		t.retire(now)
	}
	if t.held == nil || t.leaving != nil {
		return
	}
	if t.lost != nil {
		t.dropOrphans()
		if t.idle(now, 0) {
			t.end(t.bury)
		}
		return
	}
	if t.leaveIdle(now, t.v.opts.ReleaseAfter) {
		return
	}
	start := func(s *shipState, do func(context.Context) error) {
		if s.busy || now.Before(s.notUntil) {
			return
		}
		s.busy = true
		ships.Add(1)
		go func() {
			defer ships.Done()
			err := do(t.v.ctx)
			t.mu.Lock()
			defer t.mu.Unlock()
			s.busy = false
			t.shipped(s, err)
		}()
	}
	if t.changed || t.files.due(now) {
		start(&t.treeShip, t.shipTree)
	}
	if len(t.files.large) > 0 {
		start(&t.largeShip, t.shipLarge)
	}
	for _, e := range t.databases {
		if e.db != nil {
			start(&e.ship, func(ctx context.Context) error { return e.tick(ctx, now) })
		}
	}
	for _, e := range t.orphans {
		if e.db != nil && !e.parted {
			start(&e.ship, e.part)
		}
	}
	t.dropOrphans()
}

// part ships what was committed to a database until it was removed, for undelete.
// One of which nothing was shipped before is not worth it: programs make and
// remove databases all the time.
func (e *entry) part(ctx context.Context) error {
	t := e.tenant
	t.mu.Lock()
	db, parted := e.db, e.parted
	t.mu.Unlock()
	if db == nil || parted {
		return nil
	}
	if s := db.Stat(); s.TXID > 0 {
		if err := db.Flush(ctx); err != nil {
			return err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e.parted = true
	return nil
}

// partAll ships what was committed to all databases that were removed.
func (t *Tenant) partAll(ctx context.Context) error {
	t.mu.Lock()
	orphans := slices.Clone(t.orphans)
	t.mu.Unlock()
	for _, e := range orphans {
		if err := e.part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// shipped notes how a shipment ended. Tenant.mu is held.
func (t *Tenant) shipped(s *shipState, err error) {
	switch {
	case err == nil:
		s.failures, s.notUntil = 0, time.Time{}
	case t.v.ctx.Err() != nil: // the end will try once more
	case errors.Is(errors.Fenced, err):
		go t.fence(err) // it takes Tenant.mu
	default:
		if s.failures == 0 {
			t.v.opts.Logger.Warn("cannot ship; trying again", "tenant", t.id, "err", err)
		}
		s.failed(t.v.opts.Now())
	}
}

// tick captures and ships one database, and closes it when it was not used for a
// while.
func (e *entry) tick(ctx context.Context, now time.Time) error {
	t := e.tenant
	t.mu.Lock()
	db, idle := e.db, e.idle
	unrecorded := t.changed
	t.mu.Unlock()
	if db == nil {
		return nil
	}
	if db.Users() > 0 {
		if err := db.Tick(); err != nil {
			return err
		}
	} else if now.Sub(idle) > t.v.opts.CloseAfter && !unrecorded {
		return e.close(ctx, false)
	}
	if err := db.Ship(ctx); err != nil {
		return err
	}
	db.CompactIfDue()
	return nil
}

// close closes the database of e, unless it is in use again. With force the
// mount is gone, and whatever handles are left can do nothing any more.
func (e *entry) close(ctx context.Context, force bool) error {
	t := e.tenant
	e.opening.Lock()
	defer e.opening.Unlock()
	inUse := func() bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		return e.db == nil || !force && (e.db.Users() > 0 || t.hasOpen(e))
	}
	if inUse() {
		return nil
	}
	if err := e.db.Flush(ctx); err != nil {
		return err
	}
	if inUse() { // opened while it was shipped
		return nil
	}
	t.mu.Lock()
	db := e.db
	e.db = nil // who comes now waits for e.opening
	t.mu.Unlock()
	err := db.Close(ctx)
	e.settle(db, err == nil)
	return err
}

// settle notes where a database stands that was closed. When that failed, the
// next opening compares the local file with the bucket.
func (e *entry) settle(db *database.DB, clean bool) {
	t := e.tenant
	t.mu.Lock()
	defer t.mu.Unlock()
	txid, pageSize, pages := db.Position()
	e.record.TXID, e.record.PageSize, e.record.Pages = txid, pageSize, pages
	e.record.Head = db.HeadSize()
	if st, err := t.root.stat(e.path); err == nil {
		e.record.Modified = time.Unix(st.Mtim.Unix()).UTC()
		t.local.Databases[e.folder] = localDatabase{Inode: st.Ino, TXID: txid}
	}
	e.fresh, e.keep, e.clean = clean && txid == 0, true, clean
	if e.at = txid; !clean {
		e.at = 0
	}
}

// hasOpen reports whether a file of e is open or being opened. Tenant.mu is
// held.
func (t *Tenant) hasOpen(e *entry) bool {
	for _, f := range t.open {
		if f.entry == e {
			return true
		}
	}
	return false
}

// dropOrphans closes removed databases once nobody has them open. What is
// committed after the removal is not shipped. Tenant.mu is held.
func (t *Tenant) dropOrphans() {
	t.orphans = slices.DeleteFunc(t.orphans, func(e *entry) bool {
		if t.hasOpen(e) || e.ship.busy || e.db != nil && !e.parted && t.lost == nil {
			return false
		}
		if e.db != nil {
			e.db.Abandon()
			e.db = nil
		}
		return true
	})
}

// shipTree brings the record and the plain files up to date.
func (t *Tenant) shipTree(ctx context.Context) error {
	if err := t.saveRecord(ctx, nil); err != nil {
		return err
	}
	return t.shipFiles(ctx, false)
}

// announce makes the record name what is about to be shipped.
func (t *Tenant) announce(ctx context.Context) error { return t.saveRecord(ctx, nil) }

// saveRecord writes the record if it does not say what is so, or if change asks
// for more. A database that is there no more is noted as removed.
func (t *Tenant) saveRecord(ctx context.Context, change func(*tenant.Record)) error {
	t.recording.Lock()
	defer t.recording.Unlock()
	t.mu.Lock()
	if !t.changed && change == nil {
		t.mu.Unlock()
		return nil
	}
	t.changed = false
	held := t.held
	databases := make(map[string]*tenant.Database, len(t.databases))
	folders := make(map[string]bool)
	for path, e := range t.databases {
		d := e.record
		databases[path] = &d
		folders[e.folder] = true
	}
	removed := maps.Clone(t.removedAt)
	t.mu.Unlock()
	err := t.v.registry.Update(ctx, held, func(r *tenant.Record) {
		for path, d := range r.Databases {
			if !folders[d.Folder] {
				at, known := removed[d.Folder]
				if !known {
					at = t.v.opts.Now()
				}
				r.Removed = append(r.Removed, tenant.Removed{Path: path, At: at, Database: *d})
			}
		}
		r.Databases = databases
		if change != nil {
			change(r)
		}
	})
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.changed = true
		return err
	}
	maps.DeleteFunc(t.removedAt, func(folder string, _ time.Time) bool { return !removed[folder].IsZero() })
	return nil
}

// entries returns the tenant's databases.
func (t *Tenant) entries() []*entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	es := make([]*entry, 0, len(t.databases))
	for _, e := range t.databases {
		es = append(es, e)
	}
	return es
}
