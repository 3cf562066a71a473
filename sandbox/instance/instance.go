package instance

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"time"

	"atc/fs/errors"
	"atc/sandbox"
)

// This file is the life of one instance, told by the one goroutine that lives
// it: open, start, wait for the answer, wait for a reason to end, end, close.

type instance struct {
	pool   *Pool
	tenant *tenant
	id     string
	log    *slog.Logger

	asked context.Context // ends when the instance must
	ask   context.CancelFunc
	hurry context.Context // ends when it must at once
	rush  context.CancelFunc

	started chan struct{} // closed when Starting is over
	ended   chan struct{} // closed when everything is over

	process *sandbox.Process // written under Pool.mu before started is closed
	failed  error            // why it never became ready; written before started is closed
	stdout  lines
	stderr  lines

	// Protected by Pool.mu.
	state  State
	since  time.Time
	leases int
	idle   time.Time // since when there has been no lease
}

// launch begins a life. mu is held.
func (p *Pool) launch(t *tenant) *instance {
	i := &instance{
		pool: p, tenant: t, id: rand.Text()[:8], state: Starting, since: p.config.Now(),
		started: make(chan struct{}), ended: make(chan struct{}),
	}
	i.log = p.config.Logger.With("tenant", t.name, "instance", i.id)
	i.stdout.log = i.log.With("stream", "stdout")
	i.stderr.log = i.log.With("stream", "stderr")
	i.hurry, i.rush = context.WithCancel(p.hurry)
	i.asked, i.ask = context.WithCancel(i.hurry)
	p.running.Add(1)
	go i.live()
	return i
}

// askToStop begins the end. mu is held.
func (i *instance) askToStop() {
	if i.state == Ready {
		i.become(Stopping)
	}
	i.ask()
}

// become changes the state. mu is held.
func (i *instance) become(s State) { i.state, i.since = s, i.pool.config.Now() }

func (i *instance) live() {
	defer i.pool.running.Done()
	defer i.rush()
	begin := time.Now()
	closed, crash, err := i.start()
	if err == nil {
		i.log.Info("instance is ready", "pid", i.process.Pid(), "took", time.Since(begin))
		readyAt := i.ready()
		if crash = i.serve(); crash != nil {
			i.end(closed, crash, i.pool.config.Now().Sub(readyAt))
			return
		}
	}
	i.failed = err
	i.end(closed, crash, 0)
}

// start opens the tenant and starts its process. err is what waiting requests
// are told; crash is set when it also counts for the backoff.
func (i *instance) start() (closed func(), crash, err error) {
	config := &i.pool.config
	ctx, cancel := context.WithTimeout(i.asked, config.StartTimeout)
	defer cancel()
	stopped := errors.E("instance", i.id, errors.Unavailable, fmt.Errorf("stopped before it was ready"))
	spec, closed, err := config.Open(ctx, i.tenant.name)
	switch {
	case err != nil && i.asked.Err() != nil:
		return closed, nil, stopped
	case err != nil:
		return closed, nil, errors.E("open", i.tenant.name, errors.Other, err)
	}
	spec.Stdout, spec.Stderr = &i.stdout, &i.stderr
	process, err := sandbox.Start(ctx, spec)
	if err == nil {
		i.pool.mu.Lock()
		i.process = process
		i.pool.mu.Unlock()
		if err = healthy(ctx, process, config.HealthPath); err == nil {
			return closed, nil, nil
		}
		if stopErr := process.Stop(i.hurry, config.StopGrace); stopErr != nil {
			i.log.Error("instance does not end", "error", stopErr)
		}
		err = i.lastWords(err)
	}
	// Unavailable, whatever the cause: a program that does not exist is no
	// reason to answer that the tenant does not.
	if i.asked.Err() != nil {
		return closed, nil, stopped
	}
	err = errors.E("instance", i.id, errors.Unavailable, err)
	return closed, err, err
}

// ready lets the waiting requests in.
func (i *instance) ready() time.Time {
	i.pool.mu.Lock()
	defer i.pool.mu.Unlock()
	i.become(Ready)
	i.idle = time.Now()
	if i.asked.Err() != nil {
		i.become(Stopping)
	}
	close(i.started)
	return i.since
}

// serve waits for the end and brings it about: a crash, or nil for an instance
// that was stopped, was idle, or ended by itself with status 0.
func (i *instance) serve() error {
	idle := i.pool.config.IdleTimeout
	timer := time.NewTimer(max(idle, time.Nanosecond))
	defer timer.Stop()
	if idle <= 0 {
		timer.Stop()
	}
	for {
		select {
		case <-i.process.Done():
			i.retire()
			if err := i.process.Err(); err != nil {
				return errors.E("instance", i.id, errors.Unavailable, i.lastWords(err))
			}
			i.log.Info("instance ended by itself")
			return nil
		case <-timer.C:
			if wait := i.retireIdle(idle); wait > 0 {
				timer.Reset(wait)
				continue
			}
			i.log.Info("instance stops", "idle", idle)
		case <-i.asked.Done():
			i.log.Info("instance stops")
		}
		if err := i.process.Stop(i.hurry, i.pool.config.StopGrace); err != nil {
			i.log.Error("instance does not end", "error", err)
		}
		return nil
	}
}

// retireIdle makes an instance that nobody used for the idle time Stopping, and
// else says when to look again.
func (i *instance) retireIdle(idle time.Duration) time.Duration {
	i.pool.mu.Lock()
	defer i.pool.mu.Unlock()
	if i.leases > 0 {
		return idle
	}
	if left := idle - time.Since(i.idle); left > 0 {
		return left
	}
	i.become(Stopping)
	return 0
}

// retire makes it Stopping, so that nobody gets a lease on what has ended.
func (i *instance) retire() {
	i.pool.mu.Lock()
	defer i.pool.mu.Unlock()
	i.become(Stopping)
}

func (i *instance) unlease() {
	i.pool.mu.Lock()
	defer i.pool.mu.Unlock()
	if i.leases--; i.leases == 0 {
		i.idle = time.Now()
	}
}

// lastWords adds to an error how the process ended and what it said last. The
// process has ended.
func (i *instance) lastWords(err error) error {
	if exit := i.process.Err(); exit != nil && exit != err {
		err = fmt.Errorf("%w: %w", err, exit)
	}
	i.stderr.close()
	if text := i.stderr.text(); text != "" {
		err = fmt.Errorf("%w; it said:\n%s", err, text)
	}
	return err
}

// end closes what Open opened and then makes the tenant free for a next start.
func (i *instance) end(closed func(), crash error, readyFor time.Duration) {
	i.stdout.close()
	i.stderr.close()
	if closed != nil {
		closed()
	}
	if crash != nil {
		i.log.Warn("instance crashed", "error", crash)
	}
	p, t := i.pool, i.tenant
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case crash != nil:
		t.crashes.add(p.config.Now(), readyFor, crash)
	case i.failed == nil:
		t.crashes = crashes{}
	}
	t.current = nil
	p.forget(t)
	select {
	case <-i.started:
	default:
		close(i.started)
	}
	close(i.ended)
}
