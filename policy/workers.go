package policy

import (
	"bufio"
	"context"
	"encoding/json"
	stderrors "errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"atc/fs/errors"
	"atc/fs/tenant/tenantid"
)

// A module in processes of its own, for one that is not trusted to end: the
// engine's deadline is checked in loops only, and a process can be killed. Each
// worker makes one call at a time, so that one that is killed takes nobody's
// request with it. What comes from a worker is checked as if the guest itself
// had the socket: a guest that broke out of the engine has.

const (
	// hardDeadline is after how many deadlines of the guest a worker is killed
	// that has not stopped it.
	hardDeadline = 2
	loadDeadline = 30 * time.Second // for a worker to compile and start a module
	maxBackoff   = 5 * time.Second
	firstBackoff = 100 * time.Millisecond
	nobody       = 65534 // the user that a worker has
)

// workers is a module's processes.
type workers struct {
	*gate
	opts Options
	wasm []byte

	mu        sync.Mutex
	idle      []*worker // guarded by mu, like all below
	alive     map[*worker]struct{}
	failures  int // workers lost since the last decision
	notBefore time.Time
}

var _ backend = (*workers)(nil)

// worker is one process. One goroutine uses it at a time.
type worker struct {
	cmd    *exec.Cmd
	conn   net.Conn
	in     *bufio.Reader
	stderr lockedHead
}

// lockedHead is a head that is read after the process that writes has ended.
type lockedHead struct {
	mu sync.Mutex
	h  head
}

func (l *lockedHead) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.h.Write(p)
}

func (l *lockedHead) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return printable(l.h.bytes[:l.h.n])
}

// openWorkers starts the first worker, which finds out whether the module loads.
func openWorkers(ctx context.Context, wasm []byte, opts Options) (backend, error) {
	if err := inspectBytes(wasm); err != nil {
		return nil, err
	}
	if _, err := Lines(opts.Config); err != nil {
		return nil, fmt.Errorf("its configuration: %w", err)
	}
	p := &workers{
		gate: newGate(opts.Instances, opts.Instances), opts: opts, wasm: wasm, alive: map[*worker]struct{}{},
	}
	w, err := p.start(ctx)
	if err != nil {
		return nil, err
	}
	p.idle = append(p.idle, w)
	return p, nil
}

// start makes a worker and loads the module in it.
func (p *workers) start(ctx context.Context) (_ *worker, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("making a worker's socket: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "worker"), os.NewFile(uintptr(pair[1]), "atc")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, fmt.Errorf("making a worker's socket: %w", err)
	}
	w := &worker{conn: conn, in: bufio.NewReader(conn)}
	w.cmd = &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{workerName}, Env: []string{"GOMAXPROCS=2"}, Dir: "/",
		Stdin: theirs, Stderr: &w.stderr, SysProcAttr: workerAttributes(),
	}
	if err := w.cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("starting a worker without privileges: %w", err)
	}
	p.mu.Lock()
	p.alive[w] = struct{}{}
	p.mu.Unlock()
	defer func() {
		if err != nil {
			p.kill(w)
			if said := w.stderr.String(); said != "" {
				err = fmt.Errorf("%w; the worker printed: %s", err, said)
			}
		}
	}()
	options, err := json.Marshal(workerOptions{p.opts.Name, p.opts.Config, p.opts.MemoryLimit, p.opts.Deadline, p.opts.LookupDeadline})
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(loadDeadline)); err != nil {
		return nil, err
	}
	if err := writeFrame(conn, frameOptions, options); err != nil {
		return nil, fmt.Errorf("a worker does not take its options: %w", err)
	}
	if err := writeFrame(conn, frameModule, p.wasm); err != nil {
		return nil, fmt.Errorf("a worker does not take the module: %w", err)
	}
	for lines := 0; ; lines++ {
		kind, text, err := readFrame(w.in, maxFrame)
		switch {
		case err != nil:
			return nil, fmt.Errorf("a worker does not load the module: %w", err)
		case kind == frameReady:
			return w, nil
		case kind == frameFailed:
			return nil, stderrors.New(cut(text))
		case kind == frameLog && lines <= maxLogLines+1:
			p.log(ctx, text)
		default:
			return nil, fmt.Errorf("a worker sends %q instead of loading the module", kind)
		}
	}
}

// workerAttributes makes a process of nobody's, in namespaces of its own. Who
// may not become another user has a namespace of users too.
func workerAttributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Geteuid() == 0 && allIDs() {
		a.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
		return a
	}
	a.Cloneflags |= unix.CLONE_NEWUSER
	a.UidMappings = []syscall.SysProcIDMap{{ContainerID: nobody, HostID: os.Geteuid(), Size: 1}}
	a.GidMappings = []syscall.SysProcIDMap{{ContainerID: nobody, HostID: os.Getegid(), Size: 1}}
	return a
}

// allIDs reports whether this namespace of users has nobody.
func allIDs() bool {
	for _, path := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		text, err := os.ReadFile(path)
		if err != nil {
			return false
		}
		found := false
		for line := range strings.Lines(string(text)) {
			var inside, outside, size int64
			if n, _ := fmt.Sscan(line, &inside, &outside, &size); n == 3 && inside <= nobody && nobody-inside < size {
				found = true
			}
		}
		if !found {
			return false
		}
	}
	return true
}

// kill ends a worker, whatever it is doing.
func (p *workers) kill(w *worker) {
	_ = w.cmd.Process.Kill() // it may have ended by itself
	w.conn.Close()
	_ = w.cmd.Wait()
	p.mu.Lock()
	delete(p.alive, w)
	p.mu.Unlock()
}

