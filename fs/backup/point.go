package backup

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/tenant"
)

// This file defines what a tenant consisted of at a point: which databases there
// were, in which folders, and at which transaction each stood.

// Version is a database at a point.
type Version struct {
	Path            string
	At              history.Position
	tenant.Database // as the record has it, which tells of another moment
}

// candidate is a history that may have been at a path.
type candidate struct {
	path    string
	record  tenant.Database
	removed time.Time // zero for one that is there now
}

// there reports whether it was at its path at a time, as far as the record tells.
func (c candidate) there(at time.Time) bool {
	if at.IsZero() {
		return c.removed.IsZero()
	}
	return (c.removed.IsZero() || c.removed.After(at)) && !c.record.Since.After(at)
}

// candidates lists all histories of a tenant, for each path first those that
// ended first.
func candidates(r *tenant.Record) []candidate {
	var all []candidate
	for _, removed := range r.Removed {
		// What is no path or folder is for people only, see tenant.Removed.
		if tenant.SoundPath(removed.Path) && tenant.SoundFolder(removed.Folder) {
			all = append(all, candidate{removed.Path, removed.Database, removed.At})
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return a.removed.Compare(b.removed) })
	for _, path := range paths(r) {
		all = append(all, candidate{path, *r.Databases[path], time.Time{}})
	}
	return all
}

func paths(r *tenant.Record) []string {
	var all []string
	for path := range r.Databases {
		all = append(all, path)
	}
	slices.Sort(all)
	return all
}

// Existed reports whether a tenant may have had databases at a time. Its creation
// does not count: a copy has the history of what it was copied from.
func Existed(r *tenant.Record, at time.Time) bool {
	if r.Deleted.IsZero() || r.Deleted.After(at) {
		return true
	}
	return slices.ContainsFunc(r.Removed, func(removed tenant.Removed) bool { return removed.At.After(at) })
}

// Open returns the log of a history.
type Open func(folder string) *history.Log

// Versions finds the databases that a tenant had at a time, and where each
// stood; with the zero time, where each stands. A database that did not exist
// then is left out. One whose history begins later, so that nobody can tell, is
// in cut: an error of kind NotExist that names what there is. So is a tenant that
// had nothing then.
func Versions(ctx context.Context, r *tenant.Record, at time.Time, open Open) (found []Version, cut []error, err error) {
	var (
		taken       = make(map[string]bool)
		first, last time.Time // of all there is
	)
	for _, c := range candidates(r) {
		if taken[c.path] || !c.there(at) {
			continue
		}
		log := open(c.record.Folder)
		p, err := find(ctx, log, at)
		if err == nil {
			found = append(found, Version{c.path, p, c.record})
			taken[c.path] = true
			continue
		}
		if !errors.Is(errors.NotExist, err) {
			return nil, nil, err
		}
		from, to, err := log.Range(ctx)
		if errors.Is(errors.NotExist, err) {
			continue // nothing of it was ever shipped
		}
		if err != nil {
			return nil, nil, err
		}
		if from.TXID > 1 {
			cut = append(cut, errors.E("find", r.Tenant+"/"+c.path, errors.NotExist,
				fmt.Errorf("not at %s: it can be restored from %s to %s", stamp(at), stamp(from.Time), stamp(to.Time))))
		}
		if first.IsZero() || from.Time.Before(first) {
			first = from.Time
		}
		if to.Time.After(last) {
			last = to.Time
		}
	}
	if len(found) == 0 && len(cut) == 0 && !first.IsZero() {
		cut = append(cut, errors.E("find", r.Tenant, errors.NotExist,
			fmt.Errorf("it had no database at %s: its history goes from %s to %s", stamp(at), stamp(first), stamp(last))))
	}
	slices.SortFunc(found, func(a, b Version) int { return strings.Compare(a.Path, b.Path) })
	return found, cut, nil
}

func find(ctx context.Context, log *history.Log, at time.Time) (history.Position, error) {
	if at.IsZero() {
		_, last, err := log.Range(ctx)
		return last, err
	}
	return log.Find(ctx, at)
}

// standing does something with a version. Where its point has gone since it was
// found, because the tenant is in use and was compacted, the one that the same
// time means by now is taken; v says which.
func standing(ctx context.Context, log *history.Log, v *Version, at Point, do func() error) error {
	const tries = 3
	for try := 1; ; try++ {
		err := do()
		if !errors.Is(errors.NotExist, err) || at.TXID != 0 || try == tries {
			return err
		}
		again, findErr := find(ctx, log, at.Time)
		if findErr != nil {
			return err
		}
		v.At = again
	}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.999Z") }

// versions is what a point means for a tenant.
func (s *Service) versions(ctx context.Context, r *tenant.Record, p Point) ([]Version, error) {
	if p.Time.After(s.now()) {
		return nil, errors.E("find", r.Tenant, errors.Invalid, fmt.Errorf("%s is in the future", stamp(p.Time)))
	}
	if p.TXID != 0 {
		return s.atTransaction(ctx, r, p)
	}
	of := *r
	if p.Database != "" {
		of = only(r, p.Database)
	}
	all, cut, err := Versions(ctx, &of, p.Time, func(folder string) *history.Log { return s.log(r.Tenant, folder) })
	if err == nil && len(cut) > 0 {
		err = cut[0]
	}
	if err == nil && p.Database != "" && len(all) == 0 {
		err = errors.E("find", r.Tenant+"/"+p.Database, errors.NotExist, fmt.Errorf("the databases are: %s", strings.Join(paths(r), ", ")))
	}
	return all, err
}

// only is a record with nothing but the database at path.
func only(r *tenant.Record, path string) tenant.Record {
	of := *r
	of.Databases, of.Removed = nil, nil
	if d := r.Databases[path]; d != nil {
		of.Databases = map[string]*tenant.Database{path: d}
	}
	for _, removed := range r.Removed {
		if removed.Path == path {
			of.Removed = append(of.Removed, removed)
		}
	}
	return of
}

// atTransaction is the one database of a tenant after exactly one transaction.
func (s *Service) atTransaction(ctx context.Context, r *tenant.Record, p Point) ([]Version, error) {
	path := p.Database
	if path == "" {
		all := paths(r)
		if len(all) != 1 {
			return nil, errors.E("find", r.Tenant, errors.Invalid,
				fmt.Errorf("a transaction is one of one database; say which of %s with --db", strings.Join(all, ", ")))
		}
		path = all[0]
	}
	d := r.Databases[path]
	if d == nil {
		return nil, errors.E("find", r.Tenant+"/"+path, errors.NotExist, fmt.Errorf("the databases are: %s", strings.Join(paths(r), ", ")))
	}
	log := s.log(r.Tenant, d.Folder)
	if _, err := log.LoadAt(ctx, p.TXID); err != nil {
		return nil, err
	}
	return []Version{{path, history.Position{TXID: p.TXID}, *d}}, nil
}
