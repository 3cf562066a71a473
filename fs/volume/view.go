package volume

import (
	"context"
	"hash/fnv"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"atc/fs/errors"
	"atc/fs/tenant"
)

// This file defines the view: what is shown of a tenant that is not ours. Names,
// sizes and times come from the record and the file index, so that looking at a
// tenant neither takes it from whoever has it nor fetches anything of it.

// viewFor is how long a view may be shown before it is read again.
const viewFor = time.Second

// view is a tenant as the bucket tells. Tenant.viewing protects it.
type view struct {
	record  *tenant.Held
	files   *tenant.FileIndex // nil until something asks for plain files
	at      time.Time
	took    time.Duration        // to read the record
	entries map[string]viewEntry // by path; of the databases alone while files is nil
}

// viewEntry is a path in a view. It is an os.DirEntry.
type viewEntry struct {
	path   string
	stat   syscall.Stat_t
	target string
}

var _ os.DirEntry = viewEntry{}

func (e viewEntry) Name() string { return path.Base(e.path) }
func (e viewEntry) IsDir() bool  { return e.Type().IsDir() }
func (e viewEntry) Info() (fs.FileInfo, error) {
	return nil, errors.E("stat", e.path, errors.Unsupported, nil)
}

func (e viewEntry) Type() fs.FileMode {
	switch e.stat.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		return fs.ModeDir
	case syscall.S_IFLNK:
		return fs.ModeSymlink
	}
	return 0
}

// viewed returns what is to be shown of a tenant that is not ours; nil if it is,
// or if local files of a killed run know more than the bucket. With all, plain
// files are in it.
func (t *Tenant) viewed(ctx context.Context, all bool) (*view, error) {
	t.mu.Lock()
	owned, lost := t.held != nil, t.lost
	t.mu.Unlock()
	if lost != nil {
		return nil, lost
	}
	if owned || t.leftUnclean() {
		return nil, nil
	}
	t.viewing.Lock()
	defer t.viewing.Unlock()
	now := t.v.opts.Now()
	v := t.view
	if v == nil || now.Sub(v.at) > viewFor {
		began := time.Now()
		held, err := t.v.registry.Load(ctx, t.id)
		if err != nil {
			return nil, err
		}
		v = newView(held, now)
		v.took = time.Since(began)
		t.view = v
	}
	if all && v.files == nil {
		files, err := t.contents.LoadWith(ctx, v.record.Files)
		if err != nil {
			return nil, err
		}
		v.addFiles(files)
	}
	return v, nil
}

// leftUnclean reports whether a run that was killed left local files here.
func (t *Tenant) leftUnclean() bool {
	local, err := readLocal(t.dir)
	return err != nil || local.Ready && !local.Clean
}

// newView shows a record.
func newView(held *tenant.Held, now time.Time) *view {
	v := &view{record: held, at: now, entries: make(map[string]viewEntry)}
	v.add("", syscall.S_IFDIR|0o755, 0, held.Created, "")
	for p, d := range held.Databases {
		v.add(p, syscall.S_IFREG|d.Mode&0o777, int64(d.PageSize)*int64(d.Pages), d.Modified, "")
	}
	return v
}

func (v *view) addFiles(x *tenant.FileIndex) {
	v.files = x
	for _, f := range x.Entries {
		mode := f.Mode & 0o777
		switch f.Kind {
		case tenant.Directory:
			mode |= syscall.S_IFDIR
		case tenant.Symlink:
			mode |= syscall.S_IFLNK
		default:
			mode |= syscall.S_IFREG
		}
		v.add(f.Path, mode, f.Size, f.Modified, f.Target)
	}
}

// add notes a path, and the folders above it that nothing was said of yet.
func (v *view) add(p string, mode uint32, size int64, modified time.Time, target string) {
	h := fnv.New64a()
	h.Write([]byte(p))
	e := viewEntry{path: p, target: target}
	e.stat.Mode, e.stat.Nlink, e.stat.Size, e.stat.Ino = mode, 1, size, h.Sum64()
	e.stat.Blksize, e.stat.Blocks = 4096, (size+511)/512
	e.stat.Uid, e.stat.Gid = uint32(os.Getuid()), uint32(os.Getgid())
	if !modified.IsZero() {
		e.stat.Mtim = syscall.NsecToTimespec(modified.UnixNano())
		e.stat.Ctim, e.stat.Atim = e.stat.Mtim, e.stat.Mtim
	}
	v.entries[p] = e
	if p == "" {
		return
	}
	if dir := above(p); v.entries[dir].stat.Mode == 0 {
		v.add(dir, syscall.S_IFDIR|0o755, 0, modified, "")
	}
}

// above is the folder that a path is in.
func above(p string) string {
	if dir := path.Dir(p); dir != "." {
		return dir
	}
	return ""
}

func (v *view) find(p string) (viewEntry, error) {
	e, ok := v.entries[p]
	if !ok {
		return e, syscall.ENOENT
	}
	return e, nil
}

// list returns what is in a folder.
func (v *view) list(dir string) ([]os.DirEntry, error) {
	if e, err := v.find(dir); err != nil || !e.IsDir() {
		return nil, syscall.ENOTDIR
	}
	var in []os.DirEntry
	for p, e := range v.entries {
		if p != "" && above(p) == dir {
			in = append(in, e)
		}
	}
	slices.SortFunc(in, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return in, nil
}

// look finds a path in the view of a tenant that is not ours. Where the tenant
// is ours it reports false.
func (t *Tenant) look(ctx context.Context, p string) (viewEntry, bool, error) {
	v, err := t.viewed(ctx, false)
	if v == nil || err != nil {
		return viewEntry{}, false, err
	}
	if e, err := v.find(p); err == nil {
		return e, true, nil
	}
	if v, err = t.viewed(ctx, true); v == nil || err != nil {
		return viewEntry{}, false, err
	}
	e, err := v.find(p)
	return e, true, err
}