func (p *workers) run(ctx context.Context, world World, request []byte) (outcome, error) {
	p.mu.Lock()
	var w *worker
	if n := len(p.idle); n > 0 {
		w, p.idle = p.idle[n-1], p.idle[:n-1]
	}
	p.mu.Unlock()
	if w == nil {
		return p.runFresh(ctx, world, request)
	}
	return p.runOn(w, ctx, world, request)
}

// runFresh makes a call on a new worker, after a pause where the last ones were
// lost.
func (p *workers) runFresh(ctx context.Context, world World, request []byte) (outcome, error) {
	p.mu.Lock()
	pause := time.Until(p.notBefore)
	p.mu.Unlock()
	if pause > 0 {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return outcome{}, errors.E("start worker", "", errors.Unavailable, fmt.Errorf("the last ones were lost: %w", ctx.Err()))
		}
	}
	w, err := p.start(ctx)
	if err != nil {
		p.lost()
		return outcome{}, err
	}
	return p.runOn(w, ctx, world, request)
}

// lost notes that a worker has gone and makes the next one wait for longer.
func (p *workers) lost() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notBefore = time.Now().Add(min(maxBackoff, firstBackoff<<min(p.failures, 10)))
	p.failures++
}

// runOn makes a call on a worker and keeps it where it still does what it is
// told.
func (p *workers) runOn(w *worker, ctx context.Context, world World, request []byte) (outcome, error) {
	o, obedient, err := p.call(w, ctx, world, request)
	if !obedient {
		p.kill(w)
		p.lost()
		if said := w.stderr.String(); said != "" && !stderrors.Is(err, errLate) {
			err = fmt.Errorf("%w; the worker printed: %s", err, said)
		}
		return o, err
	}
	p.mu.Lock()
	p.idle = append(p.idle, w)
	if err == nil {
		p.failures = 0
	}
	p.mu.Unlock()
	return o, err
}

// call makes one call. A worker that is not obedient must be killed.
func (p *workers) call(w *worker, ctx context.Context, world World, request []byte) (o outcome, obedient bool, err error) {
	left := hardDeadline * p.opts.Deadline
	if err := w.conn.SetDeadline(time.Now().Add(left)); err != nil {
		return o, false, err
	}
	if err := writeFrame(w.conn, frameResolve, request); err != nil {
		return o, false, fmt.Errorf("a worker does not take a request: %w", err)
	}
	lines := 0
	for {
		began := time.Now()
		if err := w.conn.SetDeadline(began.Add(max(left, time.Millisecond))); err != nil {
			return o, false, err
		}
		kind, text, err := readFrame(w.in, maxFrame)
		left -= time.Since(began)
		switch {
		case stderrors.Is(err, os.ErrDeadlineExceeded):
			return o, false, errLate
		case err != nil:
			return o, false, fmt.Errorf("a worker has ended: %w", err)
		}
		switch kind {
		case frameDecision:
			if o.decision, err = ParseDecision(string(text)); err != nil {
				return outcome{}, false, fmt.Errorf("%v", err)
			}
			return o, true, nil
		case frameLate:
			return o, true, errLate
		case frameFailed:
			return o, true, stderrors.New(cut(text))
		case frameLog:
			if lines++; lines > maxLogLines+2 || len(text) == 0 {
				return o, false, fmt.Errorf("a worker logs without end")
			}
			p.log(ctx, text)
			continue
		case frameTenant:
			if len(o.asked) == maxLookups {
				return o, false, fmt.Errorf("a worker asks for more than %d tenants", maxLookups)
			}
			kind, text, err = p.lookUp(ctx, world, &o, string(text))
		case frameMachines:
			kind, text = frameList, appendMachines(nil, world.Machines(ctx))
		default:
			return o, false, fmt.Errorf("a worker sends %q", kind)
		}
		if err == nil {
			if err = w.conn.SetDeadline(time.Now().Add(time.Second)); err == nil {
				err = writeFrame(w.conn, kind, text)
			}
		}
		if err != nil {
			return o, false, fmt.Errorf("a worker does not take an answer: %w", err)
		}
	}
}

// lookUp answers a worker's question for a tenant. Others have its place
// meanwhile.
func (p *workers) lookUp(ctx context.Context, world World, o *outcome, id string) (kind byte, text []byte, err error) {
	if err := tenantid.Check(id); err != nil {
		return 0, nil, err
	}
	o.asked = append(o.asked, id)
	attributes, ok, known := world.Recall(id)
	if !known {
		if p.pause() {
			defer p.resume()
		}
		ctx, cancel := context.WithTimeout(ctx, p.opts.LookupDeadline)
		defer cancel()
		attributes, ok, err = world.Tenant(ctx, id)
	}
	switch {
	case err != nil || len(attributes) > MaxText:
		p.opts.Logger.Debug("tenant lookup failed", "resolver", p.opts.Name, "tenant", id, "error", err) // the worker says so once a second
		o.unsure = true
		return frameUnknown, nil, nil
	case !ok:
		o.absent = true
		return frameAbsent, nil, nil
	}
	return frameThere, []byte(attributes), nil
}

// log writes what a worker logs.
func (p *workers) log(ctx context.Context, text []byte) {
	if len(text) == 0 {
		return
	}
	level := slog.Level(4*min(max(int(text[0]-'0'), 0), 3) - 4)
	p.opts.Logger.Log(ctx, level, cut(text[1:]), "resolver", p.opts.Name)
}

// cut makes a worker's text fit for an error or a log.
func cut(text []byte) string { return printable(text[:min(len(text), 2*maxLogLine)]) }

// close waits for the calls in flight and ends the workers.
func (p *workers) close(ctx context.Context) error {
	if err := p.gate.close(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, w := range idle {
		p.kill(w)
	}
	return nil
}
