package main

import (
	"context"
	stderrors "errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"atc/cmd/atc/config"
	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/volume"
	"atc/policy"
	"atc/proxy"
	"atc/sandbox"
	"atc/sandbox/instance"
)

// This file defines `atc serve`: the whole of atc, wired from a configuration.

func serveCommand() *cobra.Command {
	var path, resolver, store string
	var example bool
	cmd := &cobra.Command{
		Use:   "serve --config atc.toml",
		Short: "Mount, resolve, launch, forward, stream back",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if example {
				_, err := fmt.Print(config.Example())
				return err
			}
			c, err := config.Load(path)
			if err != nil {
				return err
			}
			if resolver != "" {
				c.Policy.Resolver = resolver
			}
			if store != "" {
				c.Store = store
			}
			if !mayMount() {
				return reenter(cmd.Context())
			}
			return serve(cmd.Context(), c, hooks{})
		},
	}
	cmd.Flags().StringVar(&path, "config", "atc.toml", "configuration file")
	cmd.Flags().StringVar(&resolver, "resolver", "", "resolver module, instead of the configured one")
	cmd.Flags().StringVar(&store, "store", "", "store, instead of the configured one")
	cmd.Flags().BoolVar(&example, "example", false, "print a configuration file with every key, and exit")
	return cmd
}

// hooks are what a caller of serve wants done on the way.
type hooks struct {
	mounted   func(context.Context, *filesystem) error // before the first request
	listening func(net.Addr)
	logger    *slog.Logger // instead of the configured one
}

// serve runs until parent ends or a signal arrives, then takes everything down
// in the opposite order.
func serve(parent context.Context, c *config.Config, h hooks) (err error) {
	logger := h.logger
	if logger == nil {
		logger = c.Log.Logger(os.Stderr)
	}
	ctx, stop := interruptible(parent)
	defer stop()
	// The address first: it is the likeliest thing to be taken, and costs nothing.
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return errors.E("listen", c.Listen, errors.Other, err)
	}
	defer listener.Close()

	kept := history.DefaultPolicy()
	kept.Keep0, kept.Keep1, kept.Keep2 = c.History.EveryCommit, c.History.EveryFiveMins, c.History.EveryHour
	processes := &instances{}
	fs, err := openFilesystem(ctx, filesystemOptions{
		Store: c.Store, Mountpoint: c.Mount, Passthrough: c.Passthrough != "off", Instances: processes,
		Volume: volume.Options{
			Cache: c.Cache, Logger: logger, Machine: c.Machine, Region: c.Region,
			ShipInterval: c.ShipInterval, HydrateAfter: c.HydrateAfter, Commit: c.Durability == "commit",
			Heartbeat: c.Heartbeat, Lease: c.Lease, ReleaseAfter: c.ReleaseAfter, CacheLimit: int64(c.CacheLimit), Policy: &kept,
			LocalOnly: c.App.LocalOnly,
		},
	})
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, closeFilesystem(parent, fs)) }()
	if h.mounted != nil {
		if err := h.mounted(ctx, fs); err != nil {
			return err
		}
	}

	guest, err := loadPolicy(ctx, c, fs, logger)
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, guest.Close(context.WithoutCancel(parent))) }()

	pool := instance.New(instance.Config{
		Open:         opener(c, fs),
		StartTimeout: c.App.StartTimeout,
		IdleTimeout:  max(c.App.IdleTimeout, 0), // the pool's word for never is 0
		StopGrace:    c.App.StopGrace,
		HealthPath:   c.App.Health,
		MaxWaiting:   c.App.MaxWaiting,
		Logger:       logger,
	})
	processes.set(pool)
	fs.volume.OnFence(pool.Kill)
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(parent), c.App.StopGrace+5*time.Second)
		defer cancel()
		err = stderrors.Join(err, pool.Close(end))
	}()

	p := proxy.New(proxy.Options{
		Resolver:  resolver{guest, c.Region, fs.volume.Machine()},
		Tenants:   fs.volume,
		Instances: processes,
		Logger:    logger,
		AccessLog: c.Proxy.AccessLog, TrustedProxies: c.Proxy.TrustedProxies,
		MaxHeaderBytes: int(c.Proxy.MaxHeader), ReadHeaderTimeout: c.Proxy.HeaderTimeout,
		// Waiting for an instance ends a little after the pool has given up, so
		// that the answer says why.
		StartTimeout:    c.App.StartTimeout + 5*time.Second,
		ResponseTimeout: c.Proxy.ResponseTimeout, ClientIdle: c.Proxy.ClientIdle,
		UpstreamIdle: c.Proxy.UpstreamIdle, DrainTimeout: c.Proxy.DrainTimeout,
	})
	if h.listening != nil {
		h.listening(listener.Addr())
	}
	logger.Info("serving", "listen", listener.Addr().String(), "mountpoint", fs.opts.Mountpoint, "store", fs.volume.Stat("").Store, "machine", fs.volume.Machine())
	return p.Serve(ctx, listener)
}

// loadPolicy loads a built-in resolver, or a module from a file.
func loadPolicy(ctx context.Context, c *config.Config, fs *filesystem, logger *slog.Logger) (*policy.Resolver, error) {
	name := c.Policy.Resolver
	wasm, ok := policy.Builtin(name)
	if !ok {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, errors.E("load resolver", name, errors.Other,
				fmt.Errorf("%w; the built-in ones are %v", err, policy.BuiltinNames()))
		}
		wasm = b
	}
	return policy.Load(ctx, wasm, policy.Options{
		Name:     name,
		CacheDir: filepath.Join(fs.opts.Volume.Cache, "resolver"),
		Config:   c.Policy.Config,
		World:    world{fs.volume, c.Region},
		Logger:   logger, MemoryLimit: int64(c.Policy.MemoryLimit), Deadline: c.Policy.Deadline,
	})
}

// opener describes a tenant's process to the pool.
func opener(c *config.Config, fs *filesystem) func(context.Context, string) (sandbox.Spec, func(), error) {
	var binds []sandbox.Bind
	for _, b := range c.App.Binds {
		binds = append(binds, sandbox.Bind(b))
	}
	hide := []string{fs.opts.Volume.Cache}
	if u, err := url.Parse(c.Store); err == nil && u.Scheme == "file" {
		hide = append(hide, u.Path)
	}
	return func(ctx context.Context, tenant string) (sandbox.Spec, func(), error) {
		// Before the process starts, which cannot say who has the tenant.
		if err := fs.volume.Take(ctx, tenant); err != nil {
			return sandbox.Spec{}, nil, err
		}
		env := []string{"ATC_TENANT=" + tenant}
		for k, v := range c.App.Env {
			env = append(env, k+"="+v)
		}
		slices.Sort(env)
		return sandbox.Spec{
			Name: tenant, Dir: filepath.Join(fs.opts.Mountpoint, tenant), Mount: c.App.Mount,
			Command: c.App.Command, Env: env, Binds: binds, Hide: hide, Port: c.App.Port,
		}, nil, nil
	}
}
