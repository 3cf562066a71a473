package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"atc/policy"
)

// This file measures what a decision costs, beside the bare engine's call of the
// same module, turn by turn.

const (
	decisions = 10_000 // a round
	maxRatio  = 1.5    // of a decision to the engine's call
	maxStart  = 100 * time.Millisecond
	maxKept   = 500 * time.Nanosecond
)

// everybody is a world in which each tenant is there.
type everybody struct{}

func (everybody) Recall(string) (string, bool, bool) { return "", true, true }

func (everybody) Tenant(context.Context, string) (string, bool, error) { return "", true, nil }

func (everybody) Machines(context.Context) []policy.Machine { return nil }

// guest is one module to measure.
type guest struct {
	name     string
	module   string
	config   map[string]string
	p50, p99 time.Duration // wanted at most; 0 for whatever it is
}

var guests = []guest{
	{"Go guest, used again", "subdomain", map[string]string{"domain": "example.com"}, 6 * time.Microsecond, 50 * time.Microsecond},
	{"C guest, a new instance", "header", nil, 60 * time.Microsecond, 0},
	{"WAT guest, a new instance", "maintenance", nil, 60 * time.Microsecond, 0},
	{"Rust guest, a new instance", "domains", map[string]string{"acme.example.com": "acme"}, 0, 0},
	{"AssemblyScript guest, a new instance", "region", nil, 0, 0},
}

// aRequest takes about 300 bytes as text.
var aRequest = policy.Request{
	Method: "GET", Scheme: "https", Host: "acme.example.com", Path: "/notes/4711/edit", Remote: "192.0.2.7:4711",
	Header: map[string][]string{
		"User-Agent": {"Mozilla/5.0 (X11; Linux x86_64)"}, "Accept": {"text/html"}, "X-Tenant": {"acme"},
		"Accept-Language": {"en"}, "Cookie": {"session=0123456789abcdef"},
	},
}

// runPolicy prints a table and returns how many figures fall short.
func runPolicy(ctx context.Context, rounds int) (short int, err error) {
	fmt.Println("\n| decision | p50 | p99 | the engine alone, p50 | p99 | ratio | wanted |")
	fmt.Println("|---|---:|---:|---:|---:|---:|---|")
	var kept, start []time.Duration
	for _, g := range guests {
		wasm, _ := policy.Builtin(g.module)
		var p50, p99, bare50, bare99 []time.Duration
		var ratios []float64
		for range rounds {
			m, err := policy.Measure(ctx, wasm, g.options(), aRequest, decisions)
			if err != nil {
				return short, err
			}
			p50, p99 = append(p50, policy.Quantile(m.Ours, 0.5)), append(p99, policy.Quantile(m.Ours, 0.99))
			bare50, bare99 = append(bare50, policy.Quantile(m.Bare, 0.5)), append(bare99, policy.Quantile(m.Bare, 0.99))
			ratios = append(ratios, float64(p50[len(p50)-1])/float64(bare50[len(bare50)-1]))
			switch g.module {
			case "subdomain":
				start = append(start, m.Load)
			case "header":
				kept = append(kept, policy.Quantile(m.Kept, 0.5))
			}
		}
		wanted, missed := fmt.Sprintf("%.1f times", maxRatio), median(ratios) > maxRatio
		if g.p50 > 0 {
			wanted = fmt.Sprintf("p50 %v, %s", g.p50, wanted)
			missed = missed || middle(p50) > g.p50
		}
		if g.p99 > 0 {
			wanted = fmt.Sprintf("p99 %v, %s", g.p99, wanted)
			missed = missed || middle(p99) > g.p99
		}
		fmt.Printf("| %s | %v | %v | %v | %v | %.2f | %s |\n", g.name, middle(p50), middle(p99), middle(bare50), middle(bare99), median(ratios), verdict(wanted, missed, &short))
	}
	isolated, err := guests[0].isolated(ctx)
	if err != nil {
		return short, err
	}
	fmt.Printf("| Go guest, in a process of its own | %v | %v | | | | |\n", policy.Quantile(isolated, 0.5), policy.Quantile(isolated, 0.99))
	fmt.Printf("| a decision that is kept | %v | | | | | %s |\n", middle(kept), verdict(maxKept.String(), middle(kept) > maxKept, &short))
	fmt.Printf("| a start of the Go guest, compiled before | %v | | | | | %s |\n", middle(start).Round(time.Microsecond), verdict(maxStart.String(), middle(start) > maxStart, &short))
	return short, nil
}

func (g guest) options() policy.Options {
	return policy.Options{Name: g.module, Config: g.config, World: everybody{}, Logger: slog.New(slog.DiscardHandler)}
}

// isolated measures decisions of a worker process.
func (g guest) isolated(ctx context.Context) (times []time.Duration, err error) {
	wasm, _ := policy.Builtin(g.module)
	opts := g.options()
	opts.Isolation = "process"
	r, err := policy.Load(ctx, wasm, opts)
	if err != nil {
		return nil, err
	}
	defer r.Close(context.WithoutCancel(ctx))
	for range decisions {
		began := time.Now()
		if _, err := r.Resolve(ctx, aRequest); err != nil {
			return nil, err
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	return times, nil
}

func middle(times []time.Duration) time.Duration {
	return policy.Quantile(slices.Sorted(slices.Values(times)), 0.5)
}

func verdict(wanted string, missed bool, short *int) string {
	if missed {
		*short++
		return wanted + " (missed)"
	}
	return wanted
}
