package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"atc/fs/errors"
	"atc/fs/mount"
	"atc/fs/tenant/tenantid"
	"atc/proxy/control"
)

// This file defines `atc fs`: what a running atc tells about its filesystem.

func fsCommand() *cobra.Command {
	fs := &cobra.Command{Use: "fs", Short: "Look into the filesystem of a running atc"}
	fs.AddCommand(fsStatCommand())
	return fs
}

func fsStatCommand() *cobra.Command {
	var (
		where  atcFinder
		asJSON bool
		watch  time.Duration
	)
	cmd := &cobra.Command{
		Use:   "stat [TENANT[/DATABASE]]",
		Short: "Show what is shipped and pending, present and fetched",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			pattern := ""
			if len(args) == 1 {
				pattern = args[0]
				if err := checkPattern(pattern); err != nil {
					return err
				}
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			client, err := where.dial(ctx)
			if err != nil {
				return err
			}
			defer client.Close()
			for {
				if err := printStat(ctx, client, pattern, asJSON); err != nil || watch == 0 {
					return err
				}
				select {
				case <-time.After(watch):
				case <-ctx.Done():
					return nil
				}
			}
		},
	}
	where.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().DurationVar(&watch, "watch", 0, "print again at this interval, until interrupted")
	return cmd
}

// checkPattern refuses what cannot be a tenant before anybody is asked.
func checkPattern(pattern string) error {
	id := pattern
	for i, c := range pattern {
		if c == '/' {
			id = pattern[:i]
			break
		}
	}
	return tenantid.Check(id)
}

func printStat(ctx context.Context, client *control.Client, pattern string, asJSON bool) error {
	stat, err := client.Stat(ctx, pattern)
	if err != nil {
		return err
	}
	if !asJSON {
		return control.WriteTable(os.Stdout, stat)
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(stat)
}

// atcFinder finds the running atc that a command means.
type atcFinder struct{ mountpoint, cache string }

func (f *atcFinder) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.mountpoint, "mount", "", "the mountpoint of the atc to ask")
	cmd.Flags().StringVar(&f.cache, "cache", "", "the cache folder of the atc to ask")
	cmd.MarkFlagsMutuallyExclusive("mount", "cache")
}

// dial connects to the control socket, which lies in the cache folder. Without
// any flag it asks the only atc that has something mounted here.
func (f *atcFinder) dial(ctx context.Context) (*control.Client, error) {
	cache := f.cache
	switch {
	case cache != "":
	case f.mountpoint != "":
		dir, err := filepath.Abs(f.mountpoint)
		if err != nil {
			return nil, err
		}
		source, ok := mount.Source(dir)
		if !ok {
			return nil, errors.E("find atc", dir, errors.NotExist, fmt.Errorf("no atc is mounted there; use --cache with its cache folder"))
		}
		cache = source
	default:
		sources := mount.Sources()
		if len(sources) != 1 {
			return nil, errors.E("find atc", "", errors.NotExist,
				fmt.Errorf("%d atc mounts are here; say which one with --mount or --cache", len(sources)))
		}
		cache = sources[0]
	}
	return control.Dial(ctx, filepath.Join(cache, control.SocketName))
}
