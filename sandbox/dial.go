package sandbox

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// This file holds both ends of how the program is reached. A socket belongs to
// the network namespace that it was made in, for ever: the init makes one, sends
// it here, and it is connected here. The caller's threads never enter the
// namespace, which a process in a user namespace could not leave again.

// A request is a sequence number and an address family; the answer is the same
// number and an errno, and carries the socket when that is 0. All are 32 bits,
// little-endian.
const requestSize, answerSize = 8, 8

// sockets is the caller's end.
type sockets struct {
	// mu is held for one question and its answer, and protects what follows.
	mu   sync.Mutex
	conn *net.UnixConn
	seq  uint32
}

// get asks the init for a TCP socket of the family.
func (s *sockets) get(ctx context.Context, family uint32) (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.conn.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { s.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	s.seq++
	var request [requestSize]byte
	binary.LittleEndian.PutUint32(request[:], s.seq)
	binary.LittleEndian.PutUint32(request[4:], family)
	if _, err := s.conn.Write(request[:]); err != nil {
		return nil, errors.Join(ctx.Err(), err)
	}
	for {
		var answer [answerSize]byte
		oob := make([]byte, unix.CmsgSpace(4))
		n, oobn, _, _, err := s.conn.ReadMsgUnix(answer[:], oob)
		if err != nil {
			return nil, errors.Join(ctx.Err(), err)
		}
		fd, err := receivedFd(oob[:oobn])
		if err != nil {
			return nil, err
		}
		// An answer to a question whose asker gave up is let go.
		if n == answerSize && binary.LittleEndian.Uint32(answer[:]) != s.seq {
			if fd >= 0 {
				unix.Close(fd)
			}
			continue
		}
		switch errno := binary.LittleEndian.Uint32(answer[4:]); {
		case n != answerSize:
			err = fmt.Errorf("the init answered %d bytes", n)
		case errno != 0:
			err = syscall.Errno(errno)
		case fd < 0:
			err = errors.New("the init sent no socket")
		default:
			return os.NewFile(uintptr(fd), "tcp"), nil
		}
		return nil, err
	}
}

// receivedFd returns the one descriptor of a control message, or -1.
func receivedFd(oob []byte) (int, error) {
	if len(oob) == 0 {
		return -1, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1, err
	}
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil && len(fds) > 0 {
			return fds[0], nil // there is room for one
		}
	}
	return -1, nil
}

// serveSockets is the init's end; it returns when the caller is gone.
func serveSockets(fd int) {
	for {
		var request [requestSize]byte
		n, err := unix.Read(fd, request[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n != requestSize {
			return
		}
		family := int(binary.LittleEndian.Uint32(request[4:]))
		socket, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		var rights []byte
		var errno syscall.Errno
		if err == nil {
			rights = unix.UnixRights(socket)
		} else if !errors.As(err, &errno) {
			errno = unix.EIO
		}
		answer := binary.LittleEndian.AppendUint32(request[:4:4], uint32(errno))
		err = unix.Sendmsg(fd, answer, rights, nil, unix.MSG_NOSIGNAL)
		if socket >= 0 {
			unix.Close(socket)
		}
		if err != nil {
			return
		}
	}
}

// loopbacks are tried in this order: a program that listens on "localhost" may
// have got either.
var loopbacks = []struct {
	family uint32
	to     func(port int) unix.Sockaddr
}{
	{unix.AF_INET, func(port int) unix.Sockaddr { return &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}} }},
	{unix.AF_INET6, func(port int) unix.Sockaddr { return &unix.SockaddrInet6{Port: port, Addr: [16]byte{15: 1}} }},
}

// dialLoopback connects to the port on either loopback address.
func (s *sockets) dialLoopback(ctx context.Context, port int) (net.Conn, error) {
	var first error
	for _, lo := range loopbacks {
		f, err := s.get(ctx, lo.family)
		if err == nil {
			err = connect(ctx, f, lo.to(port))
		}
		if err == nil {
			conn, err := net.FileConn(f)
			f.Close()
			return conn, err
		}
		if f != nil {
			f.Close()
		}
		if first == nil {
			first = err
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			break
		}
	}
	return nil, first
}

// connect connects a non-blocking socket without holding a thread.
func connect(ctx context.Context, f *os.File, to unix.Sockaddr) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var result error
	started := false
	err = raw.Write(func(fd uintptr) bool {
		if !started {
			started = true
			result = unix.Connect(int(fd), to)
			return result != unix.EINPROGRESS
		}
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil {
			result = err
			return true
		}
		result = nil
		if errno != 0 {
			result = syscall.Errno(errno)
			return true
		}
		// Woken without a result: not connected yet.
		_, err = unix.Getpeername(int(fd))
		return err == nil
	})
	if err != nil {
		return errors.Join(ctx.Err(), err)
	}
	return os.NewSyscallError("connect", result)
}
