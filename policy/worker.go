package policy

import (
	"bufio"
	"context"
	"encoding/json"
	stderrors "errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"atc/fs/errors"
)

// The worker: this program again, without privileges, with one module and one
// call at a time. What it asks of the World it asks atc for. See workers.go for
// the other side, which trusts nothing that comes from here.

// workerName is the name that a worker is started under.
const workerName = "atc-policy-worker"

// workerOptions is what a worker has to know of Options.
type workerOptions struct {
	Name           string
	Config         map[string]string
	MemoryLimit    int64
	Deadline       time.Duration
	LookupDeadline time.Duration
}

// Worker must be called early in main, before anything is opened. In a process
// that a resolver with Isolation "process" has started it runs the module and
// never returns; in any other it returns at once.
func Worker() {
	if len(os.Args) == 0 || os.Args[0] != workerName {
		return
	}
	if err := runWorker(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// line is the worker's end of the socket.
type line struct {
	mu  sync.Mutex // held while a frame is written
	out *os.File
	in  <-chan frame
}

type frame struct {
	kind byte
	text []byte
}

func (l *line) write(kind byte, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if writeFrame(l.out, kind, []byte(text)) != nil {
		os.Exit(0) // atc has gone
	}
}

func runWorker() error {
	socket := os.Stdin
	r := bufio.NewReader(socket)
	var o workerOptions
	_, text, err := readFrame(r, maxModule)
	if err == nil {
		err = json.Unmarshal(text, &o)
	}
	if err != nil {
		return fmt.Errorf("%s: not started by atc: %w", workerName, err)
	}
	_, wasm, err := readFrame(r, maxModule)
	if err != nil {
		return fmt.Errorf("%s: the module does not come: %w", workerName, err)
	}
	// The runtime opens its poller with the first timer, and could not later.
	time.AfterFunc(time.Nanosecond, func() {})
	if err := confine(o.MemoryLimit, len(wasm)); err != nil {
		return fmt.Errorf("%s: cannot give up its privileges: %w", workerName, err)
	}
	frames := make(chan frame)
	go func() { // also notices, while a guest runs, that atc has gone
		for {
			kind, text, err := readFrame(r, maxFrame)
			if err != nil {
				os.Exit(0)
			}
			frames <- frame{kind, text}
		}
	}()
	l := &line{out: socket, in: frames}
	ctx := context.Background()
	opts := Options{
		Name: o.Name, Config: o.Config, MemoryLimit: o.MemoryLimit, Deadline: o.Deadline, LookupDeadline: o.LookupDeadline,
		Logger: slog.New(&lineLog{line: l}), Instances: 1,
	}.withDefaults()
	b, err := open(ctx, wasm, opts)
	if err != nil {
		l.write(frameFailed, err.Error())
		return nil
	}
	l.write(frameReady, "")
	for f := range frames {
		if err := b.enter(ctx); err != nil {
			return err
		}
		outcome, err := b.run(ctx, lineWorld{l}, f.text)
		b.leave()
		switch {
		case stderrors.Is(err, errLate):
			l.write(frameLate, "")
		case err != nil:
			l.write(frameFailed, err.Error())
		default:
			l.write(frameDecision, outcome.decision.String())
		}
	}
	return nil
}

// confine gives up what the process could do beyond computing: its user and its
// namespaces have been changed before it began. It can open no file and no
// socket, write no file, run no program, and use a bounded amount of memory.
func confine(memoryLimit int64, module int) error {
	// Privileges belong to threads; a binary with cgo, as of tests under the race
	// detector, cannot reach all of them.
	all := func(trap, a, b, c uintptr) error {
		if _, _, e := syscall.AllThreadsSyscall6(trap, a, b, c, 0, 0, 0); e != 0 && e != syscall.ENOTSUP {
			return e
		}
		return nil
	}
	if err := all(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	// All rights of Landlock's first version, given to nothing. A kernel without
	// it leaves the limits below.
	rules := unix.LandlockRulesetAttr{Handled_access_fs: 1<<13 - 1}
	fd, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&rules)), unsafe.Sizeof(rules.Handled_access_fs), 0)
	if e == 0 {
		err := all(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0)
		unix.Close(int(fd))
		if err != nil {
			return fmt.Errorf("landlock: %w", err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("dumpable: %w", err)
	}
	for _, limit := range []struct {
		name     string
		resource int
		most     uint64
	}{
		{"core", unix.RLIMIT_CORE, 0},
		{"fsize", unix.RLIMIT_FSIZE, 0},
		{"nofile", unix.RLIMIT_NOFILE, 0}, // what is open stays open
		// Two instances, the module as code, and Go's own heap.
		{"data", unix.RLIMIT_DATA, uint64(1<<30 + 2*memoryLimit + 32*int64(module))},
	} {
		if err := unix.Setrlimit(limit.resource, &unix.Rlimit{Cur: limit.most, Max: limit.most}); err != nil {
			return fmt.Errorf("limit %s: %w", limit.name, err)
		}
	}
	return nil
}

// lineWorld asks atc.
type lineWorld struct{ line *line }

var _ World = lineWorld{}

func (w lineWorld) Recall(string) (string, bool, bool) { return "", false, false }

func (w lineWorld) Tenant(_ context.Context, id string) (string, bool, error) {
	w.line.write(frameTenant, id)
	switch f := <-w.line.in; f.kind {
	case frameThere:
		return string(f.text), true, nil
	case frameAbsent:
		return "", false, nil
	}
	return "", false, errors.E("look up tenant", id, errors.Unavailable, nil)
}

func (w lineWorld) Machines(context.Context) []Machine {
	w.line.write(frameMachines, "")
	f := <-w.line.in
	var list []Machine
	for text := range strings.Lines(string(f.text)) {
		fields := strings.Fields(text)
		if len(fields) != 4 {
			continue
		}
		for i := range fields {
			if fields[i] == "-" {
				fields[i] = ""
			}
		}
		load, _ := strconv.ParseFloat(fields[2], 64)
		list = append(list, Machine{ID: fields[0], Region: fields[1], Load: load, State: fields[3]})
	}
	return list
}

// lineLog sends what is logged to atc.
type lineLog struct{ line *line }

var _ slog.Handler = (*lineLog)(nil)

func (*lineLog) Enabled(context.Context, slog.Level) bool { return true }

func (h *lineLog) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteByte('0' + byte(min(max(int(r.Level)/4+1, 0), 3)))
	b.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		if a.Key != "resolver" { // atc says which
			fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		}
		return true
	})
	h.line.write(frameLog, b.String())
	return nil
}

func (h *lineLog) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h *lineLog) WithGroup(string) slog.Handler      { return h }
