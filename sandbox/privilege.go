package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// This file takes from the init's thread what the program must not have. It is
// apart from the root because its order is its own: each call needs a privilege
// that a later one takes away.

// maxOpenFiles is the limit of descriptors, soft and hard, where the machine's
// hard limit is not lower.
const maxOpenFiles = 65536

// setLimits sets the limits of the init and all that it starts. The number of
// processes is not among them: the kernel counts it per user, so that tenants
// of one user would take each other's share.
func setLimits() error {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	files.Max = min(files.Max, maxOpenFiles)
	files.Cur = files.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("open files: %w", err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return fmt.Errorf("core files: %w", err)
	}
	return nil
}

// dropPrivileges acts on the calling thread alone, and so on the child that it
// forks. The init's other threads keep theirs; that, and being marked as not
// dumpable, is why the program cannot trace the init though both may have one
// user.
func dropPrivileges(user *User) error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("dumpable: %w", err)
	}
	// A session keyring of its own, so that the caller's keys stay the caller's.
	if _, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0); err != nil && err != unix.ENOSYS {
		return fmt.Errorf("session keyring: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("ambient capabilities: %w", err)
	}
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if err == unix.EINVAL {
			break // past the last one that this kernel knows
		}
		if err != nil {
			return fmt.Errorf("bounding set: %w", err)
		}
	}
	if err := becomeUser(user); err != nil {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	return nil
}

// becomeUser uses the bare calls: the ones of package syscall change every
// thread.
func becomeUser(user *User) error {
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETGROUPS, 0, 0, 0); errno != 0 && !setgroupsDenied() {
		return fmt.Errorf("supplementary groups: %w", errno)
	}
	if user == nil {
		return nil
	}
	for _, set := range []struct {
		call uintptr
		id   uint32
		what string
	}{{syscall.SYS_SETRESGID, user.Gid, "group"}, {syscall.SYS_SETRESUID, user.Uid, "user"}} {
		id := uintptr(set.id)
		_, _, errno := syscall.RawSyscall(set.call, id, id, id)
		if errno == unix.EINVAL {
			return fmt.Errorf("%s %d is not mapped in this user namespace: %w", set.what, set.id, errno)
		}
		if errno != 0 {
			return fmt.Errorf("%s %d: %w", set.what, set.id, errno)
		}
	}
	return nil
}

// setgroupsDenied reports whether the user namespace forbids setgroups, as one
// made without privileges must.
func setgroupsDenied() bool {
	b, err := os.ReadFile("/proc/self/setgroups")
	return err == nil && bytes.HasPrefix(b, []byte("deny"))
}

// loopbackUp brings up the network namespace's only interface.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return errors.Join(unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req), unix.Close(fd))
}
