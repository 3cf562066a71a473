package backup

import (
	"context"
	stderrors "errors"
	"fmt"
	"strings"

	"github.com/ncruces/go-sqlite3"

	"atc/fs/bucket"
	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/history/pages"
	"atc/fs/history/vfs"
	"atc/fs/tenant"
)

// This file defines verification: every database is read whole from the bucket,
// as a restore would, and asked about itself.

// Finding is something that is not as it should be.
type Finding struct {
	Path   string // of a database or a plain file
	Damage bool   // data is lost or wrong; else it is only worth knowing
	Text   string
}

// Verify reads everything that a tenant has in the bucket, at the last position,
// and reports what is damaged. It takes nothing: whoever serves the tenant does
// not notice. The error is for what prevented it from finding out.
func (s *Service) Verify(ctx context.Context, id string, progress Progress) (Report, []Finding, error) {
	held, err := s.registry.Load(ctx, id)
	if err != nil {
		return Report{}, nil, err
	}
	var (
		report   Report
		findings []Finding
	)
	for _, path := range paths(&held.Record) {
		c, found, err := s.verifyDatabase(ctx, id, path, held.Databases[path], progress)
		if err != nil {
			return report, findings, errors.E("verify", id+"/"+path, errors.Other, err)
		}
		findings = append(findings, found...)
		report.Databases = append(report.Databases, c)
	}
	n, found, err := s.verifyFiles(ctx, id, progress)
	if err != nil {
		return report, findings, errors.E("verify files", id, errors.Other, err)
	}
	report.Files = n
	return report, append(findings, found...), nil
}

// verifyDatabase checks one database. While it reads, the owner may replace files
// by merged ones; then it begins anew at the position that is the last by then.
func (s *Service) verifyDatabase(ctx context.Context, id, path string, d *tenant.Database, progress Progress) (Copied, []Finding, error) {
	const tries = 3
	log := s.log(id, d.Folder)
	for try := 1; ; try++ {
		_, last, err := log.Range(ctx)
		if errors.Is(errors.NotExist, err) {
			if d.TXID == 0 {
				return Copied{Path: path}, []Finding{{Path: path, Text: "nothing of it was shipped yet"}}, nil
			}
			return Copied{Path: path}, []Finding{{path, true, fmt.Sprintf("it has no history, and stood at transaction %s", d.TXID)}}, nil
		}
		if err != nil {
			return unless(path, err)
		}
		if last.TXID < d.TXID {
			return Copied{Path: path}, []Finding{{path, true, fmt.Sprintf("its history ends at transaction %s, and it stood at %s", last.TXID, d.TXID)}}, nil
		}
		x, err := log.LoadAt(ctx, last.TXID)
		if err == nil {
			size, pages := x.Size()
			var found []Finding
			found, err = s.integrity(ctx, id, path, log, x, progress)
			if err == nil {
				return Copied{Path: path, At: last, Bytes: int64(size) * int64(pages)}, found, nil
			}
		}
		if !errors.Is(errors.NotExist, err) || try == tries {
			if errors.Is(errors.NotExist, err) {
				err = errors.E("read", path, errors.Corrupt, err)
			}
			return unless(path, err)
		}
	}
}

// unless makes a finding of damage, and leaves any other failure one.
func unless(path string, err error) (Copied, []Finding, error) {
	if errors.Is(errors.Corrupt, err) {
		return Copied{Path: path}, []Finding{{path, true, err.Error()}}, nil
	}
	return Copied{Path: path}, nil, err
}

