package main

import (
	"context"
	stderrors "errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"atc/fs/errors"
	"atc/fs/tenant/tenantid"
	"atc/policy"
	"atc/policy/cases"
)

// This file defines `atc policy`: what authors and operators of resolvers need.

func policyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Write, try and replace resolvers"}
	cmd.AddCommand(policyNewCommand(), policyTestCommand(), policyExplainCommand(), policyBenchCommand(), policyReloadCommand())
	return cmd
}

func policyReloadCommand() *cobra.Command {
	var where atcFinder
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have a running atc serve replace its resolver by [policy] and the module as they are now",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			client, err := where.dial(ctx)
			if err != nil {
				return err
			}
			defer client.Close()
			if err := client.ReloadPolicy(ctx); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "the resolver is replaced")
			return err
		},
	}
	where.flags(cmd)
	return cmd
}

func policyTestCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "test MODULE CASES.toml...",
		Short: "Hold a resolver against the cases of its author",
		Long: `Hold a resolver against the cases of its author. A file of cases is TOML:

  [config]
  domain = "example.com"

  [tenants.acme]

  [[case]]
  request = "GET https://acme.example.com/x"
  decision = """
  tenant: acme
  """

docs/policy-abi.md has everything that may stand in it. Of a case that comes out
otherwise, lines that are wanted are shown with '-', those decided with '+'.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			wasm, err := readModule(args[0])
			if err != nil {
				return err
			}
			failed, all := 0, 0
			for _, path := range args[1:] {
				text, err := os.ReadFile(path)
				if err != nil {
					return errors.E("read cases", path, errors.Other, err)
				}
				f, err := cases.Parse(path, text)
				if err != nil {
					return err
				}
				failures, err := f.Run(ctx, wasm, policy.Options{Name: args[0], Logger: authorLog(cmd)})
				if err != nil {
					return err
				}
				failed, all = failed+len(failures), all+len(f.Cases)
				for _, one := range failures {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n%s\n", path, one.Case, one.Diff)
				}
			}
			if failed > 0 {
				return fmt.Errorf("%d of %d cases came out otherwise", failed, all)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d cases came out as wanted\n", all)
			return err
		},
	}
}

// authorLog shows what a module logs to its author.
func authorLog(cmd *cobra.Command) *slog.Logger {
	return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// trial is one request to a module in a world that flags describe.
type trial struct {
	request string
	headers []string
	config  []string
	tenants []string
}

func (t *trial) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.request, "request", "GET https://acme.example.com/", "method and URL")
	cmd.Flags().StringArrayVar(&t.headers, "header", nil, `a header of the request, "cookie: a=b"; may be repeated`)
	cmd.Flags().StringArrayVar(&t.config, "config", nil, `a line of its configuration, "domain=example.com"; may be repeated`)
	cmd.Flags().StringArrayVar(&t.tenants, "tenant", nil, `a tenant with its attributes, "acme region=ams"; may be repeated (default: every tenant is there)`)
}

// prepare reads the flags.
func (t *trial) prepare(name string) ([]byte, policy.Request, policy.Options, error) {
	invalid := func(flag, value, want string) error {
		return errors.E("read --"+flag, fmt.Sprintf("%.200q", value), errors.Invalid, fmt.Errorf("write it like %s", want))
	}
	opts := policy.Options{Name: name, Config: map[string]string{}}
	wasm, err := readModule(name)
	if err != nil {
		return nil, policy.Request{}, opts, err
	}
	r, err := cases.Request(t.request)
	if err != nil {
		return nil, r, opts, err
	}
	r.Machine, r.Region = "here", "home"
	for _, h := range t.headers {
		key, value, ok := strings.Cut(h, ":")
		if !ok {
			return nil, r, opts, invalid("header", h, `"cookie: a=b"`)
		}
		r.Header[key] = append(r.Header[key], strings.TrimSpace(value))
	}
	for _, c := range t.config {
		key, value, ok := strings.Cut(c, "=")
		if !ok {
			return nil, r, opts, invalid("config", c, `"domain=example.com"`)
		}
		opts.Config[strings.TrimSpace(key)] = strings.TrimSpace(value)
	}
	w := trialWorld{}
	for _, flag := range t.tenants {
		fields := strings.Fields(flag)
		if len(fields) == 0 || tenantid.Check(fields[0]) != nil {
			return nil, r, opts, invalid("tenant", flag, `"acme region=ams"`)
		}
		attributes := map[string]string{}
		for _, a := range fields[1:] {
			key, value, ok := strings.Cut(a, "=")
			if !ok {
				return nil, r, opts, invalid("tenant", flag, `"acme region=ams"`)
			}
			attributes[key] = value
		}
		if w[fields[0]], err = policy.Lines(attributes); err != nil {
			return nil, r, opts, err
		}
	}
	opts.World = w
	return wasm, r, opts, nil
}

// trialWorld are the tenants of a trial, by ID; all of them where it is empty.
type trialWorld map[string]string

var _ policy.World = trialWorld{}

func (w trialWorld) Recall(id string) (string, bool, bool) {
	attributes, ok := w[id]
	return attributes, ok || len(w) == 0, true
}

func (w trialWorld) Tenant(_ context.Context, id string) (string, bool, error) {
	attributes, ok, _ := w.Recall(id)
	return attributes, ok, nil
}

func (trialWorld) Machines(context.Context) []policy.Machine {
	return []policy.Machine{{ID: "here", Region: "home", Load: 0.25, State: "started"}}
}

func policyExplainCommand() *cobra.Command {
	var t trial
	cmd := &cobra.Command{
		Use:   "explain MODULE --request 'GET https://acme.example.com/x'",
		Short: "Show what a resolver asks for and answers",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			wasm, request, opts, err := t.prepare(args[0])
			if err != nil {
				return err
			}
			return explain(ctx, cmd.OutOrStdout(), wasm, request, opts)
		},
	}
	t.flags(cmd)
	return cmd
}

func explain(ctx context.Context, out io.Writer, wasm []byte, request policy.Request, opts policy.Options) (err error) {
	asked := false // the probe's calls are not what is to be explained
	opts.Trace = func(call string) {
		if asked {
			fmt.Fprintln(out, call)
		}
	}
	opts.Logger = slog.New(slog.DiscardHandler) // calls of log are shown as such
	r, err := policy.Load(ctx, wasm, opts)
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, r.Close(context.WithoutCancel(ctx))) }()
	asked = true
	began := time.Now()
	d, err := r.Resolve(ctx, request)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\nThis is the decision, after %v:\n\n%s", time.Since(began).Round(time.Microsecond), d)
	return nil
}

func policyBenchCommand() *cobra.Command {
	var t trial
	var n int
	cmd := &cobra.Command{
		Use:   "bench MODULE",
		Short: "Measure a resolver beside the bare engine",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			wasm, request, opts, err := t.prepare(args[0])
			if err != nil {
				return err
			}
			opts.Logger = slog.New(slog.DiscardHandler)
			m, err := policy.Measure(ctx, wasm, opts, request, max(n, 10))
			if err != nil {
				return err
			}
			return printMeasurement(cmd.OutOrStdout(), m)
		},
	}
	t.flags(cmd)
	cmd.Flags().IntVar(&n, "n", 20_000, "decisions to make")
	return cmd
}

func printMeasurement(out io.Writer, m *policy.Measurement) error {
	life := "a new instance for each request"
	if m.Reused {
		life = "instances that are used again"
	}
	fmt.Fprintf(out, "%d bytes, %d pages of memory, %s\n", m.Bytes, m.Pages, life)
	fmt.Fprintf(out, "loaded in %v, with compiled code in %v\n\n", m.Compile.Round(time.Microsecond), m.Load.Round(time.Microsecond))
	fmt.Fprintf(out, "%-24s%12s%12s\n", "", "p50", "p99")
	for _, row := range []struct {
		name  string
		times []time.Duration
	}{{"a decision", m.Ours}, {"the engine's call alone", m.Bare}, {"a kept decision", m.Kept}} {
		if len(row.times) > 0 {
			fmt.Fprintf(out, "%-24s%12v%12v\n", row.name, policy.Quantile(row.times, 0.5), policy.Quantile(row.times, 0.99))
		}
	}
	_, err := fmt.Fprintf(out, "\na decision takes %.2f times the engine's call\n",
		float64(policy.Quantile(m.Ours, 0.5))/float64(policy.Quantile(m.Bare, 0.5)))
	return err
}
