package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// This file is process 1 of every sandbox: the order in which a sandbox is
// made, and the wait until it ends.

// Init must be the first thing that main calls. In a process that Start
// re-executed it becomes the init of the sandbox and never returns; in any
// other it returns at once.
func Init() {
	if len(os.Args) == 0 || os.Args[0] != initName {
		return
	}
	// The kernel spares process 1 the signals of its children that it does not
	// handle, but the runtime handles them: the ones by which it would end go
	// nowhere.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGTERM)
	// Privileges belong to threads: this one gives them up and then forks.
	runtime.LockOSThread()
	unix.Exit(runInit())
}

func runInit() int {
	// Whatever the caller inherited without knowing ends with the next exec.
	if err := unix.CloseRange(controlFd, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		fmt.Fprintln(os.Stderr, initName+": close_range:", err)
		return 1
	}
	control := os.NewFile(controlFd, "control")
	fromCaller, toCaller := json.NewDecoder(control), json.NewEncoder(control)
	var p plan
	if err := fromCaller.Decode(&p); err != nil {
		fmt.Fprintln(os.Stderr, initName+": not started by a sandbox:", err)
		return 1
	}

	var command atomic.Int64 // process id of the command, 0 before it runs
	go obey(fromCaller, &command)

	pid, err := prepareAndRun(&p)
	if err != nil {
		f := &failure{Text: err.Error()}
		errors.As(err, &f.Errno)
		toCaller.Encode(report{Failed: f})
		return 1
	}
	command.Store(int64(pid))
	go serveSockets(socketsFd)
	if err := toCaller.Encode(report{Running: true}); err != nil {
		return 1
	}
	exit := reapUntil(pid)
	toCaller.Encode(report{Exited: exit})
	return 0
}

// obey carries out orders until the caller is gone, and then ends everything.
func obey(fromCaller *json.Decoder, command *atomic.Int64) {
	for {
		var o order
		if err := fromCaller.Decode(&o); err != nil {
			unix.Exit(1) // process 1 has nothing to tidy: the kernel does
		}
		if pid := int(command.Load()); pid > 0 && o.Signal > 0 {
			syscall.Kill(pid, o.Signal)
		}
	}
}

// prepareAndRun does each step of the sandbox in the one order that works:
// files need privileges, privileges go last.
func prepareAndRun(p *plan) (pid int, err error) {
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"host name", func() error { return unix.Sethostname([]byte(p.Name)) }},
		{"loopback", loopbackUp},
		{"root", func() error { return buildRoot(p) }},
		{"limits", setLimits},
		{"privileges", func() error { return dropPrivileges(p.User) }},
		{"exec", func() error { pid, err = run(p); return err }},
	} {
		if err := step.do(); err != nil {
			return 0, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return pid, nil
}

// run starts the command with the environment, folder and privileges of the
// sandbox. Descriptors: nothing to read, and the two outputs.
func run(p *plan) (int, error) {
	os.Clearenv()
	for _, kv := range p.Env {
		if key, value, _ := strings.Cut(kv, "="); key == "PATH" {
			os.Setenv(key, value)
		}
	}
	program, err := exec.LookPath(p.Command[0])
	if err != nil {
		return 0, commandError(p.Command[0], err)
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		return 0, err
	}
	defer null.Close()
	syscall.Umask(0o022)
	pid, err := syscall.ForkExec(program, p.Command, &syscall.ProcAttr{
		Dir:   p.Workdir,
		Env:   p.Env,
		Files: []uintptr{null.Fd(), 1, 2},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, commandError(program, err)
	}
	return pid, nil
}

func commandError(name string, err error) error {
	if errors.Is(err, exec.ErrNotFound) {
		err = syscall.ENOENT
	}
	if errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("command not found: %s, its interpreter or the working directory: %w", name, err)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// reapUntil collects orphans until the command itself has ended.
func reapUntil(pid int) *Exit {
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return &Exit{Code: 255}
		case got == pid:
			return exitOf(ws)
		}
	}
}
