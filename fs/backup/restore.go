package backup

import (
	"context"
	"fmt"
	"slices"
	"time"

	"atc/fs/database"
	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/tenant"
)

// This file defines the return of a tenant, where it is, to what it was. The
// present is not lost by it: its databases become removed ones, to which a later
// restore can go back.

// settleWithin bounds how long letting go of a tenant may take after an
// interrupt.
const settleWithin = time.Minute

// Restore makes the databases of a tenant be what they were at a point. A
// database that did not exist then goes, one that was removed since comes back;
// plain files stay as they are. Where the point names a database only that one
// changes.
//
// It fails with Busy while a machine that is alive has the tenant. After an
// interrupt, or an error, the tenant is as it was.
func (s *Service) Restore(ctx context.Context, id string, at Point, progress Progress) (report Report, err error) {
	if at.Latest() {
		return Report{}, errors.E("restore", id, errors.Invalid, fmt.Errorf("it is what it is now already; say when with --at, or which transaction with --txid"))
	}
	// Before the tenant is taken, since taking it changes the record.
	present, err := s.registry.Load(ctx, id)
	if err != nil {
		return Report{}, err
	}
	if _, err := s.versions(ctx, &present.Record, at); err != nil {
		return Report{}, err
	}
	held, before, err := s.registry.Acquire(ctx, id, nil, nil)
	if errors.Is(errors.Busy, err) {
		return Report{}, errors.E("restore", id, errors.Busy,
			fmt.Errorf("stop it there first, or restore beside it with --as NEW: %w", err))
	}
	if err != nil {
		return Report{}, err
	}
	var swap func(*tenant.Record)
	report, swap, err = s.prepare(ctx, held, at, progress)
	if err != nil {
		swap = func(*tenant.Record) {}
	}
	// Whatever happened, the tenant is not to stay ours.
	settle, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleWithin)
	defer cancel()
	if before.Owner != nil {
		if settleErr := s.settle(settle, held, swap); settleErr != nil {
			if err == nil {
				err = settleErr
			}
			return report, err // it stays taken by a session that ends, as the one before
		}
	}
	if releaseErr := s.registry.Release(settle, held, swap); err == nil {
		err = releaseErr
	}
	return report, err
}

// prepare copies what a point names into new folders, and returns the change of
// the record that puts them in place.
func (s *Service) prepare(ctx context.Context, held *tenant.Held, at Point, progress Progress) (Report, func(*tenant.Record), error) {
	id := held.Tenant
	versions, err := s.versions(ctx, &held.Record, at)
	if err != nil {
		return Report{}, nil, err
	}
	var report Report
	restored := make(map[string]*tenant.Database)
	for _, v := range versions {
		d, err := s.copyHistory(ctx, id, id, &v, at, progress)
		if err != nil {
			return report, nil, err
		}
		d.Since = s.now()
		restored[v.Path] = d
		report.Databases = append(report.Databases, copied(v.Path, v.At, d))
	}
	one := at.Database != "" || at.TXID != 0
	if one {
		for _, path := range paths(&held.Record) {
			if restored[path] == nil {
				d := held.Databases[path]
				report.Databases = append(report.Databases, Copied{Path: path, At: history.Position{TXID: d.TXID}, Kept: true})
			}
		}
	}
	if err := s.pathsFree(ctx, id, restored); err != nil {
		return report, nil, err
	}
	now := s.now()
	return report, func(r *tenant.Record) {
		r.Removed = slices.Clone(r.Removed)
		for _, path := range paths(r) {
			d := r.Databases[path]
			if one && restored[path] == nil || restored[path] != nil && d.Folder == restored[path].Folder {
				continue // not meant, or swapped by an attempt whose answer was lost
			}
			r.Removed = append(r.Removed, tenant.Removed{Path: path, At: now, Database: *d})
			delete(r.Databases, path)
		}
		for path, d := range restored {
			r.Databases[path] = d
		}
	}, nil
}

// pathsFree refuses databases that would lie where a plain file is now.
func (s *Service) pathsFree(ctx context.Context, id string, restored map[string]*tenant.Database) error {
	index, err := tenant.NewFiles(s.bucket, id).Load(ctx)
	if err != nil {
		return err
	}
	for _, f := range index.Entries {
		if restored[f.Path] != nil {
			return errors.E("restore", id+"/"+f.Path, errors.Exist, fmt.Errorf("a plain file lies there now; restore beside it with --as NEW"))
		}
	}
	return nil
}

// settle makes a tenant that its owner did not release one that can be released:
// a barrier ends the history of each database that stays, and the index of plain
// files becomes ours, so that the owner before can extend neither.
func (s *Service) settle(ctx context.Context, held *tenant.Held, swap func(*tenant.Record)) error {
	stays := held.Record
	stays.Databases = make(map[string]*tenant.Database)
	for path, d := range held.Databases {
		stays.Databases[path] = d
	}
	swap(&stays)
	for path, d := range held.Databases {
		if !slices.ContainsFunc(paths(&stays), func(path string) bool { return stays.Databases[path] == d }) {
			continue
		}
		x, void, err := database.TakeOver(ctx, s.log(held.Tenant, d.Folder), held.Epoch, s.now)
		if err != nil {
			return err
		}
		if void {
			d.Folder = tenant.NewFolder(path)
			d.TXID, d.Head, d.PageSize, d.Pages = 0, 0, 0, 0
			continue
		}
		d.TXID, d.Head = x.TXID(), 0
		d.PageSize, d.Pages = x.Size()
	}
	files := tenant.NewFiles(s.bucket, held.Tenant)
	index, err := files.Load(ctx)
	if err == nil {
		_, err = files.Claim(ctx, index, held.Epoch)
	}
	return err
}

// Undelete brings a removed tenant back, as empty as it was when it was removed:
// its databases come back with Restore to a time before.
func (s *Service) Undelete(ctx context.Context, id string) error {
	return s.registry.Undelete(ctx, id)
}
