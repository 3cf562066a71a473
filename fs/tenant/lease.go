package tenant

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"atc/fs/bucket"
	"atc/fs/errors"
)

// This file defines the lease of one run of atc: how long it may believe that it
// owns what the records say it owns. It is one object in the bucket that is
// written again and again, for all tenants together. The log is what fences;
// the lease makes the loser stop by itself, and tells others when to take over.

const (
	// DefaultHeartbeat costs 17,280 writes a day and machine, and only while it
	// owns a tenant: 9 cents at 5 dollars a million.
	DefaultHeartbeat = 5 * time.Second

	// DefaultLease leaves room for two renewals that are lost. It is what a
	// tenant is unreachable for when its machine dies.
	DefaultLease = 15 * time.Second

	// MaxLease bounds the lease that a heartbeat may state, since others wait
	// as long: a mangled one must not keep a dead owner's tenants for ever.
	MaxLease = 2 * time.Minute

	// renewAttempts fit into what is left of the lease when a renewal is due.
	renewAttempts = 3

	// placeAttempts is how often a renewal looks again at who stands in our
	// place: a run before us whose last write arrives late is one more.
	placeAttempts = 4

	// lapseTick is how soon a suspend is noticed by itself: timers stand still
	// during it, CLOCK_BOOTTIME does not. Only a running heartbeat ticks.
	lapseTick = time.Second
)

// LeaseOptions say whose lease it is.
type LeaseOptions struct {
	Machine string // at most 128 bytes, usable in a key
	Session string // unique to this run
	Address string // where other machines reach this one; told to them, may be empty
	Region  string // may be empty

	Heartbeat time.Duration // between two renewals; DefaultHeartbeat if 0
	Lease     time.Duration // DefaultLease if 0; at least 2 heartbeats and at most MaxLease are taken

	// Lapsed is called when the lease ends while somebody holds it, once a
	// lapse, also when the cause is final ([Lease.Check] says Fenced). Renewed
	// is called when it is valid again after that: what is held may have been
	// taken meanwhile, see [Registry.Mine]. Neither runs beside itself or the
	// other, neither may call Close. Renewed must return soon, since the next
	// Lapsed waits for it. Both may be nil.
	Lapsed, Renewed func()

	// Boottime is a clock that also runs while the machine is suspended;
	// CLOCK_BOOTTIME if nil.
	Boottime func() time.Duration
	Logger   *slog.Logger // discards if nil
}

func (o *LeaseOptions) defaults() {
	if o.Heartbeat <= 0 {
		o.Heartbeat = DefaultHeartbeat
	}
	o.Heartbeat = min(o.Heartbeat, MaxLease/2)
	if o.Lease <= 0 {
		o.Lease = DefaultLease
	}
	o.Lease = min(max(o.Lease, 2*o.Heartbeat), MaxLease)
	if o.Boottime == nil {
		o.Boottime = boottime
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// timeout is how long one renewal may take, so that several fit into the lease.
func (o *LeaseOptions) timeout() time.Duration { return (o.Lease - o.Heartbeat) / renewAttempts }

// boottime is CLOCK_BOOTTIME (clock_gettime(2)).
func boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("CLOCK_BOOTTIME: " + err.Error()) // since Linux 2.6.39
	}
	return time.Duration(ts.Nano())
}

// Lease is the right of one session to serve what it owns. Its methods may be
// called concurrently. Nothing runs and nothing is requested until somebody
// wants it, nor one lease after the last one who held it let go.
type Lease struct {
	o      LeaseOptions
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup // renewing and telling
	beat   beat           // used by the goroutine that renews, and by Close after it

	telling sync.Mutex // held while a callback runs

	mu      sync.Mutex // protects what follows
	holders int
	running bool          // a goroutine renews
	linger  time.Duration // boottime until which it goes on without holders
	due     time.Duration // boottime of the next renewal
	until   time.Duration // boottime at which the confirmed lease ends; 0 before the first
	up      bool          // it was valid when last looked at
	final   error         // why it never comes back
	closed  bool
	last    error         // of the last renewal; nil if it succeeded
	changed chan struct{} // closed and made anew at each change, for Hold
	lapses  uint64        // while held
	told    uint64        // lapses that Lapsed was called for
	down    bool          // Lapsed was called last, not Renewed
	tell    chan struct{} // wakes the goroutine that calls back
	renew   chan struct{} // wakes the one that renews
}

