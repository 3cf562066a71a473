package policy

import (
	"context"
	stderrors "errors"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"atc/fs/errors"
)

// Live is a resolver that can be replaced while it is used. Its methods may be
// called concurrently.
type Live struct {
	load    func(context.Context) (*Resolver, string, error)
	logger  *slog.Logger
	current atomic.Pointer[Resolver]

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup // resolvers that drain, watches

	reloading sync.Mutex // held while a successor is loaded
	file      string     // guarded by reloading: where the module came from; "" for none
	seen      stamp      // guarded by reloading: of the file when it was last loaded
}

// NewLive loads the first resolver. Load is called again for each successor; it
// reads the module and the options anew and says which file the module is from,
// if any, for [Live.Watch].
func NewLive(ctx context.Context, logger *slog.Logger, load func(context.Context) (_ *Resolver, file string, _ error)) (*Live, error) {
	l := &Live{load: load, logger: logger}
	r, file, err := load(ctx)
	if err != nil {
		return nil, err
	}
	l.file = file
	l.ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	l.current.Store(r)
	return l, nil
}

// Resolve is [Resolver.Resolve] of the resolver that is there now. A call that
// began before a successor came ends on the one that it began on.
func (l *Live) Resolve(ctx context.Context, request Request) (Decision, error) {
	for {
		r := l.current.Load()
		d, err := r.Resolve(ctx, request)
		if err != nil && stderrors.Is(err, errClosed) && l.current.Load() != r {
			continue // it was replaced between the two lines
		}
		return d, err
	}
}

// Forget is [Resolver.Forget].
func (l *Live) Forget(tenant string) { l.current.Load().Forget(tenant) }

// Reload puts a successor in the resolver's place, once it is compiled, started
// and has answered the probe. Where that fails the one that is there stays, and
// the error says why. It returns when the successor serves; the one before ends
// its calls and gives back its memory meanwhile.
func (l *Live) Reload(ctx context.Context) error {
	l.reloading.Lock()
	defer l.reloading.Unlock()
	return l.reload(ctx)
}

// reload is Reload; reloading is held.
func (l *Live) reload(ctx context.Context) error {
	if l.ctx.Err() != nil {
		return errors.E("reload resolver", "", errors.Unavailable, errClosed)
	}
	began := time.Now()
	l.seen = stampOf(l.file) // before it is read: a later change is seen
	next, file, err := l.load(ctx)
	if err != nil {
		l.logger.Error("the resolver is not replaced; the one before goes on", "error", err)
		return errors.E("reload resolver", "", errors.Other, err)
	}
	if l.file != file {
		l.file, l.seen = file, stamp{} // whether it changed while it was read nobody knows
	}
	before := l.current.Swap(next)
	l.logger.Info("the resolver is replaced", "resolver", next.name, "loaded_in", time.Since(began))
	l.work.Go(func() { _ = before.Close(context.WithoutCancel(ctx)) }) // it can only fail by its context
	return nil
}

// Watch reloads whenever the module's file has changed since it was loaded and been left
// alone for the length of a pause, until Close. A change that is refused is not
// tried again until the next one.
func (l *Live) Watch(pause time.Duration) {
	l.work.Go(func() {
		tick := time.NewTicker(pause)
		defer tick.Stop()
		var last stamp
		for {
			select {
			case <-l.ctx.Done():
				return
			case <-tick.C:
			}
			l.reloading.Lock()
			now := stampOf(l.file)
			if now != l.seen && now == last && now != (stamp{}) {
				_ = l.reload(l.ctx) // it is logged
			}
			last = now
			l.reloading.Unlock()
		}
	})
}

// stamp tells whether a file has changed; the zero one is of no file.
type stamp struct {
	size     int64
	modified time.Time
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return stamp{}
	}
	return stamp{info.Size(), info.ModTime()}
}

// Close ends watches and closes the resolver, as [Resolver.Close] does.
func (l *Live) Close(ctx context.Context) error {
	l.cancel()
	l.reloading.Lock()
	defer l.reloading.Unlock()
	err := l.current.Load().Close(ctx)
	if err == nil {
		l.work.Wait()
	}
	return err
}
