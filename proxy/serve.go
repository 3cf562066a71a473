// This file runs the proxy on a listener, and ends it so that no request is cut
// off that could have been finished.

package proxy

import (
	"context"
	stderrors "errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
)

// Serve answers requests on l until ctx ends or l fails. Then it stops
// accepting and lets the requests under way finish, for at most DrainTimeout;
// what is left after that, and every WebSocket, is closed. It returns when no
// handler runs any more: nil after ctx ended, even if requests were cut off. It
// closes l. It may be called for several listeners at once.
func (p *Proxy) Serve(ctx context.Context, l net.Listener) error {
	requests, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	running := newInflight()
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if running.enter() {
				defer running.leave()
				p.ServeHTTP(w, r)
			}
		}),
		BaseContext:       func(net.Listener) context.Context { return requests },
		ReadHeaderTimeout: p.opt.ReadHeaderTimeout,
		IdleTimeout:       p.opt.ClientIdle,
		MaxHeaderBytes:    p.opt.MaxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(p.opt.Logger.Handler(), slog.LevelDebug),
		Protocols:         onlyHTTP1(),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()

	var err error
	select {
	case err = <-failed:
		failed <- http.ErrServerClosed // for the receive below
		err = fmt.Errorf("accepting on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}

	drain, cancel := context.WithTimeout(requests, p.opt.DrainTimeout)
	defer cancel()
	if serr := server.Shutdown(drain); serr != nil && !stderrors.Is(serr, context.DeadlineExceeded) {
		err = stderrors.Join(err, fmt.Errorf("closing %s: %w", l.Addr(), serr))
	}
	// Shutdown does not know hijacked connections; ending their context makes
	// httputil close both sides.
	abort()
	server.Close()
	<-failed
	running.wait()
	return err
}

// inflight counts the handlers that run, until it is told to wait for them.
type inflight struct {
	mu     sync.Mutex // protects n and closed
	n      int
	closed bool
	idle   *sync.Cond
}

func newInflight() *inflight {
	f := &inflight{}
	f.idle = sync.NewCond(&f.mu)
	return f
}

// enter reports whether a handler may begin.
func (f *inflight) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.n++
	}
	return !f.closed
}

func (f *inflight) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n--; f.n == 0 {
		f.idle.Broadcast()
	}
}

// wait lets no more handlers begin and returns when none runs.
func (f *inflight) wait() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for f.n > 0 {
		f.idle.Wait()
	}
}
