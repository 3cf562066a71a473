package backup

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/journal"
	"atc/fs/tenant"
	"atc/fs/tenant/tenantid"
)

// This file defines the way in: a folder of ordinary files becomes a tenant. The
// folder is only read. A database that was not closed cleanly is recovered on a
// private copy, see recover.go.

// Import makes tenant id of what is in dir: SQLite files, of any journal mode,
// become databases, with one snapshot as their history; the rest becomes plain
// files. Devices, sockets and pipes are refused. Nobody may write in dir
// meanwhile; a database that changes while it is read is an error.
func (s *Service) Import(ctx context.Context, dir, id string, progress Progress) (Report, error) {
	if err := tenantid.Check(id); err != nil {
		return Report{}, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Report{}, errors.E("import", dir, errors.Other, err)
	}
	defer root.Close()
	if err := s.vacant(ctx, "import", id); err != nil {
		return Report{}, err
	}
	found, err := survey(ctx, root)
	if err != nil {
		return Report{}, err
	}
	var report Report
	databases := make(map[string]*tenant.Database)
	for _, f := range found.databases {
		d, err := s.importDatabase(ctx, root, id, f, progress)
		if err != nil {
			return report, errors.E("import", filepath.Join(dir, f.Path), errors.Other, err)
		}
		databases[f.Path] = d
		report.Databases = append(report.Databases, copied(f.Path, history.Position{TXID: d.TXID, Time: s.now()}, d))
	}
	files := tenant.NewFiles(s.bucket, id)
	for i := range found.files {
		f := &found.files[i]
		if f.Kind == tenant.Regular && f.Size > 0 {
			if err := importFile(ctx, root, files, f); err != nil {
				return report, errors.E("import", filepath.Join(dir, f.Path), errors.Other, err)
			}
		}
		progress.report("import", id+"'s files", int64(i+1), int64(len(found.files)), "files")
	}
	report.Files = len(found.files)
	return report, s.publish(ctx, id, databases, &tenant.FileIndex{Entries: found.files})
}

// found is what a folder holds.
type found struct {
	databases []tenant.FileEntry
	files     []tenant.FileEntry
}

// survey looks at everything in a folder. What stands beside a database is a
// part of it, and no file of its own.
func survey(ctx context.Context, root *os.Root) (found, error) {
	var (
		all       found
		databases = make(map[string]bool)
	)
	err := fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || p == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		f := tenant.FileEntry{Path: p, Mode: uint32(info.Mode().Perm()), Modified: info.ModTime()}
		switch {
		case d.IsDir():
			f.Kind = tenant.Directory
		case d.Type()&fs.ModeSymlink != 0:
			f.Kind = tenant.Symlink
			if f.Target, err = root.Readlink(p); err != nil {
				return err
			}
		case d.Type().IsRegular():
			f.Kind, f.Size = tenant.Regular, info.Size()
			is, err := isDatabase(root, p)
			if err != nil {
				return err
			}
			if is {
				databases[p] = true
				all.databases = append(all.databases, f)
				return nil
			}
		default:
			return errors.E("import", p, errors.Unsupported, fmt.Errorf("it is neither a file nor a folder nor a symlink: %v", d.Type()))
		}
		all.files = append(all.files, f)
		return nil
	})
	if err != nil {
		return all, errors.E("import", root.Name(), errors.Other, err)
	}
	files := all.files[:0]
	for _, f := range all.files {
		if base, role := journal.SplitSidecar(f.Path); role != journal.None && databases[base] {
			continue
		}
		files = append(files, f)
	}
	all.files = files
	return all, nil
}

// isDatabase reports whether a file is a database, or will be one when what
// stands in its log is in it: the first commit of one in WAL mode.
func isDatabase(root *os.Root, p string) (bool, error) {
	f, err := root.Open(p)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var b [journal.HeaderSize]byte
	n, err := f.ReadAt(b[:], 0)
	if err != nil && err != io.EOF {
		return false, err
	}
	_, ok := journal.ParseHeader(b[:n])
	return ok, nil
}

// importDatabase puts one database as the first transaction of a history.
func (s *Service) importDatabase(ctx context.Context, root *os.Root, id string, f tenant.FileEntry, progress Progress) (*tenant.Database, error) {
	in, done, err := recovered(ctx, root, f.Path)
	if err != nil {
		return nil, err
	}
	defer done()
	before, err := in.Stat()
	if err != nil {
		return nil, err
	}
	size, pages, err := extent(in, before.Size())
	if err != nil {
		return nil, err
	}
	file, err := os.CreateTemp("", "atc-import-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	c := history.Commit{PageSize: size, Pages: pages, TXID: 1, Time: s.now(), Epoch: 1}
	places, err := history.Encode(file, c, func(yield func(history.Page, error) bool) {
		data := make([]byte, size)
		for p := uint32(1); p <= pages; p++ {
			if p == journal.LockPage(size) {
				continue
			}
			_, err := in.ReadAt(data, int64(p-1)*int64(size))
			if err == nil {
				err = ctx.Err()
			}
			if !yield(history.Page{Number: p, Data: data}, err) || err != nil {
				return
			}
			progress.report("import", id+"/"+f.Path, int64(p)*int64(size), int64(pages)*int64(size), "bytes")
		}
	})
	if err != nil {
		return nil, err
	}
	after, err := in.Stat()
	if err != nil {
		return nil, err
	}
	if after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		return nil, changed()
	}
	d := &tenant.Database{Folder: tenant.NewFolder(f.Path), TXID: 1, PageSize: size, Pages: pages, Mode: f.Mode, Modified: f.Modified}
	log := s.log(id, d.Folder)
	ref, err := log.Append(ctx, c, file)
	if err != nil {
		return nil, err
	}
	x := history.NewIndex()
	if err := x.Apply(ref, c, places); err != nil {
		return nil, err
	}
	_, err = log.SaveIndex(ctx, x)
	return d, err
}

func changed() error {
	return errors.E("read", "", errors.Busy, fmt.Errorf("it changed while it was read; stop what writes it"))
}

// extent is the size of a database: what its header says where that is valid,
// else what the file has (file format, section 1.3.7).
func extent(in io.ReaderAt, bytes int64) (size int, pages uint32, err error) {
	var b [journal.HeaderSize]byte
	if _, err := in.ReadAt(b[:], 0); err != nil {
		return 0, 0, err
	}
	h, ok := journal.ParseHeader(b[:])
	if !ok {
		return 0, 0, errors.E("read", "", errors.Corrupt, fmt.Errorf("it does not begin as a database any more"))
	}
	n := bytes / int64(h.PageSize)
	if h.ValidFor == h.ChangeCounter && h.Pages != 0 {
		if int64(h.Pages) > n {
			return 0, 0, errors.E("read", "", errors.Corrupt, fmt.Errorf("it has %d pages, and its header says %d", n, h.Pages))
		}
		n = int64(h.Pages)
	}
	if n == 0 || n > 0xfffffffe {
		return 0, 0, errors.E("read", "", errors.Corrupt, fmt.Errorf("%d pages", n))
	}
	return h.PageSize, uint32(n), nil
}

func importFile(ctx context.Context, root *os.Root, files *tenant.Files, f *tenant.FileEntry) error {
	in, err := root.Open(f.Path)
	if err != nil {
		return err
	}
	defer in.Close()
	f.Content, err = files.Put(ctx, io.NewSectionReader(in, 0, f.Size))
	if err != nil {
		return err
	}
	if info, err := in.Stat(); err != nil || info.Size() < f.Size {
		return changed()
	}
	return nil
}
