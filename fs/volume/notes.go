package volume

import (
	"path"
	"time"
)

// This file defines what is noted of every change of the tree, so that shipping
// looks at what changed and not at everything: 10,000 files would cost a tenth of
// a second each time. A release looks at everything once more.

// note says that a path may differ from the index.
type note struct {
	due     time.Time // it is not shipped before; zero for at once
	deep    bool      // and everything below it
	removed time.Time // when it was removed, if that is what happened
}

const (
	// openFor is after how many ship intervals a file is shipped that was written
	// and neither synced nor closed since.
	openFor = 10
	// removalGap is how long after a removal another one still goes on with it.
	removalGap = time.Minute
)

// removals is a run of removals without any other change of the tree.
type removals struct {
	since time.Time // zero for none
	last  time.Time
}

// goesOn notes a removal.
func (r *removals) goesOn(now time.Time) {
	if r.since.IsZero() || now.Sub(r.last) > removalGap {
		r.since = now
	}
	r.last = now
}

// began is since when nothing but removals happened, zero if something else did.
func (r *removals) began(now time.Time) time.Time {
	if now.Sub(r.last) > removalGap {
		return time.Time{}
	}
	return r.since
}

// noteChange notes that a path was made or changed; deep is for a folder that has
// moved. Tenant.mu is held.
func (t *Tenant) noteChange(p string, deep bool) {
	if t.localOnly(p) {
		return
	}
	if !t.belongsToDatabase(p) {
		t.files.removals = removals{}
	}
	t.files.note(p, note{deep: deep})
}

// noteRemoval notes that a path was removed, and that nothing stands there any
// more. Tenant.mu is held.
func (t *Tenant) noteRemoval(p string, now time.Time) {
	if t.localOnly(p) {
		return
	}
	if !t.belongsToDatabase(p) { // a log or a journal goes with a commit
		t.files.removals.goesOn(now)
	}
	t.files.note(p, note{removed: now})
}

// noteWrite notes that an open file was written. Tenant.mu is held.
func (t *Tenant) noteWrite(f *File) {
	local := t.localOnly(f.path)
	c := t.inodes.known[f.inode]
	if local && c.id == "" {
		return
	}
	c.writes++
	c.touched = true
	if err := t.inodes.set(f.inode, c); err != nil {
		t.inodes.known[f.inode] = c // after a kill its time tells
	}
	if f.nameless || local {
		return
	}
	t.files.removals = removals{}
	if _, noted := t.files.notes[f.path]; !noted {
		t.files.notes[f.path] = note{due: t.v.opts.Now().Add(openFor * t.v.opts.ShipInterval)}
	}
}

// noteSettled notes that an open file was synced or closed: what was written is
// meant to be kept. One whose last upload took long rests first.
func (t *Tenant) noteSettled(f *File) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, noted := t.files.notes[f.path]
	if f.nameless || !noted || n.due.IsZero() {
		return
	}
	n.due = t.files.rests[f.inode]
	if !n.due.After(t.v.opts.Now()) {
		n.due = time.Time{}
		delete(t.files.rests, f.inode)
	}
	t.files.notes[f.path] = n
}

// note adds a note, and one of the folder whose time changes with it.
func (p *plainFiles) note(at string, n note) {
	if was, noted := p.notes[at]; noted {
		n.deep = n.deep || was.deep
	}
	p.notes[at] = n
	if dir := path.Dir(at); dir != "." {
		if was, noted := p.notes[dir]; !noted || was.removed.IsZero() {
			p.notes[dir] = note{deep: was.deep}
		}
	}
}

// take removes and returns the notes that are due, or all. Those beyond most
// come next time.
func (p *plainFiles) take(now time.Time, all bool, most int) map[string]note {
	taken := make(map[string]note)
	for at, n := range p.notes {
		if !all && n.due.After(now) || len(taken) == most && !n.deep {
			continue
		}
		taken[at] = n
		delete(p.notes, at)
	}
	return taken
}

// putBack notes again what could not be shipped.
func (p *plainFiles) putBack(notes map[string]note) {
	for at, n := range notes {
		if newer, noted := p.notes[at]; noted {
			newer.deep = newer.deep || n.deep
			if n.due.Before(newer.due) {
				newer.due = n.due
			}
			n = newer
		}
		p.notes[at] = n
	}
}

// due reports whether anything is to be shipped now.
func (p *plainFiles) due(now time.Time) bool {
	if p.all || p.again {
		return true
	}
	for _, n := range p.notes {
		if !n.due.After(now) {
			return true
		}
	}
	return false
}

// pending reports whether the index differs from the tree.
func (p *plainFiles) pending() bool { return p.all || len(p.notes)+len(p.large) > 0 }
