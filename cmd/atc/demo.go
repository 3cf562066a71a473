package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"atc/cmd/atc/config"
	"atc/cmd/atc/notes"
	"atc/fs/errors"
)

// This file defines `atc demo`: the wiring of `atc serve` on embedded defaults,
// with a small notes application and three tenants.

var demoTenants = []string{"acme", "globex", "initech"}

// demoLease is how long the tenants of a demo that was killed are kept from one
// with another cache folder.
const demoLease = 2 * time.Second

func demoCommand() *cobra.Command {
	var listen, dir, store, level string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Try it: three tenants of a small notes application, on a folder as bucket",
		Long: `Run everything on embedded defaults: a folder as bucket, the built-in
subdomain resolver, a small notes application that knows only PORT and a
database path, and three tenants.

Without --dir everything lies in a temporary folder, which is removed at the
end. With --dir the notes are there again next time.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !mayMount() {
				return reenter(cmd.Context())
			}
			return demo(cmd.Context(), listen, dir, store, level)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8080", "address to listen on")
	cmd.Flags().StringVar(&dir, "dir", "", "folder for bucket and cache (default: a temporary one)")
	cmd.Flags().StringVar(&store, "store", "", "store, instead of a folder below --dir")
	cmd.Flags().StringVar(&level, "log-level", "warn", "debug, info, warn or error")
	return cmd
}

func demo(ctx context.Context, listen, dir, store, level string) error {
	logger, err := newLogger(level, "text")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if dir == "" {
		if dir, err = os.MkdirTemp("", "atc-demo-"); err != nil {
			return err
		}
		defer func() {
			if err := removeTemporary(dir); err != nil {
				logger.Error("cannot remove the temporary folder", "folder", dir, "err", err)
			}
		}()
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if store == "" {
		store = "file://" + filepath.Join(dir, "bucket")
	}
	c := config.Default()
	c.Listen, c.Store = listen, store
	c.Mount, c.Cache = filepath.Join(dir, "mnt"), filepath.Join(dir, "cache")
	c.Machine = "" // the folder's own: several demos run side by side
	// A demo is there to be killed: who throws its cache away as well starts on
	// what is another machine to the store, and should not have to wait long.
	c.Heartbeat, c.Lease = demoLease/4, demoLease
	c.Policy.Config = map[string]string{"domain": "localhost"}
	c.App.Command = []string{self, "notes"}
	c.App.Env = map[string]string{"DATABASE_PATH": "/data/notes.sqlite3"}
	c.App.Health = "/health"
	return serve(ctx, &c, hooks{
		logger: logger,
		mounted: func(ctx context.Context, fs *filesystem) error {
			for _, id := range demoTenants {
				if _, err := fs.volume.Create(ctx, id); err != nil && !errors.Is(errors.Exist, err) {
					return err
				}
			}
			return nil
		},
		listening: func(addr net.Addr) { greet(addr, c.Mount, c.Cache, store) },
	})
}

// removeTemporary removes the demo's own folder, unless something is still
// mounted in it.
func removeTemporary(dir string) error {
	if err := os.Remove(filepath.Join(dir, "mnt")); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.RemoveAll(dir)
}

// greet prints what to open.
func greet(addr net.Addr, mountpoint, cache, store string) {
	port := ""
	if tcp, ok := addr.(*net.TCPAddr); ok && tcp.Port != 80 {
		port = fmt.Sprintf(":%d", tcp.Port)
	}
	fmt.Println("atc demo is running. Open:")
	fmt.Println()
	for _, id := range demoTenants {
		fmt.Printf("  http://%s.localhost%s/\n", id, port)
	}
	fmt.Println()
	fmt.Printf("Each is a process of its own, started by the first request, with its own\ndatabase on %s, streamed to %s.\n", mountpoint, store)
	fmt.Printf("To look inside:  %s fs stat --cache %s\n", os.Args[0], cache)
	fmt.Println("Ctrl-C stops it.")
}

func notesCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "notes",
		Short:              "The demo's application: notes in one SQLite database",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return notes.Main(ctx, args)
		},
	}
}
