package sandbox

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// This file defines what the caller's process and the init say to each other.
// They hold the two ends of a stream of JSON values: a plan and then orders in
// one direction, reports in the other. Its end is the life line: the init ends
// when it can read no more, so nobody has to notice the caller's death.

// initName is argv[0] of the init: how Init knows what it is.
const initName = "atc-sandbox-init"

// Descriptors that the init is started with, after the usual three.
const (
	controlFd = 3
	socketsFd = 4
)

// order is what the init is told after the plan.
type order struct {
	Signal syscall.Signal // for the command's first process
}

// report is what the init tells; exactly one field is set.
type report struct {
	Failed  *failure
	Running bool
	Exited  *Exit
}

// failure is an error of the init's, with its errno kept so that the caller can
// still tell what kind it was.
type failure struct {
	Text  string
	Errno syscall.Errno
}

func (f *failure) Error() string { return f.Text }

func (f *failure) Unwrap() error {
	if f.Errno == 0 {
		return nil
	}
	return f.Errno
}

// Exit is how a process ended. As an error it reads "exit status 3" or "killed
// by SIGKILL".
type Exit struct {
	Code   int            // 0 to 255; meaningless when Signal is set
	Signal syscall.Signal // 0 unless a signal ended it
}

func (e *Exit) Error() string {
	if e.Signal != 0 {
		return "killed by " + unix.SignalName(e.Signal)
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

func exitOf(ws syscall.WaitStatus) *Exit {
	if ws.Signaled() {
		return &Exit{Signal: ws.Signal()}
	}
	return &Exit{Code: ws.ExitStatus()}
}

// socketpair makes two connected sockets: ours never blocks a thread, theirs is
// to be inherited.
func socketpair(kind int) (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fds[0]), "sandbox"), os.NewFile(uintptr(fds[1]), "sandbox init"), nil
}
