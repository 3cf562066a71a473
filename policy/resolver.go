package policy

import (
	"context"
	stderrors "errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"atc/fs/errors"
)

// What the rest of atc uses of a module: load it, call it from many goroutines,
// close it. How it gets compiled is in load.go, the life of its instances in
// pool.go and instance.go.

// Options configure a resolver. The zero value of every field is useful.
type Options struct {
	Name     string            // in errors and logs; "resolver"
	CacheDir string            // keeps compiled code, mode 0700; "" compiles at each Load (0.7 s for a Go guest)
	Config   map[string]string // what the guest reads with config
	World    World             // nil: no tenants, no machines
	Logger   *slog.Logger      // nil: slog.Default()

	MemoryLimit    int64         // bytes an instance may have; 32 MiB
	Deadline       time.Duration // for the guest's own work in one call; 250 ms. On a saturated CPU 50 ms stopped innocent calls.
	LookupDeadline time.Duration // for one question to the World, not counted above; 2 s
	Instances      int           // calls at the same time; 16, 4 in processes of their own. More wait for one to end.

	// Isolation "process" runs the module in processes of this program without
	// privileges, which main has to lead to [Worker]. One that is late is
	// killed. A call costs tens of microseconds more, each process its own copy
	// of the module.
	Isolation string

	// Trace, where it is set, is told of each call that a guest makes of the
	// ABI, one after the other: what it asked for and got.
	Trace func(call string)
}

func (o Options) withDefaults() Options {
	if o.Name == "" {
		o.Name = "resolver"
	}
	if o.World == nil {
		o.World = emptyWorld{}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.MemoryLimit <= 0 {
		o.MemoryLimit = 32 << 20
	}
	if o.Deadline <= 0 {
		o.Deadline = 250 * time.Millisecond
	}
	if o.LookupDeadline <= 0 {
		o.LookupDeadline = 2 * time.Second
	}
	if o.Instances <= 0 {
		o.Instances = 16
		if o.Isolation == "process" {
			o.Instances = 4
		}
	}
	return o
}

// Resolver is a loaded module. Its methods may be called concurrently.
type Resolver struct {
	name     string
	deadline time.Duration
	world    World
	backend  backend
	kept     *decisions
	requests sync.Pool // *[]byte: the texts of requests
}

// Load compiles a module, starts an instance and makes one call on it, the
// probe: "GET http://probe.invalid/" in a world without tenants, which the
// module must decide (a status will do). So what Load returns works. A module
// that does not is an error of kind Invalid that says what to change in it.
func Load(ctx context.Context, wasm []byte, opts Options) (*Resolver, error) {
	opts = opts.withDefaults()
	begin := open
	if opts.Isolation == "process" {
		begin = openWorkers
	}
	b, err := begin(ctx, wasm, opts)
	if err != nil {
		return nil, errors.E("load resolver", opts.Name, errors.Invalid, err)
	}
	r := newResolver(b, opts)
	probe := Request{Method: "GET", Scheme: "http", Host: "probe.invalid", Path: "/", Remote: "192.0.2.1:1"}
	if _, err := r.resolve(ctx, emptyWorld{}, &probe); err != nil {
		err = errors.E("load resolver", opts.Name, errors.Invalid,
			fmt.Errorf("it failed on the probe, GET http://probe.invalid/ (answer what you do not know with a status): %v", cause(err)))
		_ = r.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	return r, nil
}

// backend runs a module: in this process, or in others.
type backend interface {
	// enter waits until a call may be made, and leave ends it.
	enter(ctx context.Context) error
	leave()
	// run makes a call between the two, runFresh does where nothing was before.
	// A guest that was late is errLate.
	run(ctx context.Context, world World, request []byte) (outcome, error)
	runFresh(ctx context.Context, world World, request []byte) (outcome, error)
	// close stops new calls, waits for those in flight, within ctx, and frees
	// everything. It may be called again.
	close(ctx context.Context) error
}

func newResolver(b backend, opts Options) *Resolver {
	return &Resolver{
		name: opts.Name, deadline: opts.Deadline, world: opts.World, backend: b, kept: newDecisions(),
		requests: sync.Pool{New: func() any { return new([]byte) }},
	}
}

// open makes what runs the module.
func open(ctx context.Context, wasm []byte, opts Options) (backend, error) {
	h, err := load(ctx, wasm, opts)
	if err != nil {
		return nil, err
	}
	return newPool(h, opts.Instances), nil
}

// cause strips the operation and object that Load says itself.
func cause(err error) error {
	var e *errors.Error
	if stderrors.As(err, &e) && e.Err != nil {
		return e.Err
	}
	return err
}

// Resolve asks the module for a decision, unless one is kept that the module made
// for a request with the same values of the parts that it named. The slices of a
// decision must not be changed. A guest that is late is asked once more, on a
// fresh instance. Errors by kind:
//
//	Invalid      the request cannot be shown to a guest: answer 400
//	Unavailable  the resolver is closed, or the context's deadline passed
//	             while all instances were busy
//	Canceled     the context was canceled meanwhile
//	Other        the guest refused, trapped, was late twice or decided
//	             nonsense: answer 500 and log it
//
// The context bounds the wait for an instance and lookups, not the guest: a
// client that leaves does not cost an instance.
func (r *Resolver) Resolve(ctx context.Context, request Request) (Decision, error) {
	d, ok, epoch := r.kept.look(&request)
	if ok {
		return d, nil
	}
	o, err := r.resolve(ctx, r.world, &request)
	if err != nil {
		return Decision{}, err
	}
	r.kept.keep(epoch, &request, &o)
	return o.decision, nil
}

// Forget drops the decisions that are kept and rest on a tenant: one that was
// made, moved or removed.
func (r *Resolver) Forget(tenant string) { r.kept.forget(tenant) }

// ForgetAll drops all decisions that are kept.
func (r *Resolver) ForgetAll() { r.kept.forgetAll() }

func (r *Resolver) resolve(ctx context.Context, world World, request *Request) (outcome, error) {
	buffer := r.requests.Get().(*[]byte)
	defer r.requests.Put(buffer)
	text, err := request.appendLines((*buffer)[:0])
	*buffer = text
	if err != nil {
		return outcome{}, errors.E("resolve", r.name, errors.Other, err)
	}
	if err := r.backend.enter(ctx); err != nil {
		return outcome{}, errors.E("resolve", r.name, errors.Other, err)
	}
	defer r.backend.leave()
	o, err := r.backend.run(ctx, world, text)
	if stderrors.Is(err, errLate) {
		o, err = r.backend.runFresh(ctx, world, text)
		if stderrors.Is(err, errLate) {
			err = fmt.Errorf("no decision within %v, twice", r.deadline)
		}
	}
	if err != nil {
		return outcome{}, guestFault(r.name, err)
	}
	return o, nil
}

// Close waits for the calls in flight, refuses new ones with Unavailable, and
// frees everything. When the context ends first it returns its error, and
// calling Close again goes on. A second Close of a closed resolver is a no-op.
func (r *Resolver) Close(ctx context.Context) error {
	if err := r.backend.close(ctx); err != nil {
		return errors.E("close resolver", r.name, errors.Other, err)
	}
	return nil
}
