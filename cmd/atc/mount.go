package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"atc/fs/errors"
	"atc/fs/tenant"
)

// This file defines `atc mount`: the filesystem alone, around one command or
// until interrupted.

// closeWithin is how long shipping everything may take at the end. On Fly it
// has to fit into the kill timeout, which is at most 300 s.
const closeWithin = 4 * time.Minute

// defaultCache is where local files are kept: a place that survives a restart of
// the container where its disk does.
func defaultCache() string {
	if os.Geteuid() == 0 {
		return "/var/cache/atc"
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return filepath.Join(os.TempDir(), "atc")
	}
	return filepath.Join(dir, "atc", "data")
}

func mountCommand() *cobra.Command {
	var (
		o           filesystemOptions
		passthrough string
		durability  string
		level       string
		format      string
	)
	cmd := &cobra.Command{
		Use:   "mount MOUNTPOINT [-- COMMAND ARGS...]",
		Short: "Mount the tenants' folders, and run a command on them",
		Long: `Mount the tenants' folders at MOUNTPOINT.

With a command it is a container's entrypoint: it runs the command, forwards
signals to it, reaps children, ships everything and unmounts when it has ended,
and exits with its status. Without one it mounts until it is interrupted.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if n := len(args); n == 0 || n > 1 && cmd.ArgsLenAtDash() != 1 {
				return errors.E("mount", "", errors.Invalid, fmt.Errorf("usage: atc mount MOUNTPOINT [-- COMMAND ARGS...]"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if o.Volume.Logger, err = newLogger(level, format); err != nil {
				return err
			}
			if o.Passthrough, err = parsePassthrough(passthrough); err != nil {
				return err
			}
			if o.Volume.Commit, err = parseDurability(durability); err != nil {
				return err
			}
			o.Mountpoint = args[0]
			if !mayMount() && len(args) > 1 {
				return reenter(cmd.Context())
			}
			return mountAndRun(cmd.Context(), o, args[1:])
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Store, "store", storeFromEnv(), "where the data is: file:///path or s3://bucket/prefix (default from BUCKET_NAME)")
	f.StringVar(&o.Volume.Cache, "cache", defaultCache(), "folder for local files; one for each atc")
	f.DurationVar(&o.Volume.ShipInterval, "ship-interval", time.Second, "how long a commit may wait for the bucket")
	f.DurationVar(&o.Volume.HydrateAfter, "hydrate-after", 2*time.Second, "when the rest of an opened database is fetched; negative for never")
	f.StringVar(&durability, "durability", "async", "async, or commit to make every commit wait until the bucket has it")
	f.DurationVar(&o.Volume.ReleaseAfter, "release-after", time.Minute, "how long a tenant of which nothing is open is kept from other machines")
	f.DurationVar(&o.Volume.Heartbeat, "heartbeat", tenant.DefaultHeartbeat, "how often this machine says that it is alive, while it owns tenants")
	f.DurationVar(&o.Volume.Lease, "lease", tenant.DefaultLease, "after how long without a heartbeat others take its tenants")
	f.StringVar(&o.Volume.Machine, "machine", os.Getenv("FLY_MACHINE_ID"), "this machine's ID (default from FLY_MACHINE_ID, else one kept in the cache folder)")
	f.StringArrayVar(&o.Volume.LocalOnly, "local-only", nil, "pattern of files that never reach the bucket, as in .gitignore; may be repeated")
	f.StringVar(&passthrough, "passthrough", "auto", "auto, or off to serve every file through the daemon")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&format, "log-format", "text", "text or json")
	return cmd
}

// storeFromEnv is the store that Tigris on Fly names in the environment.
func storeFromEnv() string {
	if os.Getenv("BUCKET_NAME") != "" {
		return "s3://"
	}
	return ""
}

func parsePassthrough(s string) (bool, error) {
	switch s {
	case "auto":
		return true, nil
	case "off":
		return false, nil
	}
	return false, errors.E("passthrough", s, errors.Invalid, fmt.Errorf("use auto or off"))
}

func parseDurability(s string) (commit bool, err error) {
	switch s {
	case "async":
		return false, nil
	case "commit":
		return true, nil
	}
	return false, errors.E("durability", s, errors.Invalid, fmt.Errorf("use async or commit"))
}

func mountAndRun(parent context.Context, o filesystemOptions, command []string) (err error) {
	if o.Store == "" {
		return errors.E("mount", o.Mountpoint, errors.Invalid, fmt.Errorf("no store: give --store file:///path or --store s3://bucket/prefix"))
	}
	ctx, stop := interruptible(parent)
	fs, err := openFilesystem(ctx, o)
	if err != nil {
		stop()
		return err
	}
	status := 0
	if len(command) == 0 {
		o.Volume.Logger.Info("mounted", "mountpoint", o.Mountpoint, "store", o.Store, "cache", o.Volume.Cache)
		<-ctx.Done()
		defer stop() // a second interrupt ends the closing
	} else {
		stop() // signals are the command's while it runs
		if status, err = runCommand(command); err != nil {
			o.Volume.Logger.Error("cannot run the command", "command", command[0], "err", err)
		}
		_, stop = interruptible(parent)
		defer stop()
	}
	if err := closeFilesystem(parent, fs); err != nil {
		return err
	}
	if status != 0 {
		return exitStatus(status)
	}
	return nil
}

// closeFilesystem ships and unmounts, and says what to do where it cannot.
func closeFilesystem(ctx context.Context, fs *filesystem) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWithin)
	defer cancel()
	if err := fs.Close(ctx); err != nil {
		return fmt.Errorf("not everything was shipped; start again with --cache %s: %w", fs.opts.Volume.Cache, err)
	}
	return nil
}