// NewLease returns a lease that nobody wants yet.
func NewLease(b bucket.Bucket, o LeaseOptions) *Lease {
	o.defaults()
	l := &Lease{
		o:       o,
		changed: make(chan struct{}), tell: make(chan struct{}, 1), renew: make(chan struct{}, 1),
		beat: beat{bucket: b, say: heartbeat{
			Machine: o.Machine, Session: o.Session, Lease: o.Lease.Milliseconds(),
			Address: o.Address, Region: o.Region,
		}},
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if !soundMachine(o.Machine) || o.Session == "" {
		l.final = errors.E("hold lease", fmt.Sprintf("%.200q", o.Machine), errors.Invalid,
			fmt.Errorf("a machine's ID has 1 to %d bytes without '/' and control characters, and a session has a name", maxMachine))
	}
	return l
}

// Machine and Session name whose lease it is.
func (l *Lease) Machine() string { return l.o.Machine }

// Session names the run.
func (l *Lease) Session() string { return l.o.Session }

// Want starts the heartbeat in the background, so that a Hold which follows
// need not wait as long. It returns at once.
func (l *Lease) Want() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.linger = max(l.linger, l.o.Boottime()+l.o.Lease)
	l.start()
}

// Hold waits until the lease is valid and keeps it renewed until release, which
// may be called more than once. It fails with Fenced when it never will be, and
// with Unavailable or Canceled when ctx ends before.
func (l *Lease) Hold(ctx context.Context) (release func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holders++
	l.start()
	for {
		err := l.check()
		if err == nil {
			return sync.OnceFunc(l.release), nil
		}
		if l.closed || l.final != nil {
			l.letGo()
			return nil, err
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
			l.mu.Lock()
		case <-ctx.Done():
			l.mu.Lock()
			l.letGo()
			cause := ctx.Err()
			if l.last != nil {
				cause = fmt.Errorf("%w; the last renewal: %w", cause, l.last)
			}
			return nil, errors.E("hold lease", l.o.Machine, errors.KindOf(ctx.Err()), cause)
		}
	}
}

func (l *Lease) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.letGo()
}

// letGo is called with l.mu held.
func (l *Lease) letGo() {
	if l.holders--; l.holders == 0 {
		l.linger = max(l.linger, l.o.Boottime()+l.o.Lease)
	}
}

// Valid reports whether the lease is confirmed: less than a lease has passed
// since the start of the last renewal that succeeded.
func (l *Lease) Valid() bool { return l.Check() == nil }

// Check returns nil while the lease is valid, Unavailable after it lapsed, and
// Fenced when another run has our machine's ID, which is final.
func (l *Lease) Check() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.check()
}

// Term counts the lapses while somebody held the lease. What was found out in
// one term, such as that a tenant is ours, says nothing in the next.
func (l *Lease) Term() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.look(l.o.Boottime())
	return l.lapses
}

// check is called with l.mu held.
func (l *Lease) check() error {
	now := l.o.Boottime()
	l.look(now)
	switch {
	case l.final != nil:
		return l.final
	case l.closed:
		return errors.E("check lease", l.o.Machine, errors.Unavailable, fmt.Errorf("it was given up"))
	case l.up:
		return nil
	case l.until == 0:
		return errors.E("check lease", l.o.Machine, errors.Unavailable, fmt.Errorf("it was not confirmed yet; the last attempt: %v", l.last))
	}
	return errors.E("check lease", l.o.Machine, errors.Unavailable,
		fmt.Errorf("it lapsed %s ago; the last renewal: %v", (now-l.until).Round(time.Millisecond), l.last))
}

// look notices that the lease has ended. Whoever extends it looks before, so
// that no lapse passes unseen. l.mu is held.
func (l *Lease) look(now time.Duration) {
	if !l.up || now < l.until {
		return
	}
	l.up = false
	if l.holders > 0 {
		l.lapses++
	}
	l.signal()
	wake(l.renew)
}

// signal wakes whoever waits for a change. l.mu is held.
func (l *Lease) signal() {
	close(l.changed)
	l.changed = make(chan struct{})
	wake(l.tell)
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is awake already
	}
}

// Close ends the heartbeat and waits for what runs. Released says that this
// session owns nothing any more: then its object goes, unless another run has
// written it. Else it stays, so that others know whom they wait for.
func (l *Lease) Close(ctx context.Context, released bool) error {
	l.mu.Lock()
	again := l.closed
	l.closed, l.up = true, false
	l.signal()
	l.mu.Unlock()
	l.cancel()
	l.work.Wait()
	if again || !released {
		return nil
	}
	if err := l.beat.remove(ctx); err != nil {
		return errors.E("give up lease", l.o.Machine, errors.Other, err)
	}
	return nil
}
