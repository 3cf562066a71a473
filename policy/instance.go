package policy

import (
	"context"
	stderrors "errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"atc/fs/errors"
	"atc/fs/tenant/tenantid"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"
)

// One instance of a guest and the calls made on it, one after the other. What
// a guest may do within a call is bounded here, apart from its memory (the
// engine's limit) and its time (the guard).

const (
	maxLogLines = 16   // in one call; what is more is counted
	maxLogLine  = 1024 // bytes of one line; what is more is cut
	maxLookups  = 16   // tenants asked for in one call
	maxStderr   = 512  // bytes kept of what a runtime prints before it gives up

	startDeadline = 5 * time.Second // for instantiation and _initialize
)

// errLate is returned by a guest that used up its time.
var errLate = stderrors.New("it was stopped at its deadline")

// instance is a running guest. One goroutine uses it at a time.
type instance struct {
	host    *host
	mod     api.Module
	resolve api.Function
	guard   *guard
	stderr  head
	call    call
	began   uint32 // bytes of memory after the start

	logged    int    // log lines since the call, or the start, began
	complaint string // the last warning or error among them
}

// call is the state of one resolve; its buffers are used again.
type call struct {
	ctx     context.Context // the request's; nil outside of a call
	gate    *gate           // where it has a place; nil outside of one
	world   World
	request []byte

	decided  bool
	decision []byte

	lookups   int
	asked     []string // the tenants that the host looked up
	absent    bool     // one of them is not there
	unsure    bool     // of one of them nobody could tell
	lookedUp  string   // the last tenant asked for, with its answer below: asking
	answer    []byte   // again with a larger buffer asks nobody
	code      int32
	anyLookup bool

	machinesAsked bool
	machines      []byte
}

// outcome is a decision and what the host saw the guest rest it on. The latter is
// there for decisions that may be kept.
type outcome struct {
	decision Decision
	asked    []string
	absent   bool
	unsure   bool
}

func (c *call) context() context.Context {
	if c.ctx == nil {
		return context.Background()
	}
	return c.ctx
}

// newInstance instantiates the module and runs its _initialize.
func (h *host) newInstance() (*instance, error) {
	in := &instance{host: h}
	in.guard = newGuard(in, startDeadline)
	defer in.guard.stop()
	mod, err := h.runtime.InstantiateModule(in.guard, h.compiled, h.world.WithStderr(&in.stderr))
	if err != nil {
		return nil, in.explain("start", err)
	}
	in.mod, in.resolve = mod, mod.ExportedFunction("resolve")
	if initialize := mod.ExportedFunction("_initialize"); initialize != nil {
		if _, err := initialize.Call(in.guard); err != nil {
			err = in.explain("_initialize", err)
			in.close()
			return nil, err
		}
	}
	in.flushLog(context.Background())
	in.began = mod.Memory().Size()
	if !in.guard.stop() {
		in.close()
		return nil, fmt.Errorf("start: %w", errLate)
	}
	return in, nil
}

func (in *instance) close() {
	in.guard.stop()
	_ = in.mod.Close(context.Background()) // frees memory; there is nothing it could fail at
}

// run makes one call. After an error, and when healthy is false, the instance
// must not be used again: a Go guest that panicked stays half-way through a
// function, and its module does not say so.
func (in *instance) run(ctx context.Context, g *gate, world World, request []byte) (o outcome, healthy bool, err error) {
	c := &in.call
	*c = call{ctx: ctx, gate: g, world: world, request: request, decision: c.decision[:0], machines: c.machines[:0], asked: c.asked[:0]}
	in.stderr.n, in.logged, in.complaint = 0, 0, ""

	var stack [1]uint64
	in.guard.start(in.host.deadline)
	err = in.resolve.CallWithStack(in.guard, stack[:])
	inTime := in.guard.stop()
	c.ctx, c.world, c.request = nil, nil, nil
	in.flushLog(ctx)
	if err != nil {
		return outcome{}, false, in.explain("resolve", err)
	}
	if code := api.DecodeI32(stack[0]); code != 0 {
		return outcome{}, false, in.withComplaint(fmt.Errorf("it refused: resolve returned %d", code))
	}
	if !c.decided {
		return outcome{}, false, in.withComplaint(fmt.Errorf("resolve returned 0 without a call of decide"))
	}
	o.decision, err = parseDecision(c.decision)
	if err == nil && o.decision.CacheFor > 0 {
		o.asked, o.absent, o.unsure = slices.Clone(c.asked), c.absent, c.unsure
	}
	return o, inTime && err == nil, err
}

