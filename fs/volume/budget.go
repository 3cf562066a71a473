package volume

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// This file defines the disk budget: what is kept in the cache folder of tenants
// that are not in use. Everything of a released tenant is in the bucket, so its
// files may go; what was not shipped is never of a released tenant. When that is
// not enough, tenants of which nothing is open are released before their time.

// resting is a released tenant whose files are still here.
type resting struct {
	bytes int64
	since time.Time
}

// budgetEvery is how often the use of the disk is looked at.
const budgetEvery = time.Second

// diskUse is how many bytes of the disk a folder takes, holes left out.
func diskUse(dir string) (bytes int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // gone meanwhile
		}
		if info, err := d.Info(); err == nil {
			bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	return bytes
}

// findResting notes what earlier runs have left that ended cleanly.
func (v *Volume) findResting() {
	dirs, err := os.ReadDir(filepath.Join(v.opts.Cache, "tenants"))
	if err != nil {
		return
	}
	for _, d := range dirs {
		dir := filepath.Join(v.opts.Cache, "tenants", d.Name())
		local, err := readLocal(dir)
		info, statErr := os.Stat(filepath.Join(dir, "local.json"))
		if err == nil && statErr == nil && local.Clean {
			v.rest(d.Name(), dir, info.ModTime())
		}
	}
}

// rest notes that a tenant was released.
func (v *Volume) rest(id, dir string, since time.Time) {
	if v.opts.CacheLimit <= 0 {
		return
	}
	bytes := diskUse(dir)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.resting[id] = resting{bytes, since}
}

// wake notes that a tenant is in use again.
func (v *Volume) wake(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.resting, id)
}

// budgetLoop runs until the volume is closed.
func (v *Volume) budgetLoop() {
	defer v.work.Done()
	ticker := time.NewTicker(budgetEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			v.keepBudget(v.opts.Now())
		case <-v.ctx.Done():
			return
		}
	}
}

// keepBudget evicts the tenants that were released first until the cache folder
// is within its budget.
func (v *Volume) keepBudget(now time.Time) {
	over := v.cacheUse() - v.opts.CacheLimit
	v.crowded.Store(over > 0)
	if over <= 0 {
		return
	}
	for _, id := range v.coldest() {
		if over <= 0 {
			return
		}
		over -= v.evict(id)
	}
	if over > 0 {
		v.releaseEarly(now, over)
	}
}

// cacheUse is how many bytes of the disk all tenants take.
func (v *Volume) cacheUse() (bytes int64) {
	v.mu.Lock()
	for _, r := range v.resting {
		bytes += r.bytes
	}
	v.mu.Unlock()
	for _, t := range v.all() {
		t.mu.Lock()
		held := t.held != nil
		t.mu.Unlock()
		if held {
			bytes += diskUse(t.dir)
		}
	}
	return bytes
}

// coldest lists the resting tenants, those that were released first in front.
func (v *Volume) coldest() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	ids := make([]string, 0, len(v.resting))
	for id := range v.resting {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b string) int { return v.resting[a].since.Compare(v.resting[b].since) })
	return ids
}

// evict removes the files of a resting tenant, and returns how many bytes that
// made free. Whoever wants the tenant waits meanwhile.
func (v *Volume) evict(id string) int64 {
	t := v.add(id, nil)
	leave, err := t.enter(v.ctx)
	if err != nil {
		return 0
	}
	defer leave()
	t.owning.Lock()
	defer t.owning.Unlock()
	local, err := readLocal(t.dir)
	t.mu.Lock()
	held := t.held != nil
	t.mu.Unlock()
	if held || err != nil || !local.Clean {
		v.wake(id)
		return 0
	}
	if err := os.RemoveAll(t.dir); err != nil {
		v.opts.Logger.Error("cannot evict the files of a tenant", "tenant", id, "err", err)
		return 0
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	bytes := v.resting[id].bytes
	delete(v.resting, id)
	v.evicted++
	return bytes
}

// releaseEarly releases tenants of which nothing is open, those first that were
// used last the longest ago, until their files make up for over bytes; the files
// go next time.
func (v *Volume) releaseEarly(now time.Time, over int64) {
	type idle struct {
		t    *Tenant
		used time.Time
	}
	var idles []idle
	for _, t := range v.all() {
		t.mu.Lock()
		if t.held != nil && t.idle(now, 0) {
			idles = append(idles, idle{t, t.used})
		}
		t.mu.Unlock()
	}
	slices.SortFunc(idles, func(a, b idle) int { return a.used.Compare(b.used) })
	for _, i := range idles {
		if over <= 0 {
			return
		}
		bytes := diskUse(i.t.dir)
		i.t.mu.Lock()
		if i.t.leaveIdle(now, 0) && i.t.leaveShip.failures == 0 {
			over -= bytes // one that failed before is not counted on
		}
		i.t.mu.Unlock()
	}
}
