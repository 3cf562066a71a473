package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"atc/cmd/atc/config"
	"atc/fs/errors"
	"atc/policy"
	"atc/proxy/control"
)

// This file defines how atc serve gets its resolver and replaces it while
// requests go on: by SIGHUP, by atc policy reload, or because the file changed.

// watchEvery is how often a module's file is looked at.
const watchEvery = time.Second

// livePolicy loads the configured resolver. Again, where there is one, reads the
// configuration for each successor.
func livePolicy(ctx context.Context, first config.Policy, o policy.Options, again func() (config.Policy, error)) (*policy.Live, error) {
	next := func() (config.Policy, error) { return first, nil }
	l, err := policy.NewLive(ctx, o.Logger, func(ctx context.Context) (*policy.Resolver, string, error) {
		c, err := next()
		if err != nil {
			return nil, "", err
		}
		file := ""
		if _, builtin := policy.Builtin(c.Resolver); !builtin {
			file = c.Resolver
		}
		r, err := loadPolicy(ctx, c, o)
		return r, file, err
	})
	if err != nil {
		return nil, err
	}
	if again != nil {
		next = again
	}
	l.Watch(watchEvery)
	return l, nil
}

// loadPolicy loads a built-in resolver, or a module from a file.
func loadPolicy(ctx context.Context, c config.Policy, o policy.Options) (*policy.Resolver, error) {
	wasm, err := readModule(c.Resolver)
	if err != nil {
		return nil, err
	}
	o.Name, o.Config, o.MemoryLimit, o.Deadline = c.Resolver, c.Config, int64(c.MemoryLimit), c.Deadline
	if c.Isolation == "process" {
		o.Isolation = c.Isolation
	}
	return policy.Load(ctx, wasm, o)
}

// readModule finds a built-in resolver by its name, or reads a file.
func readModule(name string) ([]byte, error) {
	if wasm, ok := policy.Builtin(name); ok {
		return wasm, nil
	}
	wasm, err := os.ReadFile(name)
	if err != nil {
		return nil, errors.E("load resolver", name, errors.Other,
			fmt.Errorf("%w; the built-in ones are %s", err, strings.Join(policy.BuiltinNames(), ", ")))
	}
	return wasm, nil
}

// reloadOnHangup reloads at each SIGHUP, until what it returns is called.
func reloadOnHangup(ctx context.Context, l *policy.Live) (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-hangups:
				_ = l.Reload(ctx) // it is logged
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		signal.Stop(hangups)
		cancel()
		<-done
	}
}

// resolvers lets the control API reload the resolver. The control socket is
// there before the resolver is.
type resolvers struct{ live atomic.Pointer[policy.Live] }

var _ control.Policy = (*resolvers)(nil)

func (r *resolvers) set(l *policy.Live) { r.live.Store(l) }

func (r *resolvers) Reload(ctx context.Context) error {
	l := r.live.Load()
	if l == nil {
		return errors.E("reload resolver", "", errors.Unavailable, fmt.Errorf("atc is still starting"))
	}
	return l.Reload(ctx)
}
