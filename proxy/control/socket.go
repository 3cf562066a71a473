// This file owns the socket file: its mode, its removal, what becomes of one
// that a killed process left behind, and paths too long for the kernel.

package control

import (
	"context"
	stderrors "errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"atc/fs/errors"
)

// SocketName is the name of the control socket in a cache folder.
const SocketName = "control.sock"

// maxSocketPath is how long a socket's path may be: sun_path less its NUL.
const maxSocketPath = 107

// answerTimeout is how long a process that owns a socket may take to accept a
// connection, which its kernel does for it.
const answerTimeout = 2 * time.Second

// Listen makes the socket with mode 0600. A socket that nobody answers on is
// replaced; one that somebody answers on is an error of kind Busy, and any other
// file of that name one of kind Exist. Two processes that start at once cannot
// both succeed. Closing the listener removes the socket.
func Listen(path string) (net.Listener, error) {
	lock, err := lockBeside(path)
	if err != nil {
		return nil, fmt.Errorf("locking control socket %s: %w", path, err)
	}
	defer lock.Close()
	if err := removeStale(path); err != nil {
		return nil, err
	}
	short, done, err := shorten(path)
	if err != nil {
		return nil, err
	}
	defer done()
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var chmod error
		// Before bind, so that the file never has another mode.
		err := c.Control(func(fd uintptr) { chmod = unix.Fchmod(int(fd), 0o600) })
		return stderrors.Join(err, chmod)
	}}
	l, err := config.Listen(context.Background(), "unix", short)
	if err != nil {
		return nil, fmt.Errorf("listening on control socket %s: %w", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // short is valid only now
	info, err := os.Lstat(path)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("listening on control socket: %w", err)
	}
	return &listener{Listener: l, path: path, made: info}, nil
}

// listener removes its socket when it is closed, but not a successor's.
type listener struct {
	net.Listener
	path string
	made fs.FileInfo
	once sync.Once
}

func (l *listener) Close() error {
	l.once.Do(func() {
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.made) {
			os.Remove(l.path) // one that stays is stale, and so replaced
		}
	})
	return l.Listener.Close()
}

func lockBeside(path string) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case stderrors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("control socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return errors.E("listen", path, errors.Exist, fmt.Errorf("it is not a socket"))
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	conn, err := dial(ctx, path)
	if err == nil {
		conn.Close()
		return errors.E("listen", path, errors.Busy, fmt.Errorf("another atc answers there"))
	}
	if !stderrors.Is(err, syscall.ECONNREFUSED) {
		return errors.E("listen", path, errors.Busy, fmt.Errorf("cannot tell whether another atc is there: %w", err))
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing a stale control socket: %w", err)
	}
	return nil
}

// dial connects to the socket.
func dial(ctx context.Context, path string) (net.Conn, error) {
	short, done, err := shorten(path)
	if err != nil {
		return nil, err
	}
	defer done()
	var d net.Dialer
	return d.DialContext(ctx, "unix", short)
}

// shorten returns a path to the same file that fits into a socket's address: a
// long one leads through an open descriptor of its folder, which done closes.
func shorten(path string) (short string, done func(), err error) {
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	folder, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", nil, fmt.Errorf("control socket: %w", err)
	}
	short = fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), filepath.Base(path))
	if _, err := os.Stat(filepath.Dir(short)); err != nil || len(short) > maxSocketPath {
		folder.Close()
		return "", nil, errors.E("shorten", path, errors.Unsupported,
			fmt.Errorf("a socket's path has at most %d bytes, and /proc does not help: use a shorter cache folder", maxSocketPath))
	}
	return short, func() { folder.Close() }, nil
}
