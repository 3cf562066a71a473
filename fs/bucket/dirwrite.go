package bucket

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"atc/fs/errors"
)

// Writing to the directory store. The bytes go into a temporary file, without
// the lock; the lock is held while the condition is checked and the name
// changes; then the folder is synced, and only then the write is reported.

// copyStep is how many bytes are written before looking at the context again.
const copyStep = 4 << 20

// Put writes an object.
func (d *directory) Put(ctx context.Context, key string, body io.ReadSeeker, opts PutOptions) (Info, error) {
	if err := checkKey("put", key, 0); err != nil {
		return Info{}, err
	}
	size, err := checkPut(key, body, opts)
	if err != nil {
		return Info{}, err
	}
	info, err := d.write(ctx, key, body, size, opts)
	if err != nil {
		return Info{}, writeError("put", key, err)
	}
	return info, nil
}

// Copy duplicates an object. Filesystems that can do so share its blocks.
func (d *directory) Copy(ctx context.Context, from, to string) error {
	if err := checkKey("copy", to, 0); err != nil {
		return err
	}
	body, info, err := d.Get(ctx, from)
	if err != nil {
		return err
	}
	defer body.Close()
	// The file itself, so that the kernel can copy without us.
	if _, err := d.write(ctx, to, body.(*dirBody).file, info.Size, PutOptions{Meta: info.Meta}); err != nil {
		return writeError("copy", to, err)
	}
	return nil
}

// writeError gives a failed write its kind.
func writeError(op, key string, err error) error {
	switch {
	case errors.Is(errors.Condition, err): // says all that already
	case isErrno(err, syscall.ENOTDIR), isErrno(err, syscall.EISDIR), isErrno(err, syscall.EEXIST):
		err = errors.E(op, key, errors.Invalid, fmt.Errorf("an object and a folder cannot have the same name: %w", err))
	case isErrno(err, syscall.ENOENT) && !errors.Is(errors.Unavailable, err):
		// It is the store that is missing, not the object.
		err = errors.E(op, key, errors.Unavailable, fmt.Errorf("the store's folder is gone: %w", err))
	default:
		err = dirError(op, key, err)
	}
	return err
}

// write makes an object of size bytes from body.
func (d *directory) write(ctx context.Context, key string, body io.Reader, size int64, opts PutOptions) (Info, error) {
	object, err := d.newTemp()
	if err != nil {
		return Info{}, err
	}
	defer object.discard()
	if err := fill(ctx, object, body, size); err != nil {
		return Info{}, err
	}
	st, err := object.Stat()
	if err != nil {
		return Info{}, err
	}
	info := infoOf(st)
	files := []*temp{object}
	var meta *temp
	if len(opts.Meta) > 0 {
		if meta, err = d.newMeta(key, opts.Meta); err != nil {
			return Info{}, err
		}
		defer meta.discard()
		files = append(files, meta)
	}
	if err := together(files, func(t *temp) error { return t.Sync() }); err != nil {
		return Info{}, err
	}
	changed, err := d.name(ctx, key, object, meta, info.ETag, opts)
	if err != nil {
		return Info{}, err
	}
	info.Now = time.Now()
	return info, together(changed, d.syncChange)
}

// fill writes size bytes into t and gives it the time that its etag needs: the
// kernel's own is too coarse to tell apart two files in one clock tick.
func fill(ctx context.Context, t *temp, body io.Reader, size int64) error {
	for done := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.CopyN(t.File, body, min(copyStep, size-done))
		if err == io.EOF {
			return fmt.Errorf("the body ended after %d of %d bytes: %w", done+n, size, io.ErrUnexpectedEOF)
		}
		if err != nil {
			return err
		}
		if done += n; done == size {
			break
		}
	}
	now := time.Now()
	return os.Chtimes(t.path, now, now)
}

// name puts a written file, and its metadata if it has any, into the place of
// the key if the condition holds. It returns the folders to be synced.
func (d *directory) name(ctx context.Context, key string, object, meta *temp, etag string, opts PutOptions) (changed []string, err error) {
	release, err := d.exclusive(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	path := d.path(key)
	old, err := d.etagOf(path)
	if err != nil {
		return nil, err
	}
	switch {
	case opts.IfNoneMatch && old != "":
		return nil, errors.E("put", key, errors.Condition, fmt.Errorf("there is an object with etag %s", old))
	case opts.IfMatch != "" && old == "":
		return nil, errors.E("put", key, errors.Condition, fmt.Errorf("there is no object any more"))
	case opts.IfMatch != "" && old != opts.IfMatch:
		return nil, errors.E("put", key, errors.Condition, fmt.Errorf("its etag is %s, not %.80q", old, opts.IfMatch))
	}
	folder := filepath.Dir(path)
	if err := makeFolder(folder); err != nil {
		return nil, err
	}
	if err := exposeLevel(folder); err != nil {
		return nil, err
	}
	// Metadata first: it counts for nothing until its object is there.
	if meta != nil {
		at := d.metaPath(key, etag)
		if err := makeFolder(filepath.Dir(at)); err != nil {
			return nil, err
		}
		if err := meta.moveTo(at); err != nil {
			return nil, err
		}
		changed = append(changed, filepath.Dir(at))
	}
	if err := object.moveTo(path); err != nil {
		if meta != nil {
			os.Remove(d.metaPath(key, etag))
		}
		return nil, err
	}
	if old != "" {
		os.Remove(d.metaPath(key, old))
	}
	return append(changed, folder), nil
}

// syncChange makes a changed name durable. The lock is free by then, so the
// folder may have gone with its last object; then the change is in the one above.
func (d *directory) syncChange(folder string) error {
	err := syncFolder(folder)
	for gone(err) && folder != d.root {
		folder = filepath.Dir(folder)
		err = syncFolder(folder)
	}
	return err
}

// etagOf is the etag of the object at a path, nothing where there is none.
func (d *directory) etagOf(path string) (string, error) {
	st, err := os.Lstat(path)
	if gone(err) {
		return "", d.present()
	}
	if err != nil || !st.Mode().IsRegular() {
		return "", err
	}
	return infoOf(st).ETag, nil
}

// Delete removes an object, and the folders that have become empty.
func (d *directory) Delete(ctx context.Context, key string) error {
	if err := checkKey("delete", key, 0); err != nil {
		return err
	}
	folder, err := d.remove(ctx, key)
	if err == nil && folder != "" {
		err = d.syncChange(folder)
	}
	if err != nil {
		return writeError("delete", key, err)
	}
	return nil
}

// remove unlinks an object and returns the folder to be synced, if any. That
// names are made under the same lock keeps a folder from going between being
// made for an object and getting it.
func (d *directory) remove(ctx context.Context, key string) (folder string, err error) {
	release, err := d.exclusive(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	path := d.path(key)
	old, err := d.etagOf(path)
	if err != nil || old == "" {
		return "", err
	}
	if err := os.Remove(path); err != nil {
		return "", err
	}
	os.Remove(d.metaPath(key, old))
	folder = filepath.Dir(path)
	for strings.HasPrefix(folder, d.root+"/") && syscall.Rmdir(folder) == nil {
		hideLevel(folder)
		folder = filepath.Dir(folder)
	}
	return folder, nil
}

// together does the same to several things at once: the disk then flushes once
// for all of them. It returns the first error of the list.
func together[T any](list []T, do func(T) error) error {
	if len(list) == 1 {
		return do(list[0])
	}
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, v := range list {
		wg.Go(func() { errs[i] = do(v) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
