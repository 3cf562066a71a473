package mount

import (
	"os"
	"strconv"
	"syscall"
)

// This file defines that nobody but this process has the connection to the
// kernel. Whoever inherits it could answer for us, and would keep the connection
// alive when we are killed, so that every request waits for ever instead of
// failing.

// withDevice calls fn, which opens /dev/fuse and leaves the descriptor for
// children to inherit, and sees to it that none does. fn must start no process.
func withDevice(fn func() error) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	err := fn()
	fds, listErr := os.ReadDir("/proc/self/fd")
	if err == nil {
		err = listErr
	}
	for _, entry := range fds {
		if to, _ := os.Readlink("/proc/self/fd/" + entry.Name()); to != "/dev/fuse" {
			continue
		}
		if fd, err := strconv.Atoi(entry.Name()); err == nil {
			syscall.CloseOnExec(fd)
		}
	}
	return err
}
