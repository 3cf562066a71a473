package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// This file makes /proc. It is apart because /proc is the one filesystem in the
// sandbox that speaks for the whole machine: only the process folders are left
// as they are.

// newProc makes the PID namespace's own /proc. It shows only what the reader
// could trace, and so not the init. The older hidepid=2 would not do: it spares
// the members of group 0.
func newProc() (tree, error) {
	t, err := newMount("proc", private|unix.MOUNT_ATTR_NOEXEC, "hidepid", "ptraceable")
	if errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("%w: parts of this container's /proc are covered, and a user namespace may not make a whole one: uncover it (docker: --security-opt systempaths=unconfined) or start as root", err)
	}
	return t, err
}

// attachProc attaches it and takes away what is not about processes of the
// sandbox. Capabilities do not protect those files: a program that runs as user
// 0 owns them (/proc/sys/kernel/core_pattern runs a program of its choice on
// the host). So what only user 0 may read is covered, and what user 0 may write
// is read-only.
func attachProc(t tree) error {
	if err := t.attachNew("/proc"); err != nil {
		return err
	}
	// Written while it still can be: ports below 1024 mean nothing in a network
	// of one's own.
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if name[0] >= '0' && name[0] <= '9' || e.Type()&fs.ModeSymlink != 0 {
			continue
		}
		path := "/proc/" + name
		st, err := os.Lstat(path)
		if err != nil {
			return err
		}
		switch mode := st.Mode(); {
		case name == "keys" || !mode.IsDir() && mode.Perm()&0o044 == 0 && mode.Perm()&0o400 != 0:
			err = coverWithNothing(path)
		case mode.IsDir() || mode.Perm()&0o222 != 0:
			err = sealProc(path)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// sealProc binds a part of /proc over itself, read-only.
func sealProc(path string) error {
	t, err := cloneTree(path, sealed|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return err
	}
	return t.attach(path)
}
