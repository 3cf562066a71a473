package main

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"atc/fs/backup"
)

// This file defines the commands that make or change tenants: restore, fork,
// export, import and undelete.

func tenantRestoreCommand() *cobra.Command {
	var (
		on onStore
		f  pointFlags
		as string
	)
	cmd := &cobra.Command{
		Use:   "restore TENANT --at TIME|--txid TXID [--as NEW] [--db PATH]",
		Short: "Make a tenant's databases be what they were",
		Long: `Make the databases of TENANT be what they were at a time, or make another tenant
NEW of it.

Without --as the tenant is taken for that time, so no machine may serve it. What
the databases are now is kept: a later restore can go back to it. Plain files have
no history and stay as they are.`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := f.point(time.Now())
			if err == nil && at.Latest() {
				err = usage("restore to what? give --at TIME or --txid TXID")
			}
			if err == nil {
				err = tenantIDs(args[0])
			}
			if err == nil && as != "" {
				err = tenantIDs(as)
			}
			if err != nil {
				return err
			}
			return on.run(cmd, func(ctx context.Context, s services) error {
				if as != "" {
					return fork(ctx, s, args[0], as, at)
				}
				unhold, err := s.lease.Hold(ctx)
				if err != nil {
					return err
				}
				defer unhold()
				r, err := s.Restore(ctx, args[0], at, s.progress.report)
				s.progress.end()
				if err != nil {
					return err
				}
				fmt.Printf("restored %s\n", args[0])
				positions(r)
				return nil
			})
		},
	}
	on.flags(cmd)
	f.flags(cmd)
	cmd.Flags().StringVar(&as, "as", "", "leave TENANT alone and make this tenant of it")
	return cmd
}

func tenantForkCommand() *cobra.Command {
	var (
		on onStore
		f  pointFlags
	)
	cmd := &cobra.Command{
		Use:   "fork TENANT NEW [--at TIME|--txid TXID] [--db PATH]",
		Short: "Make another tenant of one, as it is or was",
		Long: `Make tenant NEW of what TENANT is, or was at a time; its history comes along.
TENANT may be in use.

The objects are copied by the store, so the time grows with how many there are,
and not with their bytes. Plain files have no history: they are as they are now.`,
		Args: arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := f.point(time.Now())
			if err == nil {
				err = tenantIDs(args...)
			}
			if err != nil {
				return err
			}
			return on.run(cmd, func(ctx context.Context, s services) error { return fork(ctx, s, args[0], args[1], at) })
		},
	}
	on.flags(cmd)
	f.flags(cmd)
	return cmd
}

func fork(ctx context.Context, s services, from, to string, at backup.Point) error {
	begin := time.Now()
	r, err := s.Fork(ctx, from, to, at, s.progress.report)
	s.progress.end()
	if err != nil {
		return err
	}
	fmt.Printf("made %s of %s in %s: %s, copied by the store (the time grows with objects, not bytes)\n",
		to, from, time.Since(begin).Round(time.Millisecond), summary(r))
	positions(r)
	if r.Files > 0 && !at.Latest() {
		fmt.Println("plain files have no history: they are as they are now")
	}
	return nil
}

// positions prints where each database stands.
func positions(r backup.Report) {
	for _, d := range r.Databases {
		switch {
		case d.Kept:
			fmt.Printf("  %s: left as it is\n", d.Path)
		case d.At.Time.IsZero():
			fmt.Printf("  %s: transaction %s, %s\n", d.Path, d.At.TXID, size(d.Bytes))
		default:
			fmt.Printf("  %s: transaction %s of %s, %s\n", d.Path, d.At.TXID, d.At.Time.UTC().Format(time.RFC3339), size(d.Bytes))
		}
	}
}

func tenantExportCommand() *cobra.Command {
	var (
		on onStore
		f  pointFlags
	)
	cmd := &cobra.Command{
		Use:   "export TENANT DIR [--at TIME|--txid TXID] [--db PATH]",
		Short: "Write a tenant's databases and files into an empty folder",
		Long: `Write every database of TENANT as one SQLite file, and its plain files, into DIR,
which is made, or is empty. TENANT may be in use. Plain files have no history:
they are as they are now, whatever --at says.`,
		Args: arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := f.point(time.Now())
			if err == nil {
				err = tenantIDs(args[0])
			}
			if err != nil {
				return err
			}
			return on.run(cmd, func(ctx context.Context, s services) error {
				r, err := s.Export(ctx, args[0], args[1], at, s.progress.report)
				s.progress.end()
				if err != nil {
					return err
				}
				fmt.Printf("exported %s to %s: %s\n", args[0], args[1], summary(r))
				positions(r)
				return nil
			})
		},
	}
	on.flags(cmd)
	f.flags(cmd)
	return cmd
}

func tenantImportCommand() *cobra.Command {
	var (
		on               onStore
		litestream, path string
	)
	cmd := &cobra.Command{
		Use:   "import DIR NEW | import --litestream URL NEW --path PATH",
		Short: "Make a tenant of existing files, or of a Litestream replica",
		Long: `Make tenant NEW of the files in DIR: SQLite files of any journal mode become its
databases, the rest its plain files. DIR is only read: a database that was not
closed cleanly is recovered on a private copy. Nobody may write in DIR meanwhile.

With --litestream, adopt what Litestream 0.5 has replicated of one database to
s3://bucket/prefix or file:///dir, with its history.`,
		Args: func(cmd *cobra.Command, args []string) error {
			want := 2
			if litestream != "" {
				want = 1
			}
			return arguments(want, want)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			id := args[len(args)-1]
			if err := tenantIDs(id); err != nil {
				return err
			}
			if (litestream == "") != (path == "") {
				return usage("--litestream and --path go together: --path says where in the tenant the database is to be")
			}
			return on.run(cmd, func(ctx context.Context, s services) error {
				var (
					r   backup.Report
					err error
				)
				from := litestream
				if litestream != "" {
					r, err = s.ImportLitestream(ctx, litestream, id, path, s.progress.report)
					if u, parseErr := url.Parse(from); parseErr == nil {
						from = u.Redacted()
					}
				} else {
					from = args[0]
					r, err = s.Import(ctx, from, id, s.progress.report)
				}
				s.progress.end()
				if err != nil {
					return err
				}
				fmt.Printf("made %s of %s: %s\n", id, from, summary(r))
				positions(r)
				return nil
			})
		},
	}
	on.flags(cmd)
	cmd.Flags().StringVar(&litestream, "litestream", "", "adopt the replica at this URL: s3://bucket/prefix or file:///dir")
	cmd.Flags().StringVar(&path, "path", "", "with --litestream: the database's path in the tenant, such as main.sqlite3")
	return cmd
}

func tenantUndeleteCommand() *cobra.Command {
	var on onStore
	cmd := &cobra.Command{
		Use:   "undelete TENANT",
		Short: "Bring a removed tenant back, with what its removal removed",
		Args:  arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := tenantIDs(args...); err != nil {
				return err
			}
			return on.run(cmd, func(ctx context.Context, s services) error {
				r, err := s.Undelete(ctx, args[0], s.progress.report)
				s.progress.end()
				if err != nil {
					return err
				}
				fmt.Printf("%s is there again: %s\n", args[0], summary(r))
				if len(r.Databases) == 0 {
					fmt.Printf("what it had earlier comes back with: atc tenant restore %s --at TIME\n", args[0])
				}
				return nil
			})
		},
	}
	on.flags(cmd)
	return cmd
}
