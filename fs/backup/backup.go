// Package backup works on whole tenants at rest, on the bucket: copies of them,
// returns to an earlier time, files out and files in, and whether all is sound.
// It needs no mount and no cache folder.
//
//	s := backup.New(b, tenant.NewRegistry(b, lease, watcher, time.Now))
//	report, err := s.Fork(ctx, "acme", "acme-copy", backup.Point{}, nil)
//	findings, err := s.Verify(ctx, "acme", nil)
//
// Nothing but [Service.Restore] in place takes a tenant: all else reads what was
// shipped, also while another machine serves the tenant. And nothing here deletes:
// what a restore replaces stays in the bucket, named by the record's Removed.
//
// A tenant that is made here becomes visible with its record, which is written
// last. An operation that was interrupted before leaves objects that nothing
// names; doing it again begins anew.
//
// # Limitations
//
// Plain files have no history: a fork, an export and a restore have them as they
// are now, whatever the time. Nor have the names of databases: one that was
// renamed since appears under its present name. Of one that was removed, the name
// it had at the end counts. Databases are consistent one by one, not with each
// other, where the tenant is served meanwhile.
package backup

import (
	"context"
	"fmt"
	"time"

	"atc/fs/bucket"
	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/tenant"
)

// Service does operations on the tenants of one bucket. Its methods may be
// called concurrently.
type Service struct {
	bucket   bucket.Bucket
	registry *tenant.Registry
	now      func() time.Time
}

// New returns the operations on b. The registry names the session that restores
// in place; now is the clock, time.Now in a program.
func New(b bucket.Bucket, r *tenant.Registry, now func() time.Time) *Service {
	return &Service{bucket: b, registry: r, now: now}
}

// Point says which state is meant; the zero value is what was shipped last.
type Point struct {
	Time     time.Time    // the state at this time
	TXID     history.TXID // or after exactly this transaction; wants Database where there are several
	Database string       // only the database at this path; empty for all
}

// Latest reports whether the point is what was shipped last.
func (p Point) Latest() bool { return p.Time.IsZero() && p.TXID == 0 }

// Report is what an operation did.
type Report struct {
	Databases []Copied
	Files     int // plain files, folders and symlinks
}

// Copied is a database of a report.
type Copied struct {
	Path  string
	At    history.Position
	Bytes int64 // of the database
	Kept  bool  // it was left as it is
}

// Progress is called with what is being done to what, and how far it is. Total
// is 0 where nobody knows; unit names what is counted. It may be called from
// several goroutines at once, and is not to block.
type Progress func(step, object string, done, total int64, unit string)

func (p Progress) report(step, object string, done, total int64, unit string) {
	if p != nil {
		p(step, object, done, total, unit)
	}
}

func (s *Service) log(id string, folder string) *history.Log {
	return history.NewLog(s.bucket, tenant.DatabaseFolder(id, folder))
}

// vacant fails with Exist if there is a tenant of that ID.
func (s *Service) vacant(ctx context.Context, op, id string) error {
	_, err := s.registry.Load(ctx, id)
	switch {
	case errors.Is(errors.NotExist, err):
		return nil
	case err != nil:
		return err
	}
	return errors.E(op, id, errors.Exist, fmt.Errorf("there is a tenant of this ID; choose another one"))
}
