package backup

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/tenant"
)

// This file defines the way out: a tenant as ordinary files in a folder. What
// the bucket says a path is may not lead out of that folder, so everything is
// made through os.Root.

// Export writes the databases of a tenant as they were at a point, and its plain
// files as they are, into dir, which is made, or is empty. Each database is one
// SQLite file without sidecars. The tenant may be in use, or removed. After an
// interrupt or an error the folder is as it was.
func (s *Service) Export(ctx context.Context, id, dir string, at Point, progress Progress) (report Report, err error) {
	held, err := s.registry.LoadAny(ctx, id)
	if err != nil {
		return Report{}, err
	}
	versions, err := s.versions(ctx, &held.Record, at)
	if err != nil {
		return Report{}, err
	}
	out, err := openExport(dir)
	if err != nil {
		return Report{}, err
	}
	defer func() {
		if closeErr := out.close(err == nil); err == nil && closeErr != nil {
			err = errors.E("export", dir, errors.Other, closeErr)
		}
	}()
	if at.Database == "" {
		if report.Files, err = s.exportFiles(ctx, id, out, progress); err != nil {
			return report, err
		}
	}
	for _, v := range versions {
		c, err := s.exportDatabase(ctx, id, v, at, out, progress)
		if err != nil {
			return report, errors.E("export", id+"/"+v.Path, errors.Other, err)
		}
		report.Databases = append(report.Databases, c)
	}
	return report, out.settleFolders()
}

// exportDatabase writes one database under a temporary name, and renames it when
// it is whole and on disk.
func (s *Service) exportDatabase(ctx context.Context, id string, v Version, at Point, out *export, progress Progress) (Copied, error) {
	log := s.log(id, v.Folder)
	var x *history.Index
	err := standing(ctx, log, &v, at, func() (err error) {
		x, err = log.LoadAt(ctx, v.At.TXID)
		return err
	})
	if err != nil {
		return Copied{}, err
	}
	size, pages := x.Size()
	c := Copied{Path: v.Path, At: v.At, Bytes: int64(size) * int64(pages)}
	mode := fs.FileMode(v.Mode).Perm()
	if mode == 0 {
		mode = 0o644
	}
	modified := v.At.Time
	if modified.IsZero() {
		modified = v.Modified
	}
	return c, out.file(v.Path, mode, modified, func(f *os.File) error {
		if err := f.Truncate(c.Bytes); err != nil {
			return err
		}
		return log.WriteTo(ctx, x, f, func(done, total uint32) {
			progress.report("export", id+"/"+v.Path, int64(done)*int64(size), int64(total)*int64(size), "bytes")
		})
	})
}

func (s *Service) exportFiles(ctx context.Context, id string, out *export, progress Progress) (int, error) {
	files := tenant.NewFiles(s.bucket, id)
	index, err := files.Load(ctx)
	if err != nil {
		return 0, err
	}
	for i, f := range index.Entries {
		if err := ctx.Err(); err != nil {
			return i, errors.E("export", id+"/"+f.Path, errors.Other, err)
		}
		if err := out.entry(f, func(w io.Writer) error { return gone(files.Fetch(ctx, f.Content, w)) }); err != nil {
			return i, errors.E("export", id+"/"+f.Path, errors.Other, err)
		}
		progress.report("export", id+"'s files", int64(i+1), int64(len(index.Entries)), "files")
	}
	return len(index.Entries), nil
}

// export is the folder that is being filled.
type export struct {
	dir     string
	made    bool // the folder was made by us
	root    *os.Root
	folders []tenant.FileEntry // whose modes and times are set last
}

func openExport(dir string) (*export, error) {
	made := true
	if err := os.Mkdir(dir, 0o755); err != nil {
		if made = false; !os.IsExist(err) {
			return nil, errors.E("export to", dir, errors.Other, err)
		}
	}
	there, err := os.ReadDir(dir)
	if err != nil {
		return nil, errors.E("export to", dir, errors.Other, err)
	}
	if len(there) > 0 {
		return nil, errors.E("export to", dir, errors.Exist, fmt.Errorf("the folder is not empty; name one that is, or that is not there yet"))
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, errors.E("export to", dir, errors.Other, err)
	}
	return &export{dir: dir, made: made, root: root}, nil
}

// close ends the export; without success everything in the folder goes.
func (o *export) close(success bool) error {
	defer o.root.Close()
	if success {
		d, err := o.root.Open(".")
		if err != nil {
			return err
		}
		defer d.Close()
		return unix.Syncfs(int(d.Fd()))
	}
	there, err := fs.ReadDir(o.root.FS(), ".")
	for _, e := range there {
		if err := o.root.RemoveAll(e.Name()); err != nil {
			return err
		}
	}
	if err == nil && o.made {
		err = os.Remove(o.dir)
	}
	return err
}

func (o *export) parents(p string) error {
	if dir := path.Dir(p); dir != "." {
		return o.root.MkdirAll(dir, 0o755)
	}
	return nil
}

// file makes one file, whole or not at all.
func (o *export) file(p string, mode fs.FileMode, modified time.Time, fill func(*os.File) error) error {
	if err := o.parents(p); err != nil {
		return err
	}
	if _, err := o.root.Lstat(p); err == nil {
		return errors.E("export", p, errors.Corrupt, fmt.Errorf("the bucket names it twice"))
	}
	partial := path.Join(path.Dir(p), ".atc-partial-"+rand.Text()[:12])
	f, err := o.root.OpenFile(partial, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := fill(f); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if !modified.IsZero() {
		if err := o.root.Chtimes(partial, modified, modified); err != nil {
			return err
		}
	}
	return o.root.Rename(partial, p)
}

// entry makes what an entry of the file index says.
func (o *export) entry(e tenant.FileEntry, fetch func(io.Writer) error) error {
	switch e.Kind {
	case tenant.Directory:
		o.folders = append(o.folders, e)
		return o.root.MkdirAll(e.Path, 0o755)
	case tenant.Symlink:
		if err := o.parents(e.Path); err != nil {
			return err
		}
		return o.root.Symlink(e.Target, e.Path) // where it points is not followed here
	case tenant.Regular:
		return o.file(e.Path, fs.FileMode(e.Mode).Perm(), e.Modified, func(f *os.File) error {
			if e.Content == "" {
				return f.Truncate(0)
			}
			if err := fetch(f); err != nil {
				return err
			}
			info, err := f.Stat()
			if err != nil {
				return err
			}
			if info.Size() != e.Size {
				return errors.E("export", e.Path, errors.Corrupt, fmt.Errorf("it has %d bytes in the bucket, and should have %d", info.Size(), e.Size))
			}
			return nil
		})
	}
	return errors.E("export", e.Path, errors.Corrupt, fmt.Errorf("unknown kind %q", e.Kind))
}

// settleFolders sets modes and times of folders, after what is in them.
func (o *export) settleFolders() error {
	for i := len(o.folders) - 1; i >= 0; i-- {
		f := o.folders[i]
		if err := o.root.Chmod(f.Path, fs.FileMode(f.Mode).Perm()); err != nil {
			return err
		}
		if !f.Modified.IsZero() {
			if err := o.root.Chtimes(f.Path, f.Modified, f.Modified); err != nil {
				return err
			}
		}
	}
	return nil
}
