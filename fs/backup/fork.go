package backup

import (
	"context"
	"fmt"
	"slices"

	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/tenant"
	"atc/fs/tenant/tenantid"
)

// This file defines copies of tenants. Their objects are copied by the store
// itself, so that the time grows with how many there are, and not with their
// bytes.

// Fork makes tenant to of what tenant from was at a point. From is only read; it
// may be in use, or removed. It fails with Exist where there is a tenant to.
func (s *Service) Fork(ctx context.Context, from, to string, at Point, progress Progress) (Report, error) {
	if err := tenantid.Check(to); err != nil {
		return Report{}, err
	}
	held, err := s.registry.LoadAny(ctx, from)
	if err != nil {
		return Report{}, err
	}
	if err := s.vacant(ctx, "fork", to); err != nil {
		return Report{}, err
	}
	versions, err := s.versions(ctx, &held.Record, at)
	if err != nil {
		return Report{}, err
	}
	var report Report
	databases := make(map[string]*tenant.Database)
	for _, v := range versions {
		d, err := s.copyHistory(ctx, from, to, &v, at, progress)
		if err != nil {
			return report, err
		}
		databases[v.Path] = d
		report.Databases = append(report.Databases, copied(v.Path, v.At, d))
	}
	files, err := s.copyFiles(ctx, from, to, progress)
	if err != nil {
		return report, err
	}
	report.Files = len(files.Entries)
	return report, s.publish(ctx, to, databases, files)
}

func copied(path string, at history.Position, d *tenant.Database) Copied {
	at.TXID = d.TXID
	return Copied{Path: path, At: at, Bytes: int64(d.PageSize) * int64(d.Pages)}
}

// copyHistory copies the history of a database up to a version into a new folder,
// and returns what the record is to say of it.
func (s *Service) copyHistory(ctx context.Context, from, to string, v *Version, at Point, progress Progress) (*tenant.Database, error) {
	log := s.log(from, v.Folder)
	d := tenant.Database{Mode: v.Mode, Modified: v.Modified}
	err := standing(ctx, log, v, at, func() error {
		d.Folder = tenant.NewFolder(v.Path) // of each attempt, since what one left is not for the next
		x, err := log.LoadAt(ctx, v.At.TXID)
		if err != nil {
			return err
		}
		d.PageSize, d.Pages = x.Size()
		return log.CopyTo(ctx, tenant.DatabaseFolder(to, d.Folder), v.At.TXID, func(done, total int) {
			progress.report("copy", to+"/"+v.Path, int64(done), int64(total), "objects")
		})
	})
	d.TXID = v.At.TXID
	if !v.At.Time.IsZero() {
		d.Modified = v.At.Time
	}
	return &d, err
}

// copyFiles copies the contents of all plain files. The index that names them is
// written by publish.
func (s *Service) copyFiles(ctx context.Context, from, to string, progress Progress) (*tenant.FileIndex, error) {
	index, err := tenant.NewFiles(s.bucket, from).Load(ctx)
	if err != nil {
		return nil, err
	}
	for i, f := range index.Entries {
		if f.Content != "" {
			if err := s.bucket.Copy(ctx, tenant.ContentKey(from, f.Content), tenant.ContentKey(to, f.Content)); err != nil {
				return nil, errors.E("copy file", to+"/"+f.Path, errors.Other, gone(err))
			}
		}
		progress.report("copy", to+"'s files", int64(i+1), int64(len(index.Entries)), "files")
	}
	return index, nil
}

// gone says what to do where a file of a tenant in use was replaced meanwhile.
func gone(err error) error {
	if errors.Is(errors.NotExist, err) {
		return errors.E("read", "", errors.Unavailable, fmt.Errorf("it was replaced meanwhile, try again: %w", err))
	}
	return err
}

// publish makes a tenant of what was copied: first the index of its files, last
// the record. Should another tenant of that ID have come into being meanwhile,
// that one stays.
func (s *Service) publish(ctx context.Context, id string, databases map[string]*tenant.Database, files *tenant.FileIndex) error {
	store := tenant.NewFiles(s.bucket, id)
	if err := s.putFiles(ctx, store, files); err != nil {
		return err
	}
	if err := s.registry.CreateWith(ctx, id, databases); err != nil {
		return err
	}
	// Another fork of that ID, which lost, may have written its index in between.
	there, err := store.Load(ctx)
	if err == nil && !slices.Equal(there.Entries, files.Entries) {
		err = s.putFiles(ctx, store, files)
	}
	return err
}

// putFiles writes an index over what an attempt that was interrupted left.
func (s *Service) putFiles(ctx context.Context, store *tenant.Files, files *tenant.FileIndex) error {
	there, err := store.Load(ctx)
	if err != nil {
		return err
	}
	if len(files.Entries) == 0 && len(there.Entries) == 0 {
		return nil
	}
	next := there.Next(max(there.Epoch, 1))
	next.Entries = files.Entries
	return store.Save(ctx, next)
}
