package volume

import (
	"context"
	stderrors "errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"atc/fs/database"
	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/tenant"
)

// This file defines what happens when a tenant becomes ours: the record is
// taken, and the local tree is made to show what the record says. Whether local
// files of an earlier run may be used depends on how that run ended.

// trust is what the local files of an earlier run are worth.
type trust int

const (
	cold    trust = iota // nothing there, or nothing known of it: start from the bucket
	settled              // that run released the tenant: what stands where the record stands is good
	ahead                // that run was killed, and nobody else had the tenant since: the tree is newer than the bucket
	strange              // that run was killed, and its files cannot be trusted: keep them aside
)

// judge compares what an earlier run left with the record that we replaced.
func (v *Volume) judge(local localState, before tenant.Record) trust {
	switch {
	case !local.Ready:
		return cold
	case local.Clean:
		return settled
	case before.Owner == nil && before.Epoch == local.Epoch:
		return cold // killed between the record's release and the note of it: all was shipped
	case local.Boot != v.boot:
		return strange // what was never synced is gone, and nobody can say what was
	case before.Owner == nil || before.Owner.Machine != v.machine:
		return strange
	case before.Epoch == local.Epoch:
		return ahead
	case before.Epoch == local.Epoch+1 && before.Owner.Session == local.Session:
		return ahead // it took the tenant again and did not come to serve it: see intend
	}
	return strange
}

