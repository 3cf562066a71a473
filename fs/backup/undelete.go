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

// This file defines the return of a tenant that was removed. What comes back is
// what was removed at its end without anything else happening in between, as
// `rm -rf` does, and not what the application had removed before.

// Undelete brings a removed tenant back with the databases and plain files that it
// had before the removals began that emptied it. One that was emptied long before
// it was removed comes back empty; its databases come with Restore. It fails with
// Exist for a tenant that is there. After an interrupt it may be repeated.
func (s *Service) Undelete(ctx context.Context, id string, progress Progress) (Report, error) {
	held, err := s.registry.LoadAny(ctx, id)
	if err != nil {
		return Report{}, err
	}
	if held.Deleted.IsZero() {
		return Report{}, errors.E("undelete", id, errors.Exist, fmt.Errorf("it was not removed"))
	}
	since, epoch := held.Emptied, held.Epoch+1
	var report Report
	databases := make(map[string]*tenant.Database)
	for _, r := range held.Removed {
		if since.IsZero() || r.At.Before(since) || databases[r.Path] != nil {
			continue
		}
		d := r.Database
		// A barrier, since whoever had it may have something on its way.
		x, void, err := database.TakeOver(ctx, s.log(id, d.Folder), epoch, s.now)
		if err != nil {
			return Report{}, errors.E("undelete", id+"/"+r.Path, errors.Other, err)
		}
		if void {
			continue // nothing of it was ever shipped
		}
		d.TXID, d.Head = x.TXID(), 0
		d.PageSize, d.Pages = x.Size()
		databases[r.Path] = &d
		report.Databases = append(report.Databases, copied(r.Path, history.Position{TXID: d.TXID, Time: d.Modified}, &d))
		progress.report("undelete", id, int64(len(databases)), 0, "databases")
	}
	files := tenant.NewFiles(s.bucket, id)
	restored, err := s.untrash(ctx, files, since, epoch, databases)
	if err != nil {
		return Report{}, err
	}
	report.Files = len(restored.Entries)
	err = s.registry.Undelete(ctx, held, func(r *tenant.Record) {
		r.Databases, r.Files = databases, restored.Base()
		r.Removed = slices.DeleteFunc(slices.Clone(r.Removed), func(r tenant.Removed) bool {
			return databases[r.Path] != nil && databases[r.Path].Folder == r.Folder
		})
	})
	if err != nil {
		return Report{}, err
	}
	// Somebody who wanted to make a tenant of that ID may have emptied the index.
	there, err := files.Load(ctx)
	if err == nil && there.Epoch == restored.Epoch && !there.Same(restored) {
		next := there.Next(epoch)
		next.Entries, next.Trash, next.Since = restored.Entries, restored.Trash, time.Time{}
		err = files.Save(ctx, next)
	}
	return report, err
}

// untrash writes an index with what was removed at a time or later.
func (s *Service) untrash(ctx context.Context, files *tenant.Files, since time.Time, epoch uint64, databases map[string]*tenant.Database) (*tenant.FileIndex, error) {
	x, err := files.Load(ctx)
	if err != nil {
		return nil, err
	}
	next := x.Next(max(epoch, x.Epoch))
	next.Entries, next.Trash, next.Since = slices.Clone(x.Entries), nil, time.Time{}
	there := make(map[string]bool)
	for _, e := range x.Entries {
		there[e.Path] = true
	}
	for _, e := range x.Trash {
		switch {
		case since.IsZero() || e.Removed.IsZero() || e.Removed.Before(since) || there[e.Path] || databases[e.Path] != nil:
			next.Trash = append(next.Trash, e)
		default:
			there[e.Path] = true
			e.Removed = time.Time{}
			next.Entries = append(next.Entries, e)
		}
	}
	if next.Same(x) {
		return x, nil
	}
	return next, files.Save(ctx, next)
}
