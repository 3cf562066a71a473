package main

import (
	"context"
	"crypto/rand"
	stderrors "errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"atc/fs/backup"
	"atc/fs/bucket"
	"atc/fs/tenant"
	"atc/fs/tenant/tenantid"
)

// This file defines `atc tenant`: operations on whole tenants in the bucket,
// which need no mount and no running atc. What each does is in fs/backup.

// Exit statuses of `atc tenant`.
const (
	statusUsage  = 2
	statusDamage = 3
)

func tenantCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tenant",
		Short: "List, restore, fork, export, import and verify tenants in the bucket",
		Long: `Work on whole tenants in the bucket. No mount and no running atc is needed.

Everything but restore without --as only reads the tenant it is about, also while
it is being served. Exit status: 0 done, 1 failed, 2 wrong usage, 3 verify found
damage.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("there is no %q; see atc tenant --help", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage("%v", err) })
	cmd.AddCommand(tenantListCommand(), tenantRestoreCommand(), tenantForkCommand(), tenantExportCommand(),
		tenantImportCommand(), tenantVerifyCommand(), tenantUndeleteCommand())
	return cmd
}

// usage says what is wrong with a command line.
func usage(format string, args ...any) error {
	fmt.Fprintf(os.Stderr, "atc: "+format+"\n", args...)
	return exitStatus(statusUsage)
}

// arguments refuses another number of arguments than the usage names.
func arguments(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return usage("usage: atc tenant %s", cmd.Use)
		}
		return nil
	}
}

// tenantIDs refuses arguments that cannot be tenants.
func tenantIDs(ids ...string) error {
	for _, id := range ids {
		if err := tenantid.Check(id); err != nil {
			return usage("%v", err)
		}
	}
	return nil
}

// onStore runs do with the operations on the store that a command's flag names,
// until an interrupt.
type onStore struct{ store string }

func (o *onStore) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.store, "store", storeFromEnv(), "where the data is: file:///path or s3://bucket/prefix (default from BUCKET_NAME)")
}

// services are what the commands work with.
type services struct {
	*backup.Service
	registry *tenant.Registry
	lease    *tenant.Lease // held by who takes a tenant
	bucket   bucket.Bucket
	progress *progress
}

func (o *onStore) run(cmd *cobra.Command, do func(context.Context, services) error) error {
	if o.store == "" {
		return usage("no store: give --store file:///path or --store s3://bucket/prefix")
	}
	ctx, stop := interruptible(cmd.Context())
	defer stop()
	b, err := bucket.Open(ctx, o.store)
	if err != nil {
		return err
	}
	// A machine of its own, since what it takes it serves to nobody.
	host, _ := os.Hostname()
	lease := tenant.NewLease(b, tenant.LeaseOptions{
		Machine: "atc-tenant-" + host + "-" + strings.ToLower(rand.Text()[:8]), Session: rand.Text(),
	})
	registry := tenant.NewRegistry(b, lease, tenant.NewWatcher(b, 0, nil), time.Now)
	p := newProgress(os.Stderr)
	defer p.end()
	err = do(ctx, services{backup.New(b, registry, time.Now), registry, lease, b, p})
	err = stderrors.Join(err, lease.Close(context.WithoutCancel(ctx), err == nil))
	var why interrupted
	if err != nil && stderrors.As(context.Cause(ctx), &why) {
		p.end()
		return fmt.Errorf("%w; nothing was left half done: run it again", why)
	}
	return err
}

// pointFlags are the flags that name a state of a tenant.
type pointFlags struct{ at, txid, database string }

func (f *pointFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.at, "at", "", "the state at this time: 2026-11-21T10:00:00Z, 2026-11-21 (UTC), or -90m, -2h, -3d ago")
	cmd.Flags().StringVar(&f.txid, "txid", "", "the state after this transaction: 16 hexadecimal digits, or a decimal number")
	cmd.Flags().StringVar(&f.database, "db", "", "only the database at this path; needed with --txid where there are several")
	cmd.MarkFlagsMutuallyExclusive("at", "txid")
}

func (f *pointFlags) point(now time.Time) (backup.Point, error) {
	p := backup.Point{Database: f.database}
	var err error
	if f.at != "" {
		if p.Time, err = parseMoment(f.at, now); err != nil {
			return p, usage("%v", err)
		}
	}
	if f.txid != "" {
		if p.TXID, err = parseTXID(f.txid); err != nil {
			return p, usage("%v", err)
		}
	}
	return p, nil
}

// summary tells what was done.
func summary(r backup.Report) string {
	var bytes int64
	for _, d := range r.Databases {
		bytes += d.Bytes
	}
	return fmt.Sprintf("%s, %s, %s of databases", count(len(r.Databases), "database"), count(r.Files, "file"), size(bytes))
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func size(n int64) string {
	const units = "KMGTP"
	f, unit := float64(n), ""
	for i := 0; f >= 1024 && i < len(units); i++ {
		f, unit = f/1024, units[i:i+1]+"i"
	}
	if unit == "" {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %sB", f, unit)
}
