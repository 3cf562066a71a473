package bucket

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"atc/fs/errors"
)

// The store in a local directory: its folders, and reading from it.
//
//	<root>/<key>            the object, a plain file
//	<root>/.atc/lock        held with flock(2) while a name changes
//	<root>/.atc/tmp/        objects being written
//	<root>/.atc/meta/       metadata, for the objects that have any
//
// An object is never changed in place: writing makes a new file and renames it.
// So whoever has one open reads one version of it, and the file's identity (its
// inode, time and size) can be the etag.

// directory is a Bucket in a folder. Several processes may use one folder at
// the same time.
type directory struct {
	root string
	turn chan struct{} // holds one token; who took it may ask for the lock file
}

var _ Bucket = (*directory)(nil)

// openDirectory makes the store's folders where they are missing, removes what
// dead writers left, and checks that etags will work.
func openDirectory(ctx context.Context, root string) (*directory, error) {
	d := &directory{root: root, turn: make(chan struct{}, 1)}
	d.turn <- struct{}{}
	for _, path := range []string{d.own("tmp"), d.own("meta")} {
		if err := makeFolder(path); err != nil {
			return nil, errors.E("open", d.URL(), errors.Other, err)
		}
	}
	if err := d.sweep(ctx); err != nil {
		return nil, errors.E("open", d.URL(), errors.Other, err)
	}
	if err := d.probe(); err != nil {
		return nil, errors.E("open", d.URL(), errors.Other, err)
	}
	return d, nil
}

// own is the path of one of the store's own files.
func (d *directory) own(name ...string) string {
	return filepath.Join(append([]string{d.root, reserved}, name...)...)
}

// path is where a checked key's object is.
func (d *directory) path(key string) string { return filepath.Join(d.root, filepath.FromSlash(key)) }

// URL names the store.
func (d *directory) URL() string { return (&url.URL{Scheme: "file", Path: d.root}).String() }

// probe checks that the filesystem keeps file times to the nanosecond. With
// coarser ones two versions could get the same etag.
func (d *directory) probe() error {
	t, err := d.newTemp()
	if err != nil {
		return err
	}
	defer t.discard()
	when := time.Unix(1e9, 123456789)
	if err := os.Chtimes(t.path, when, when); err != nil {
		return err
	}
	st, err := t.Stat()
	if err != nil {
		return err
	}
	if !st.ModTime().Equal(when) {
		return errors.E("probe", d.root, errors.Unsupported,
			fmt.Errorf("its filesystem does not keep nanoseconds; use ext4, xfs, btrfs or tmpfs"))
	}
	return nil
}

// infoOf describes the file that an object is.
func infoOf(st os.FileInfo) Info {
	ino := st.Sys().(*syscall.Stat_t).Ino
	return Info{
		// The inode differs from the version before, which still existed when
		// this one was made; the time from all versions that had this inode.
		ETag:     fmt.Sprintf("%x-%x-%x", ino, st.ModTime().UnixNano(), st.Size()),
		Size:     st.Size(),
		Modified: st.ModTime(),
		Now:      time.Now(),
	}
}

// openObject opens the current version of an object.
func (d *directory) openObject(key string) (*os.File, Info, error) {
	// Not following a link and not waiting for a pipe's writer: an object is a
	// plain file, whatever else somebody put there.
	f, err := os.OpenFile(d.path(key), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, Info{}, d.readError("get", key, err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = os.ErrNotExist
	}
	if err != nil {
		f.Close()
		return nil, Info{}, d.readError("get", key, err)
	}
	return f, infoOf(st), nil
}

// Get opens an object.
func (d *directory) Get(ctx context.Context, key string) (io.ReadCloser, Info, error) {
	if err := checkKey("get", key, 0); err != nil {
		return nil, Info{}, err
	}
	for ctx.Err() == nil {
		f, info, err := d.openObject(key)
		if err != nil {
			return nil, Info{}, err
		}
		if info.Meta, err = d.readMeta(key, info.ETag); err == nil {
			return &dirBody{file: f, ctx: ctx, key: key}, info, nil
		}
		f.Close()
		if err != errVersionGone {
			return nil, Info{}, dirError("get", key, err)
		}
	}
	return nil, Info{}, dirError("get", key, ctx.Err())
}

// dirBody reads an object until its context ends.
type dirBody struct {
	file *os.File
	ctx  context.Context
	key  string
}

func (b *dirBody) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, dirError("get", b.key, err)
	}
	n, err := b.file.Read(p)
	if err != nil && err != io.EOF {
		err = dirError("get", b.key, err)
	}
	return n, err
}

func (b *dirBody) Close() error { return b.file.Close() }

// GetRange reads a part of an object.
func (d *directory) GetRange(ctx context.Context, key string, offset, length int64, etag string) ([]byte, Info, error) {
	if err := checkKey("get", key, 0); err != nil {
		return nil, Info{}, err
	}
	if err := checkRange(key, offset, length); err != nil {
		return nil, Info{}, err
	}
	if err := ctx.Err(); err != nil {
		return nil, Info{}, dirError("get", key, err)
	}
	f, info, err := d.openObject(key)
	if err != nil {
		return nil, Info{}, err
	}
	defer f.Close()
	if etag != "" && etag != info.ETag {
		return nil, Info{}, errors.E("get", key, errors.Condition, fmt.Errorf("its etag is %s, not %.80q", info.ETag, etag))
	}
	start, end := span(offset, length, info.Size)
	data := make([]byte, end-start)
	if _, err := f.ReadAt(data, start); err != nil && err != io.EOF {
		return nil, Info{}, dirError("get", key, err)
	}
	return data, info, nil
}

// readError gives a failure to find something its kind. A path that leads
// through an object, or to a folder, is one that has no object. But where the
// store itself is gone, an unmounted disk say, nothing is known: that must not
// look like an empty store.
func (d *directory) readError(op, key string, err error) error {
	for _, errno := range []syscall.Errno{syscall.ENOTDIR, syscall.ELOOP, syscall.ENXIO} {
		if isErrno(err, errno) {
			err = fmt.Errorf("%w (%w)", os.ErrNotExist, err)
		}
	}
	if errors.Is(errors.NotExist, err) {
		if lost := d.present(); lost != nil {
			return dirError(op, key, lost)
		}
	}
	return dirError(op, key, err)
}

// present returns an error if the store's folder is gone.
func (d *directory) present() error {
	if _, err := os.Lstat(d.own("tmp")); err != nil {
		return errors.E("open", d.root, errors.Unavailable, fmt.Errorf("the store's folder is gone: %w", err))
	}
	return nil
}

// dirError names the operation and the key of a failure that has its kind.
func dirError(op, key string, err error) error { return errors.E(op, key, errors.Other, err) }