// lookUp answers the guest's question for a tenant. The guest's clock stands
// meanwhile: a bucket that is slow must not look like a guest that loops.
func (in *instance) lookUp(id []byte) ([]byte, int32) {
	c := &in.call
	if c.anyLookup && c.lookedUp == string(id) {
		return c.answer, c.code
	}
	if c.lookups++; c.lookups > maxLookups {
		trap("tenant was asked for more than %d tenants", maxLookups)
	}
	if len(id) > tenantid.MaxLength || tenantid.Check(string(id)) != nil {
		return nil, noTenant
	}
	c.anyLookup, c.lookedUp, c.answer, c.code = true, string(id), nil, noTenant
	c.asked = append(c.asked, c.lookedUp)
	text, ok, known := c.world.Recall(c.lookedUp)
	var err error
	if !known {
		if !in.guard.stop() {
			return nil, lookupFailed // late already: the guest will not get to see this
		}
		text, ok, err = in.askWorld()
		in.guard.resume()
	}
	if err == nil && (len(text) > MaxText || strings.ContainsAny(text, "\r\x00")) {
		err = fmt.Errorf("attributes of %d bytes, or with CR or NUL, cannot be given to a resolver", len(text))
	}
	switch {
	case err != nil:
		if more, now := in.host.lookupsFailed.tell(); now {
			in.host.logger.Warn("tenant lookup failed", "resolver", in.host.name, "tenant", c.lookedUp, "error", err, "since_the_last", more)
		}
		c.code, c.unsure = lookupFailed, true
	case ok:
		c.answer, c.code = []byte(text), 0
	default:
		c.absent = true
	}
	return c.answer, c.code
}

// askWorld asks for the tenant that the call wants to know about. Others run
// meanwhile in its place.
func (in *instance) askWorld() (string, bool, error) {
	c := &in.call
	if c.gate != nil && c.gate.pause() {
		defer c.gate.resume()
	}
	ctx, cancel := context.WithTimeout(c.ctx, in.host.lookupDeadline)
	defer cancel()
	return c.world.Tenant(ctx, c.lookedUp)
}

// mustResolve traps a guest that asks for a request while it starts.
func (in *instance) mustResolve(function string) {
	if in.call.ctx == nil {
		trap("%s was called while the module started: it works inside of resolve only", function)
	}
}

// flushLog says how much was left out of the log.
func (in *instance) flushLog(ctx context.Context) {
	if more := in.logged - maxLogLines; more > 0 {
		in.host.logger.WarnContext(ctx, "resolver logs too much", "resolver", in.host.name, "dropped", more)
	}
}

// explain turns what the engine reports into an error on one line. The
// engine's error is not wrapped: its exit codes compare equal to context
// errors, which would make a looping guest look like a client that left.
func (in *instance) explain(during string, err error) error {
	if in.guard.late.Load() {
		return fmt.Errorf("%s: %w", during, errLate)
	}
	var broken *violation
	var exit *sys.ExitError
	switch {
	case stderrors.As(err, &broken):
		err = fmt.Errorf("%s: %s", during, broken.text)
	case stderrors.As(err, &exit):
		err = fmt.Errorf("%s: it exited with status %d", during, exit.ExitCode())
	default:
		text := err.Error()
		err = fmt.Errorf("%s: %s", during, printable([]byte(text[:min(len(text), maxLogLine)])))
	}
	return in.withComplaint(err)
}

// withComplaint adds what the guest said last, in its log or on its stderr.
func (in *instance) withComplaint(err error) error {
	if in.complaint != "" {
		err = fmt.Errorf("%w; it logged: %s", err, in.complaint)
	}
	if said := printable(in.stderr.bytes[:in.stderr.n]); said != "" {
		err = fmt.Errorf("%w; it printed: %s", err, said)
	}
	return err
}

// guestFault makes the error of a failed call. A guest's failure has no kind,
// so that a client is answered 500 whatever went wrong in it.
func guestFault(name string, err error) error { return errors.E("resolve", name, errors.Other, err) }

// head keeps the first bytes written to it, where a panic says what it is.
type head struct {
	bytes [maxStderr]byte
	n     int
}

var _ io.Writer = (*head)(nil)

func (h *head) Write(p []byte) (int, error) {
	h.n += copy(h.bytes[h.n:], p)
	return len(p), nil
}