// acquire takes the tenant within the lease that unhold lets go of. What can be
// read without being the owner is read meanwhile: see arrival.
func (t *Tenant) acquire(ctx context.Context, path string, unhold func()) (err error) {
	t.v.wake(t.id)
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return errors.E("open tenant", t.id, errors.Other, err)
	}
	local, err := readLocal(t.dir)
	if err != nil {
		return errors.E("open tenant", t.id, errors.Other, err)
	}
	worth := cold
	a, err := t.arrive(ctx, path, func(replaced tenant.Record) (err error) {
		worth, err = t.intend(&local, replaced)
		return err
	})
	if err != nil {
		if errors.Is(errors.Busy, err) && local.Ready && !local.Clean {
			// Whoever has it took it from us, or from who had it after us.
			return stderrors.Join(err, t.keepStrange(local, err))
		}
		return err
	}
	defer func() {
		if err != nil {
			t.v.chase(t.id) // it is ours, and nobody serves it
		}
	}()
	held, before, index := a.held, a.before, a.files
	if worth != ahead {
		worth = t.v.judge(local, before)
	}
	if before.Owner != nil && worth != ahead {
		t.v.opts.Logger.Warn("taking over a tenant that its owner did not release",
			"tenant", t.id, "owner", before.Owner.Machine, "since", before.Owner.Since, "epoch", before.Epoch)
	}
	if worth == strange {
		if err := t.keepStrange(local, fmt.Errorf("it was owned by machine %q in between", ownerOf(before))); err != nil {
			return errors.E("open tenant", t.id, errors.Other, err)
		}
		local, worth = localState{}, cold
	}
	unclean := before.Owner != nil
	if unclean {
		// Also where the owner before was an earlier run of ours: what it had on
		// its way may still arrive.
		if err := t.survey(ctx, held, &local); err != nil {
			return err
		}
	}
	if unclean && worth != ahead {
		if index, err = t.contents.Claim(ctx, index, held.Epoch); err != nil {
			return err
		}
	}
	root, err := openTree(filepath.Join(t.dir, "tree"))
	if err != nil {
		return errors.E("open tenant", t.id, errors.Other, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	defer func() {
		if t.held == nil {
			root.Close()
		}
	}()
	// A lapse from here on finds held set, and has the record asked.
	if err := t.v.registry.Check(held); err != nil {
		return err
	}
	t.root, t.epoch, t.unhold, t.opening = root, held.Epoch, unhold, a.opening
	t.databases = make(map[string]*entry) // without those of an attempt that failed
	t.files.init()
	t.held, t.local = held, localState{
		Epoch: held.Epoch, Session: t.v.session, Boot: t.v.boot,
		Ready:     worth == ahead, // else not before the tree is laid out
		Databases: make(map[string]localDatabase), Contents: make(map[uint64]string),
	}
	if worth == ahead {
		t.local.Databases, t.local.Contents = local.Databases, local.Contents
	}
	if err := t.local.write(t.dir); err != nil {
		t.held = nil
		return err
	}
	if worth == ahead {
		err = t.takeUp(index)
	} else {
		err = t.layOut(local, index)
	}
	if err == nil {
		t.local.Ready = true
		err = t.local.write(t.dir)
	}
	if err != nil {
		t.held = nil
		return errors.E("open tenant", t.id, errors.Other, err)
	}
	if !unclean {
		for p, e := range t.databases {
			e.at = e.record.TXID
			if p == path {
				e.wanted = a.wanted
			}
		}
	}
	t.files.index, t.files.dirty = index, unclean
	return nil
}

// intend notes, where the local files are newer than the bucket, that this run is
// about to replace the record that has been read. Should nothing more be heard of
// it, however often, the next attempt finds either that record or one that this
// run wrote over it, and knows the files for its own.
func (t *Tenant) intend(local *localState, replaced tenant.Record) (trust, error) {
	worth := t.v.judge(*local, replaced)
	if worth != ahead {
		return worth, nil
	}
	local.Epoch, local.Session = replaced.Epoch, t.v.session
	if err := local.write(t.dir); err != nil {
		return worth, errors.E("open tenant", t.id, errors.Other, err)
	}
	return worth, nil
}

// survey finds out where the databases of a tenant stand whose owner did not
// say so, and puts the barriers, before anything shows their sizes. A database
// without any commit goes on in another folder, behind the one that its barrier
// has closed.
func (t *Tenant) survey(ctx context.Context, held *tenant.Held, local *localState) error {
	for path, d := range held.Databases {
		log := history.NewLog(t.v.bucketFor(&t.counters), tenant.DatabaseFolder(t.id, d.Folder))
		index, void, err := database.TakeOver(ctx, log, held.Epoch, t.v.opts.Now)
		if err != nil {
			return errors.E("open tenant", t.name(path), errors.Other, err)
		}
		if void {
			was, known := local.Databases[d.Folder]
			delete(local.Databases, d.Folder)
			d.Folder = tenant.NewFolder(path)
			if known {
				local.Databases[d.Folder] = was
			}
			d.TXID, d.Head, d.PageSize, d.Pages = 0, 0, 0, 0
			t.mu.Lock()
			t.changed = true
			t.mu.Unlock()
			continue
		}
		d.TXID, d.Head = index.TXID(), 0
		d.PageSize, d.Pages = index.Size()
	}
	return nil
}

// keepStrange keeps the local files of a run that lost the tenant, and reports
// them.
func (t *Tenant) keepStrange(local localState, cause error) error {
	folder, err := t.setAside()
	if err != nil {
		return err
	}
	t.v.report(Lost{ID: t.id, At: t.v.opts.Now(), Epoch: local.Epoch, Folder: folder, Err: cause})
	return nil
}

func ownerOf(r tenant.Record) string {
	if r.Owner == nil {
		return ""
	}
	return r.Owner.Machine
}

// layOut makes the tree show what record and file index say, with holes for
// contents. What an earlier run left is kept where it stands at the same
// position. Tenant.mu is held.
func (t *Tenant) layOut(local localState, index *tenant.FileIndex) error {
	for _, dir := range []string{"db", "missing"} {
		if err := os.MkdirAll(filepath.Join(t.dir, dir), 0o700); err != nil {
			return err
		}
	}
	keep := make(map[string]bool) // paths that stay
	for path, d := range t.held.Databases {
		e := &entry{tenant: t, path: path, folder: d.Folder, record: *d}
		t.databases[path] = e
		was, known := local.Databases[d.Folder]
		if at, ok := t.root.inode(path); ok && known && local.Clean && was.Inode == at && was.TXID == d.TXID {
			e.keep, e.clean = true, true
			t.local.Databases[d.Folder] = was
			keepWithSidecars(keep, path)
			continue
		}
		if err := os.RemoveAll(t.databaseDir(d.Folder)); err != nil {
			return err
		}
	}
	// A database that was created as an empty file may still stand in the file
	// index, when its owner was killed before it wrote that anew.
	plain := *index
	plain.Entries = slices.DeleteFunc(slices.Clone(index.Entries), func(f tenant.FileEntry) bool { return t.databases[f.Path] != nil })
	index = &plain
	for _, f := range index.Entries {
		if at, ok := t.root.inode(f.Path); ok && f.Kind == tenant.Regular && local.Contents[at] == f.Content {
			t.local.Contents[at] = f.Content
			keep[f.Path] = true
		}
	}
	if err := t.sweep(keep, index); err != nil {
		return err
	}
	for _, f := range index.Entries {
		// A path that was kept may have led through a symlink that is gone.
		if _, there := t.root.inode(f.Path); !keep[f.Path] || !there {
			if err := t.layOutFile(f); err != nil {
				return fmt.Errorf("lay out %s: %w", f.Path, err)
			}
		}
	}
	for path, e := range t.databases {
		if !keep[path] {
			if err := t.layOutDatabase(e); err != nil {
				return fmt.Errorf("lay out %s: %w", path, err)
			}
		}
	}
	return t.settleFolders(index)
}

// layOutDatabase makes a hole of the database's size. Tenant.mu is held.
func (t *Tenant) layOutDatabase(e *entry) error {
	size := int64(e.record.PageSize) * int64(e.record.Pages)
	at, err := t.root.makeHole(e.path, size, e.record.Mode, e.record.Modified)
	t.local.Databases[e.folder] = localDatabase{Inode: at}
	return err
}

// takeUp makes the record follow the tree that a killed run left: it has what
// the application wrote last. Databases are compared with the bucket when they
// are opened, which recover does at once. Tenant.mu is held.
func (t *Tenant) takeUp(index *tenant.FileIndex) error {
	byInode := make(map[uint64]string)
	for folder, d := range t.local.Databases {
		byInode[d.Inode] = folder
	}
	recorded := make(map[string]*tenant.Database)
	for _, d := range t.held.Databases {
		recorded[d.Folder] = d
	}
	err := t.root.walk(func(path string, info os.FileInfo) error {
		if !info.Mode().IsRegular() {
			return nil
		}
		at := info.Sys().(*syscall.Stat_t).Ino
		folder, known := byInode[at]
		if !known {
			if t.beginsDatabase(path) {
				e := t.newEntry(path, at)
				e.keep = true
			}
			return nil
		}
		e := &entry{tenant: t, path: path, folder: folder, keep: true}
		if d := recorded[folder]; d != nil {
			e.record = *d
		} else {
			e.record = tenant.Database{Folder: folder, Mode: 0o644}
		}
		t.databases[path] = e
		return nil
	})
	if err != nil {
		return err
	}
	t.changed = true
	return t.findTouched(index)
}

// recover takes up, in the background, what runs that were killed left in the
// cache folder, so that their commits reach the bucket without anybody asking
// for the tenant.
func (v *Volume) recover() {
	dirs, err := os.ReadDir(filepath.Join(v.opts.Cache, "tenants"))
	if err != nil {
		return
	}
	for _, d := range dirs {
		local, err := readLocal(filepath.Join(v.opts.Cache, "tenants", d.Name()))
		if err != nil || !local.Ready || local.Clean {
			continue
		}
		v.work.Add(1)
		go func() {
			defer v.work.Done()
			v.recoverTenant(d.Name())
		}()
	}
}

func (v *Volume) recoverTenant(id string) {
	const pause = 2 * time.Second
	for {
		err := v.Do(v.ctx, id, func(t *Tenant) error {
			leave, err := t.enterOwned(v.ctx, "")
			if err != nil {
				return err
			}
			defer leave()
			return t.openAll(v.ctx)
		})
		if err == nil || !errors.Retryable(err) || v.ctx.Err() != nil {
			if err != nil && v.ctx.Err() == nil {
				v.opts.Logger.Error("cannot take up a tenant after an unclean end", "tenant", id, "err", err)
			}
			return
		}
		select {
		case <-time.After(pause):
		case <-v.ctx.Done():
			return
		}
	}
}

// openAll opens every database once, which captures what is not in the bucket.
func (t *Tenant) openAll(ctx context.Context) error {
	for _, e := range t.entries() {
		if _, err := e.database(ctx); err != nil {
			return err
		}
	}
	return nil
}
