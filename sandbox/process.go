package sandbox

import (
	"context"
	"encoding/json"
	stderrors "errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"atc/fs/errors"
)

// This file is the caller's side of a sandbox: starting it, telling it things,
// and knowing how it ended. It forks and talks; it never looks at the tenant's
// folder.

// namespaces are what every sandbox has for itself.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// reapTime is how long Stop waits for the kernel to end a killed sandbox. Only
// a process stuck in the kernel takes longer.
const reapTime = 10 * time.Second

// Process is a running sandbox. Its methods may be called concurrently, also
// after it has ended.
type Process struct {
	name    string
	port    int
	cmd     *exec.Cmd
	sockets sockets

	// mu serialises orders, each of which is one JSON value.
	mu      sync.Mutex
	control *os.File

	done chan struct{}
	exit *Exit // how it ended; written before done is closed
}

// Start makes a sandbox and returns when its command executes. It fails with
// the step that failed: [errors.Invalid] for the Spec, the errno's own kind for
// the machine or the command. When ctx ends first everything is undone. The
// sandbox itself does not depend on ctx: it ends with its command, with Stop,
// or with this process.
func Start(ctx context.Context, spec Spec) (*Process, error) {
	plan, port, err := spec.complete()
	if err != nil {
		return nil, err
	}
	p := &Process{name: spec.Name, port: port, done: make(chan struct{})}
	if err := p.fork(spec); err != nil {
		return nil, errors.E("start", spec.Name, errors.Other, err)
	}
	// One goroutine a sandbox; it ends with the init, and Done says when.
	running := make(chan error, 1)
	go p.supervise(running)

	stop := context.AfterFunc(ctx, func() { p.cmd.Process.Kill() })
	err = p.send(plan)
	if failed := <-running; failed != nil {
		err = failed
	}
	if !stop() && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		p.cmd.Process.Kill()
		<-p.done
		return nil, errors.E("start", spec.Name, errors.Other, err)
	}
	return p, nil
}

// fork starts the init, which waits for its plan.
func (p *Process) fork(spec Spec) error {
	control, theirs, err := socketpair(unix.SOCK_STREAM)
	if err != nil {
		return err
	}
	defer theirs.Close()
	socks, theirSocks, err := socketpair(unix.SOCK_SEQPACKET)
	if err != nil {
		return stderrors.Join(err, control.Close())
	}
	defer theirSocks.Close()
	conn, err := net.FileConn(socks)
	if err = stderrors.Join(err, socks.Close()); err != nil {
		return stderrors.Join(err, control.Close())
	}
	p.cmd = &exec.Cmd{
		Path: "/proc/self/exe",
		Args: []string{initName, p.name},
		// Two processors and no collector: it lives long and does little.
		Env:        []string{"GOMAXPROCS=2", "GOGC=off", "GOTRACEBACK=none"},
		Dir:        "/",
		Stdout:     spec.Stdout,
		Stderr:     spec.Stderr,
		ExtraFiles: []*os.File{theirs, theirSocks}, // controlFd, socketsFd
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: namespaces,
			Setsid:     true, // a terminal's Ctrl-C is for the caller, not for its sandboxes
		},
	}
	if err := p.cmd.Start(); err != nil {
		conn.Close()
		control.Close()
		if stderrors.Is(err, unix.EPERM) {
			err = fmt.Errorf("new namespaces need root, or a user namespace that the caller is user 0 of: %w", err)
		}
		return err
	}
	p.control, p.sockets.conn = control, conn.(*net.UnixConn)
	return nil
}

// supervise reads what the init reports until there is no init, and collects
// it. running gets nil or the reason why the command never ran.
func (p *Process) supervise(running chan<- error) {
	reports := json.NewDecoder(p.control)
	var failed error = stderrors.New("the init ended before the command ran")
	var exit *Exit
	for {
		var r report
		if err := reports.Decode(&r); err != nil {
			break
		}
		switch {
		case r.Failed != nil:
			failed = r.Failed
		case r.Running:
			running <- nil
		case r.Exited != nil:
			exit = r.Exited
		}
	}
	err := p.cmd.Wait()
	if exit == nil {
		exit = p.lastWords(err)
	}
	p.exit = exit
	p.control.Close()
	p.sockets.conn.Close()
	close(p.done)
	select {
	case running <- failed:
	default: // it ran
	}
}

// lastWords is the exit of an init that could not report one.
func (p *Process) lastWords(err error) *Exit {
	var exited *exec.ExitError
	if stderrors.As(err, &exited) {
		if ws, ok := exited.Sys().(syscall.WaitStatus); ok {
			return exitOf(ws)
		}
	}
	return &Exit{Code: 255}
}

func (p *Process) send(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err = p.control.Write(b)
	return err
}

// Pid is the process id of the sandbox's init, as this process sees it.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Dial connects to the program's port on its loopback, IPv4 first. It costs a
// round trip to the init: keep connections alive.
func (p *Process) Dial(ctx context.Context) (net.Conn, error) {
	conn, err := p.sockets.dialLoopback(ctx, p.port)
	if err == nil {
		return conn, nil
	}
	select {
	case <-p.done:
		err = p.exitError()
	default:
	}
	kind := errors.Unavailable
	if stderrors.Is(err, context.Canceled) {
		kind = errors.Canceled
	}
	return nil, errors.E("dial", p.name, kind, err)
}

// Signal sends a signal to the command's first process. It is not an error when
// that has ended.
func (p *Process) Signal(sig syscall.Signal) error {
	err := p.send(order{Signal: sig})
	select {
	case <-p.done:
		return nil
	default:
	}
	if err != nil && !stderrors.Is(err, io.ErrClosedPipe) && !stderrors.Is(err, unix.EPIPE) {
		return errors.E("signal", p.name, errors.Other, err)
	}
	return nil
}

// Stop ends the sandbox: SIGTERM to the command, and SIGKILL to all of it after
// grace or when ctx ends. It returns when everything is reaped; an error means
// that something is not, 10 s after it was killed.
func (p *Process) Stop(ctx context.Context, grace time.Duration) error {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	if grace > 0 && p.Signal(syscall.SIGTERM) == nil {
		select {
		case <-p.done:
			return nil
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	p.cmd.Process.Kill()
	timer.Reset(reapTime)
	select {
	case <-p.done:
		return nil
	case <-timer.C:
		return errors.E("stop", p.name, errors.Unavailable, fmt.Errorf("process %d is not gone %v after SIGKILL", p.Pid(), reapTime))
	}
}

// Done is closed when everything in the sandbox is gone and its output is read.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is nil until Done is closed and when the command exited with 0; else an
// [*Exit].
func (p *Process) Err() error {
	select {
	case <-p.done:
		if *p.exit != (Exit{}) {
			return p.exit
		}
	default:
	}
	return nil
}

// exitError says how an ended sandbox ended, also when that was with 0.
func (p *Process) exitError() error { return fmt.Errorf("the process has ended: %w", p.exit) }
