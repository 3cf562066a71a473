package bucket

import (
	"context"
	stderrors "errors"
	"io"
	"iter"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
)

// Listings of the directory store: a walk in the order of keys, which is not
// that of names. "a.b" comes before "a/b", so a folder is sorted as its name
// with the slash. Folders without an object are not there for a listing.

// List yields the entries below prefix.
func (d *directory) List(ctx context.Context, prefix string, opts ListOptions) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if err := checkList(prefix, opts, 0); err != nil {
			yield(Entry{}, err)
			return
		}
		w := &walk{d: d, ctx: ctx, prefix: prefix, opts: opts, yield: yield}
		if _, err := w.folder(prefix[:strings.LastIndex(prefix, "/")+1]); err != nil {
			yield(Entry{}, dirError("list", prefix, err))
		}
	}
}

// walk is one listing on its way.
type walk struct {
	d      *directory
	ctx    context.Context
	prefix string
	opts   ListOptions
	yield  func(Entry, error) bool
	count  int
}

// folder lists one folder, given as "" or as a key with a slash at its end. It
// returns false when the listing is to end.
func (w *walk) folder(at string) (more bool, err error) {
	if err := w.ctx.Err(); err != nil {
		return false, err
	}
	names, err := w.names(at)
	if err != nil {
		return false, err
	}
	for _, name := range names {
		key := at + name
		isFolder := strings.HasSuffix(key, "/")
		switch {
		case isFolder && !strings.HasPrefix(key, w.prefix) && !strings.HasPrefix(w.prefix, key),
			!isFolder && !strings.HasPrefix(key, w.prefix),
			key <= w.opts.After && !(isFolder && strings.HasPrefix(w.opts.After, key)):
			continue // nothing in it is asked for
		}
		more := true
		if isFolder && !(w.opts.Delimiter && len(key) > len(w.prefix)) {
			more, err = w.folder(key)
		} else {
			more, err = w.entry(key, isFolder)
		}
		if err != nil || !more {
			return false, err
		}
	}
	return true, nil
}

// entry yields an object or a folded folder, if it still is one.
func (w *walk) entry(key string, isFolder bool) (more bool, err error) {
	if err := w.ctx.Err(); err != nil {
		return false, err
	}
	e := Entry{Key: key}
	if isFolder {
		if key <= w.opts.After {
			return true, nil
		}
		if holds, err := w.d.holdsObject(key); err != nil || !holds {
			return err == nil, err
		}
	} else {
		st, err := os.Lstat(w.d.path(key))
		if stderrors.Is(err, os.ErrNotExist) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		e.Size, e.Modified = st.Size(), st.ModTime()
	}
	w.count++
	return w.yield(e, nil) && w.count != w.opts.Limit, nil
}

// names reads a folder's objects and folders (with a slash), sorted as keys.
func (w *walk) names(at string) ([]string, error) {
	entries, err := os.ReadDir(w.d.path(at))
	if gone(err) || err == nil && len(entries) == 0 {
		return nil, w.d.present()
	}
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if name := keyName(at, e); name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// keyName is the segment that a directory entry is in a key, or nothing if it
// is none: a link, a pipe, the store's own folder, a name that no key has.
func keyName(at string, e os.DirEntry) string {
	name := e.Name()
	if !e.IsDir() && !e.Type().IsRegular() || keyFault(at+name, 0) != "" {
		return ""
	}
	if e.IsDir() {
		name += "/"
	}
	return name
}

// holdsObject reports whether a folder has an object at any depth.
func (d *directory) holdsObject(at string) (bool, error) {
	f, err := os.Open(d.path(at))
	if gone(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	var folders []string
	for {
		entries, err := f.ReadDir(64)
		for _, e := range entries {
			switch name := keyName(at, e); {
			case name == "":
			case e.IsDir():
				folders = append(folders, path.Join(at, name)+"/")
			default:
				return true, nil
			}
		}
		if err == io.EOF || gone(err) {
			break
		}
		if err != nil {
			return false, err
		}
	}
	for _, sub := range folders {
		if holds, err := d.holdsObject(sub); err != nil || holds {
			return holds, err
		}
	}
	return false, nil
}

// gone reports a folder that is not there, or an object in its place.
func gone(err error) bool {
	return stderrors.Is(err, os.ErrNotExist) || isErrno(err, syscall.ENOTDIR)
}
