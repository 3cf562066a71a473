package instance

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"atc/sandbox"
)

// This file defines what a pool is told once, when it is made.

// Defaults of a [Config].
const (
	DefaultStartTimeout = 30 * time.Second
	DefaultStopGrace    = 10 * time.Second
	DefaultMaxWaiting   = 100
)

// Config is what a [Pool] works by. It is copied by New.
type Config struct {
	// Open prepares what a tenant's instance needs and describes its process;
	// the Spec's Stdout and Stderr are replaced. It is called once a start, for
	// several tenants at once, never twice at once for one, and must return
	// when ctx ends. closed is called exactly once, when every process of the
	// instance is gone, before the tenant can be opened again; it may be nil.
	// An error of Open's reaches the waiting requests with its own kind, and is
	// not counted as a crash.
	Open func(ctx context.Context, tenant string) (spec sandbox.Spec, closed func(), err error)

	// StartTimeout bounds Open, the start and the wait for the first answer
	// together; default 30 s.
	StartTimeout time.Duration

	// IdleTimeout is how long an instance stays without a lease; 0 keeps it.
	IdleTimeout time.Duration

	// StopGrace is the time between SIGTERM and SIGKILL; default 10 s.
	StopGrace time.Duration

	// HealthPath is asked by HTTP until it answers with less than 500. When it
	// is empty a TCP connection is answer enough.
	HealthPath string

	// MaxWaiting bounds the requests that wait for one tenant; default 100.
	MaxWaiting int

	// Logger gets the life of every instance, and every line that it prints.
	Logger *slog.Logger

	// Now is the clock by which the backoff is counted; default time.Now.
	Now func() time.Time
}

func (c Config) complete() Config {
	if c.StartTimeout == 0 {
		c.StartTimeout = DefaultStartTimeout
	}
	if c.StopGrace == 0 {
		c.StopGrace = DefaultStopGrace
	}
	if c.MaxWaiting == 0 {
		c.MaxWaiting = DefaultMaxWaiting
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Unready is why a request cannot be served now. It is found with errors.As in
// an error of kind Unavailable.
type Unready struct {
	Tenant string
	After  time.Duration // when to try again
	Cause  error         // the crash, or the full queue
}

func (u *Unready) Error() string {
	return fmt.Sprintf("%v (try again in %v)", u.Cause, u.After.Round(time.Millisecond))
}

func (u *Unready) Unwrap() error { return u.Cause }
