package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/tenant"
)

// This file defines the commands that only look: list and verify.

func tenantListCommand() *cobra.Command {
	var on onStore
	cmd := &cobra.Command{
		Use:   "list [TENANT]",
		Short: "List the tenants, or a tenant's databases and to when each can be restored",
		Args:  arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := tenantIDs(args...); err != nil {
				return err
			}
			return on.run(cmd, func(ctx context.Context, s services) error {
				w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
				defer w.Flush()
				if len(args) == 1 {
					return listDatabases(ctx, s, args[0], w)
				}
				return listTenants(ctx, s, w)
			})
		},
	}
	on.flags(cmd)
	return cmd
}

func listTenants(ctx context.Context, s services, w *tabwriter.Writer) error {
	ids, err := s.registry.List(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "TENANT\tEPOCH\tDATABASES\tSTATE")
	for _, id := range ids {
		held, err := s.registry.LoadAny(ctx, id)
		if errors.Is(errors.NotExist, err) {
			continue // objects that nothing names
		}
		if err != nil {
			fmt.Fprintf(w, "%s\t\t\t%v\n", id, err)
			continue
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", id, held.Epoch, len(held.Databases), tenantState(held.Record))
	}
	return nil
}

func tenantState(r tenant.Record) string {
	switch {
	case !r.Deleted.IsZero():
		return "removed at " + moment(r.Deleted)
	case r.Owner != nil:
		return "owned by " + r.Owner.Machine + " since " + moment(r.Owner.Since)
	case !r.Released.IsZero():
		return "released at " + moment(r.Released)
	}
	return "made at " + moment(r.Created)
}

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func listDatabases(ctx context.Context, s services, id string, w *tabwriter.Writer) error {
	held, err := s.registry.LoadAny(ctx, id)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "DATABASE\tFROM\tTO\tTRANSACTIONS\tSTATE\tIN THE BUCKET")
	line := func(path, folder, state string) error {
		where := tenant.DatabaseFolder(id, folder) // for litestream restore
		first, last, err := history.NewLog(s.bucket, where).Range(ctx)
		if errors.Is(errors.NotExist, err) {
			fmt.Fprintf(w, "%s\t\t\tnone\t%s\t%s\n", path, state, where)
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s-%s\t%s\t%s\n", path, moment(first.Time), moment(last.Time), first.TXID, last.TXID, state, where)
		return nil
	}
	var paths []string
	for path := range held.Databases {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	for _, path := range paths {
		if err := line(path, held.Databases[path].Folder, "present"); err != nil {
			return err
		}
	}
	for _, r := range held.Removed {
		if !tenant.SoundFolder(r.Folder) {
			continue
		}
		if err := line(r.Path, r.Folder, "until "+moment(r.At)); err != nil {
			return err
		}
	}
	return nil
}

func tenantVerifyCommand() *cobra.Command {
	var (
		on  onStore
		all bool
	)
	cmd := &cobra.Command{
		Use:   "verify TENANT | verify --all",
		Short: "Read everything of a tenant from the bucket and check it",
		Long: `Read every database of TENANT whole from the bucket, compare every page with its
hash, run SQLite's integrity_check and foreign_key_check, and look for the contents
of plain files. Nobody who uses the tenant notices, and nothing is written.

Exit status 3 when something is damaged.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if all && len(args) == 0 || !all && len(args) == 1 {
				return tenantIDs(args...)
			}
			return usage("usage: atc tenant %s", cmd.Use)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return on.run(cmd, func(ctx context.Context, s services) error { return verify(ctx, s, args, all) })
		},
	}
	on.flags(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "verify all tenants")
	return cmd
}

func verify(ctx context.Context, s services, ids []string, all bool) error {
	if all {
		var err error
		if ids, err = s.registry.List(ctx); err != nil {
			return err
		}
	}
	damaged := false
	var failed error
	for _, id := range ids {
		r, findings, err := s.Verify(ctx, id, s.progress.report)
		s.progress.end()
		if all && errors.Is(errors.NotExist, err) {
			continue // removed
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		verdict := "sound"
		for _, f := range findings {
			if f.Damage {
				verdict, damaged = "DAMAGED", true
			}
		}
		switch {
		case errors.Is(errors.Corrupt, err):
			verdict, damaged = "DAMAGED", true
			fmt.Printf("%s: %v\n", id, err)
		case err != nil:
			verdict, failed = "not verified", err
			fmt.Fprintf(os.Stderr, "atc: %v\n", err)
		}
		fmt.Printf("%s: %s: %s\n", id, verdict, summary(r))
		for _, f := range findings {
			what := "note"
			if f.Damage {
				what = "damage"
			}
			fmt.Printf("  %s: %s: %s\n", what, f.Path, f.Text)
		}
	}
	switch {
	case damaged:
		fmt.Printf("atc tenant list TENANT shows to when a database can be restored\n")
		return exitStatus(statusDamage)
	case failed != nil:
		return exitStatus(1)
	}
	return nil
}