// integrity asks SQLite. The error is of a read that failed.
func (s *Service) integrity(ctx context.Context, id, path string, log *history.Log, x *history.Index, progress Progress) ([]Finding, error) {
	const most = 20 // findings of one database
	db := vfs.Open(ctx, id+"/"+path, log, x, pages.Options{Cache: 32 << 20, Most: 4 << 20, Progress: func(fetched int64) {
		size, pages := x.Size()
		progress.report("verify", id+"/"+path, min(fetched, int64(pages)*int64(size)), int64(pages)*int64(size), "bytes")
	}})
	defer db.Close()
	conn, err := db.Connect()
	if err != nil {
		if says := sqliteSays(err); says != "" && db.Err() == nil {
			return []Finding{{path, true, says}}, nil
		}
		return nil, failed(ctx, path, db, err)
	}
	defer conn.Close()
	conn.SetInterrupt(ctx)
	var found []Finding
	err = each(conn, fmt.Sprintf("pragma integrity_check(%d)", most), func(s *sqlite3.Stmt) {
		if text := s.ColumnText(0); text != "ok" {
			found = append(found, Finding{path, true, text})
		}
	})
	if db.Err() != nil || err != nil && sqliteSays(err) == "" {
		return nil, failed(ctx, path, db, err)
	}
	if err != nil {
		return append(found, Finding{path, true, sqliteSays(err)}), nil
	}
	orphans := make(map[string]int)
	err = each(conn, "pragma foreign_key_check", func(s *sqlite3.Stmt) {
		orphans[s.ColumnText(0)+" → "+s.ColumnText(2)]++
	})
	if db.Err() != nil {
		return nil, failed(ctx, path, db, err)
	}
	if err != nil { // a schema whose keys mean nothing, which SQLite takes
		found = append(found, Finding{Path: path, Text: "foreign keys cannot be checked: " + err.Error()})
	}
	for key, n := range orphans {
		found = append(found, Finding{Path: path, Text: fmt.Sprintf("%d rows break a foreign key, %s", n, key)})
	}
	return found, nil
}

// sqliteSays is what SQLite finds wrong with a database's content; empty for any
// other error.
func sqliteSays(err error) string {
	if stderrors.Is(err, sqlite3.CORRUPT) || stderrors.Is(err, sqlite3.NOTADB) {
		return err.Error()
	}
	return ""
}

// failed is why a read failed, which SQLite does not know.
func failed(ctx context.Context, path string, db *vfs.Database, err error) error {
	if ctx.Err() != nil {
		return errors.E("check", path, errors.Other, ctx.Err())
	}
	if dbErr := db.Err(); dbErr != nil {
		return dbErr
	}
	return errors.E("check", path, errors.Other, err)
}

func each(conn *sqlite3.Conn, sql string, fn func(*sqlite3.Stmt)) error {
	s, _, err := conn.Prepare(sql)
	if err != nil {
		return err
	}
	defer s.Close()
	for s.Step() {
		fn(s)
	}
	return s.Err()
}

// verifyFiles compares the file index with the sizes of its contents, which takes
// one listing. What is missing may have been replaced meanwhile: then the index
// is another one.
func (s *Service) verifyFiles(ctx context.Context, id string, progress Progress) (int, []Finding, error) {
	files := tenant.NewFiles(s.bucket, id)
	const tries = 3
	for try := 1; ; try++ {
		index, err := files.Load(ctx)
		if errors.Is(errors.Corrupt, err) {
			return 0, []Finding{{"files", true, err.Error()}}, nil
		}
		if err != nil {
			return 0, nil, err
		}
		sizes := make(map[string]int64)
		prefix := tenant.ContentKey(id, "")
		if len(index.Entries) > 0 {
			for e, err := range s.bucket.List(ctx, prefix, bucket.ListOptions{}) {
				if err != nil {
					return 0, nil, err
				}
				sizes[strings.TrimPrefix(e.Key, prefix)] = e.Size
			}
		}
		var found []Finding
		for _, f := range index.Entries {
			size, there := sizes[f.Content]
			switch {
			case f.Content == "" && f.Size > 0 && f.Kind == tenant.Regular:
				found = append(found, Finding{f.Path, true, "its content was never stored"})
			case f.Content == "":
			case !there:
				found = append(found, Finding{f.Path, true, "its content is not in the bucket"})
			case size != f.Size:
				found = append(found, Finding{f.Path, true, fmt.Sprintf("its content has %d bytes, and should have %d", size, f.Size)})
			}
		}
		progress.report("verify", id+"'s files", int64(len(index.Entries)), int64(len(index.Entries)), "files")
		if len(found) == 0 || try == tries {
			return len(index.Entries), found, nil
		}
	}
}
