package volume

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"atc/fs/errors"
)

// This file defines how the content of a plain file comes: whole, at the first
// opening, straight from the bucket into the local file.

// filling is a fetch under way.
type filling struct {
	done chan struct{}
	err  error // once done is closed
}

// fill fetches the content of a file that is a hole. That it is none any more is
// noted last, so that a kill in between only makes it be fetched again. A fetch
// goes on when its caller is interrupted, as runtimes do all the time by signals:
// whoever opens the file next waits for the same one.
func (t *Tenant) fill(ctx context.Context, f *File) error {
	t.mu.Lock()
	c := t.inodes.known[f.inode]
	if !c.missing {
		t.mu.Unlock()
		return nil
	}
	l := t.files.fills[f.inode]
	if l == nil {
		own, err := reopen(f.os)
		if err != nil {
			t.mu.Unlock()
			return errors.E("fetch file", t.name(f.path), errors.Other, err)
		}
		l = &filling{done: make(chan struct{})}
		t.files.fills[f.inode] = l
		t.users++ // it is not released meanwhile
		t.v.work.Add(1)
		name := t.name(f.path)
		go func() {
			defer t.v.work.Done()
			defer t.leave()
			defer close(l.done)
			defer own.Close()
			if err := t.fetch(own, f.inode, c.id); err != nil {
				l.err = errors.E("fetch file", name, errors.Other, err)
			}
			t.mu.Lock()
			delete(t.files.fills, f.inode)
			t.mu.Unlock()
		}()
	}
	t.mu.Unlock()
	select {
	case <-l.done:
		return l.err
	case <-ctx.Done():
		return errors.E("fetch file", t.name(f.path), errors.Other, ctx.Err())
	}
}

// fetch writes a content into a local file that is a hole.
func (t *Tenant) fetch(f *os.File, inode uint64, id string) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if id != "" {
		if err := t.contents.Fetch(t.v.ctx, id, &offsetWriter{f: f}); err != nil {
			return err
		}
	}
	if err := setModifiedFile(f, info.ModTime()); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.inodes.known[inode]
	if !c.missing {
		return nil // removed meanwhile
	}
	c.missing = false
	return t.inodes.set(inode, c)
}

// empty notes that a file is truncated before its content has come: nothing of
// that is wanted any more.
func (t *Tenant) empty(inode uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for l := t.files.fills[inode]; l != nil; l = t.files.fills[inode] {
		t.mu.Unlock()
		<-l.done // it would write after us
		t.mu.Lock()
	}
	c, known := t.inodes.known[inode]
	if !known || !c.missing {
		return nil
	}
	c.missing = false
	return t.inodes.set(inode, c)
}

// reopen opens a file once more, whatever its name is by now.
func reopen(f *os.File) (*os.File, error) {
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR, 0)
}

func setModifiedFile(f *os.File, at time.Time) error {
	ts := []unix.Timespec{unix.NsecToTimespec(at.UnixNano()), unix.NsecToTimespec(at.UnixNano())}
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), ts, 0)
}

// offsetWriter writes to a file from its beginning, whatever its position.
type offsetWriter struct {
	f  *os.File
	at int64
}

func (w *offsetWriter) Write(b []byte) (int, error) {
	n, err := w.f.WriteAt(b, w.at)
	w.at += int64(n)
	return n, err
}
