package main

import (
	stderrors "errors"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// This file defines the entrypoint of a container: one command is run, signals
// are forwarded to it, and whatever children it leaves are reaped and ended, so
// that the mount below them can go.

const (
	statusNotFound      = 127 // as shells answer
	statusNotExecutable = 126
	statusSignal        = 128 // plus the signal's number

	// leaveWithin is how long what the command left behind may take to end
	// after SIGTERM.
	leaveWithin = 3 * time.Second
)

// runCommand runs a command with our standard streams and returns its exit
// status once it and all its descendants have ended. It reaps every child of
// this process, so nothing else may run children meanwhile.
func runCommand(command []string) (int, error) {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return statusNotFound, err
	}
	// Orphans become our children also where we are not process 1.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return statusNotExecutable, err
	}
	ended := make(chan os.Signal, 1) // one pending is enough to look for all
	signal.Notify(ended, syscall.SIGCHLD)
	defer signal.Stop(ended)
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	defer signal.Stop(signals)
	child, err := os.StartProcess(path, command, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return statusNotExecutable, err
	}
	status := -1
	for status < 0 {
		select {
		case <-ended:
			status = reap(child.Pid, status)
		case s := <-signals:
			if s := s.(syscall.Signal); forwards(s) {
				_ = syscall.Kill(child.Pid, s)
			}
		}
	}
	endDescendants()
	return status, nil
}

// forwards says which signals are for the command. Not SIGURG, which the Go
// runtime sends to itself, nor SIGPIPE, which is about our own output. What a
// terminal sends it sends to the command as well.
func forwards(s syscall.Signal) bool {
	switch s {
	case syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPIPE:
		return false
	case syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGWINCH:
		return !onTerminal()
	}
	return true
}

// onTerminal reports whether we are in the foreground of a terminal, which then
// sends its signals to the whole group.
func onTerminal() bool {
	group, err := unix.IoctlGetInt(0, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// reap collects all children that have ended, and returns the status of the
// command if it was among them.
func reap(command, status int) int {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if stderrors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return status
		}
		if pid != command {
			continue
		}
		if ws.Signaled() {
			status = statusSignal + int(ws.Signal())
		} else {
			status = ws.ExitStatus()
		}
	}
}

// endDescendants ends what the command left behind: SIGTERM, then SIGKILL.
func endDescendants() {
	const pause = 20 * time.Millisecond
	deadline := time.Now().Add(leaveWithin)
	for sig, children := syscall.SIGTERM, childProcesses(); len(children) > 0; children = childProcesses() {
		if time.Now().After(deadline) {
			sig = syscall.SIGKILL
		}
		for _, pid := range children {
			_ = syscall.Kill(pid, sig)
		}
		time.Sleep(pause)
		reap(0, 0)
	}
}

// childProcesses lists our children; grandchildren become ours when their
// parents end.
func childProcesses() []int {
	var pids []int
	tasks, _ := os.ReadDir("/proc/self/task")
	for _, task := range tasks {
		b, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		for field := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
