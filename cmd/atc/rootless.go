package main

import (
	"context"
	stderrors "errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"atc/fs/errors"
)

// This file defines running without root: the process executes itself again in
// a new user and mount namespace, in which it may mount.

// rootlessEnv marks the process inside, so that it does not try again.
const rootlessEnv = "ATC_ROOTLESS"

// mayMount reports whether this process may mount filesystems as it is.
func mayMount() bool {
	if os.Getenv(rootlessEnv) != "" {
		return true // what can be had; mounting itself says what is missing
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return os.Geteuid() == 0
	}
	return data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// reenter runs the same command line as user 0 of a new user namespace, and
// returns when that has ended. What is mounted inside is seen only inside.
func reenter(context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return errors.E("run without root", "", errors.Other, err)
	}
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		return errors.E("run without root", "/dev/fuse", errors.Unsupported,
			fmt.Errorf("%w: run as root, or let this user open the device", err))
	} else {
		f.Close()
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), rootlessEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   syscall.SIGTERM,
	}
	// The death signal follows the thread that started the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return errors.E("run without root", "", errors.Unsupported, fmt.Errorf(
			"%w: this kernel or container allows no user namespaces (see /proc/sys/user/max_user_namespaces); run as root, or give the container CAP_SYS_ADMIN and /dev/fuse", err))
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			if s == syscall.SIGINT && onTerminal() {
				continue // the terminal has sent it to the child too
			}
			_ = cmd.Process.Signal(s)
		case err := <-done:
			var exit *exec.ExitError
			if stderrors.As(err, &exit) {
				if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
					return exitStatus(statusSignal + int(ws.Signal()))
				}
				return exitStatus(exit.ExitCode())
			}
			return err
		}
	}
}
