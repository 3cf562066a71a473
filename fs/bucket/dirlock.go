package bucket

import (
	"context"
	stderrors "errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"atc/fs/errors"
)

// What keeps several writers of a directory apart, and what keeps their work
// when the machine fails: the lock, locked temporary files, and folders that
// are synced when names in them change.

const (
	lockFirst = 50 * time.Microsecond // pause before asking for the lock again, then longer
	lockMost  = 5 * time.Millisecond
	lockLimit = 30 * time.Second // no holder takes so long: it is stopped, or the disk is gone
)

// exclusive takes the store's lock, against this process's goroutines and other
// processes alike, for as long as a name takes to change. The kernel gives it
// back when its holder dies.
func (d *directory) exclusive(ctx context.Context) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case <-d.turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	f, err := os.OpenFile(d.own("lock"), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		d.turn <- struct{}{}
		return nil, err
	}
	release = func() {
		f.Close()
		d.turn <- struct{}{}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, lockLimit, errors.E("lock", d.root, errors.Unavailable,
		fmt.Errorf("another process has held it for %v", lockLimit)))
	defer cancel()
	// Asking instead of waiting in the kernel, because such a wait does not end
	// with ctx.
	for pause := lockFirst; ; pause = min(2*pause, lockMost) {
		switch err := flock(f); err {
		case nil:
			return release, nil
		case syscall.EWOULDBLOCK:
		default:
			release()
			return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			release()
			return nil, context.Cause(ctx)
		}
	}
}

// flock takes the exclusive lock of an open file, or returns EWOULDBLOCK.
func flock(f *os.File) error {
	for {
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != syscall.EINTR {
			return err
		}
	}
}

// temp is a file being written. It is locked, so that others can tell it from
// what a dead writer left.
type temp struct {
	*os.File
	path string // where it is; empty once it has its final name
}

func (d *directory) newTemp() (*temp, error) {
	for {
		f, err := os.CreateTemp(d.own("tmp"), "")
		if err != nil {
			return nil, err
		}
		t := &temp{f, f.Name()}
		// A sweep that came between creating and locking has or will have
		// removed it.
		if err := flock(f); err == syscall.EWOULDBLOCK {
			t.discard()
			continue
		} else if err != nil {
			t.discard()
			return nil, fmt.Errorf("locking %s: %w", t.path, err)
		}
		if st, err := f.Stat(); err == nil && st.Sys().(*syscall.Stat_t).Nlink > 0 {
			return t, nil
		}
		t.discard()
	}
}

// moveTo gives the file its final name.
func (t *temp) moveTo(path string) error {
	if err := os.Rename(t.path, path); err != nil {
		return err
	}
	t.path = ""
	return nil
}

// discard closes the file and removes it, if it still is a temporary one.
func (t *temp) discard() {
	if t.path != "" {
		os.Remove(t.path)
	}
	t.Close()
}

// sweep removes the temporary files of writers that died.
func (d *directory) sweep(ctx context.Context) error {
	entries, err := os.ReadDir(d.own("tmp"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		path := d.own("tmp", e.Name())
		f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
		if err != nil {
			continue // renamed or removed by its writer
		}
		if flock(f) == nil {
			os.Remove(path)
		}
		f.Close()
	}
	return nil
}

// makeFolder makes a folder and those above it, each synced into its parent.
func makeFolder(path string) error {
	err := os.Mkdir(path, 0o700)
	if stderrors.Is(err, os.ErrNotExist) {
		if err := makeFolder(filepath.Dir(path)); err != nil {
			return err
		}
		err = os.Mkdir(path, 0o700)
	}
	if stderrors.Is(err, os.ErrExist) {
		if st, err := os.Stat(path); err != nil || st.IsDir() {
			return err
		}
		return &os.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
	}
	if err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// syncFolder makes the names in a folder durable.
func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func isErrno(err error, errno syscall.Errno) bool { return stderrors.Is(err, errno) }
