// Command bench measures atc against the filesystem below it: the same work on
// the same disk, by the same SQLite program, turn by turn in one run, so that a
// noisy machine disturbs both and neither always begins. It prints medians and the median of the ratios
// of each round.
//
//	go run ./cmd/bench [-rounds 7] [-dir DIR] [-only warm|cold|policy]
package main

import (
	"context"
	stderrors "errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"atc/fs/bucket"
	"atc/fs/mount"
	"atc/fs/mount/mounttest"
	"atc/fs/volume"
	"atc/policy"
)

func main() {
	policy.Worker()
	rounds := flag.Int("rounds", 7, "rounds of each measurement, at least 5")
	only := flag.String("only", "", "warm, cold or policy: a part of the measurements")
	dir := flag.String("dir", "", "folder to work in; its filesystem is what atc is compared with (default: a temporary one)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	defer stop()
	if err := run(ctx, *dir, *only, max(*rounds, 5)); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// work is one line of the table.
type work struct {
	name    string
	journal string
	sync    string
	mode    mode
	commits int // one-row commits; 0 for point reads
	reads   int
	unused  bool    // reads of a database to which nothing was committed since it was opened
	target  float64 // the least ratio to native that is wanted; 0 for none
	silent  bool    // no FUSE request per commit or read is allowed
}

type mode int

const (
	direct mode = iota // complete database, passthrough
	daemon             // no passthrough
)

var works = []work{
	{name: "WAL/NORMAL commits, passthrough", journal: "wal", sync: "normal", commits: 20000, target: 0.95, silent: true},
	{name: "WAL point reads, passthrough", journal: "wal", reads: 100000, target: 0.90, silent: true},
	{name: "WAL point reads before any commit, passthrough", journal: "wal", reads: 30000, unused: true},
	{name: "WAL/FULL commits, passthrough", journal: "wal", sync: "full", commits: 300},
	{name: "DELETE/FULL commits", journal: "delete", sync: "full", commits: 100},
	{name: "DELETE point reads", journal: "delete", reads: 30000},
	{name: "WAL/NORMAL commits, daemon", journal: "wal", sync: "normal", commits: 5000, mode: daemon},
	{name: "WAL point reads, daemon", journal: "wal", reads: 100000, mode: daemon},
}

func run(ctx context.Context, dir, only string, rounds int) error {
	if dir == "" {
		made, err := os.MkdirTemp("", "atc-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(made)
		dir = made
	}
	if only == "policy" {
		heading(rounds)
		return tell(runPolicy(ctx, rounds))
	}
	load, err := mounttest.BuildSQLLoad(dir)
	if err != nil {
		return err
	}
	native := filepath.Join(dir, "native")
	if err := os.MkdirAll(native, 0o755); err != nil {
		return err
	}
	if only == "cold" {
		works = nil
	}
	mounts := make(map[mode]*mounted)
	for _, m := range []mode{direct, daemon} {
		if len(works) == 0 {
			break
		}
		mounts[m], err = mountVolume(ctx, filepath.Join(dir, fmt.Sprint("m", m)), m == daemon)
		if err != nil {
			return err
		}
		defer mounts[m].close()
	}
	heading(rounds)
	if len(works) > 0 {
		fmt.Println("| work | native /s | atc /s | ratio | wanted | FUSE requests |")
		fmt.Println("|---|---:|---:|---:|---:|---:|")
	}
	short := 0
	for i, w := range works {
		row, err := w.measure(ctx, load, native, mounts[w.mode], rounds, i)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		fmt.Println(row.text)
		short += row.short
	}
	if only != "warm" {
		missed, err := runCold(ctx, dir, load)
		if err != nil {
			return fmt.Errorf("cold: %w", err)
		}
		short += missed
	}
	if only == "" {
		missed, err := runPolicy(ctx, rounds)
		if err != nil {
			return fmt.Errorf("policy: %w", err)
		}
		short += missed
	}
	return tell(short, nil)
}

func heading(rounds int) {
	fmt.Printf("%s, %d CPUs, Linux %s, %d rounds\n\n", time.Now().Format(time.DateOnly), runtime.NumCPU(), release(), rounds)
}

// tell says at the end how many figures were missed.
func tell(short int, err error) error {
	if err == nil && short > 0 {
		fmt.Printf("\n%d figures fall short of what is wanted.\n", short)
	}
	return err
}

type row struct {
	text  string
	short int
}

func (w work) measure(ctx context.Context, load, native string, m *mounted, rounds, n int) (row, error) {
	name := fmt.Sprintf("w%d.db", n)
	here, there := filepath.Join(native, name), filepath.Join(m.tenant, name)
	for _, path := range []string{here, there} {
		if _, err := output(ctx, load, "fill", path, "170000", w.journal); err != nil { // about 20 MB
			return row{}, err
		}
	}
	var a, b, ratios []float64
	requests := int64(0)
	for n := range rounds {
		// Who begins pays for what the disk still has to do: turn by turn.
		paths := []string{here, there}
		if n%2 == 1 {
			paths = []string{there, here}
		}
		before := m.mounted.Requests()
		speed := make(map[string]float64)
		for _, path := range paths {
			var err error
			if speed[path], err = w.once(ctx, load, path); err != nil {
				return row{}, err
			}
		}
		requests += m.mounted.Requests() - before
		x, y := speed[here], speed[there]
		a, b, ratios = append(a, x), append(b, y), append(ratios, y/x)
	}
	ratio := median(ratios)
	wanted, short := "", 0
	if w.target > 0 {
		wanted = fmt.Sprintf("%.2f", w.target)
		if ratio < w.target {
			wanted, short = wanted+" (missed)", 1
		}
	}
	each := float64(requests) / float64(rounds)
	// Opening, checkpoints and closing ask a few times; the work itself must not.
	if w.silent && each > float64(w.commits+w.reads)/20 {
		short = 1
		wanted += ", silent (missed)"
	}
	return row{fmt.Sprintf("| %s | %.0f | %.0f | %.2f | %s | %.0f in %d |",
		w.name, median(a), median(b), ratio, wanted, each, w.commits+w.reads), short}, nil
}

func (w work) once(ctx context.Context, load, path string) (float64, error) {
	var out string
	var err error
	if w.commits > 0 {
		out, err = output(ctx, load, "commits", path, strconv.Itoa(w.commits), w.journal, w.sync)
	} else {
		first := "1"
		if w.unused {
			first = "0"
		}
		out, err = output(ctx, load, "reads", path, strconv.Itoa(w.reads), first)
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(out, 64)
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", filepath.Base(name), strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

func median(v []float64) float64 {
	sorted := slices.Sorted(slices.Values(v))
	return sorted[len(sorted)/2]
}

func release() string {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(b))
}

// mounted is a volume with one tenant.
type mounted struct {
	volume  *volume.Volume
	mounted *mount.Mounted
	tenant  string
	store   *timed
}

func mountVolume(ctx context.Context, dir string, noPassthrough bool) (*mounted, error) {
	m, err := mountStore(ctx, "file://"+filepath.Join(dir, "bucket"), dir, noPassthrough, "bench")
	if err != nil {
		return nil, err
	}
	return m, os.Mkdir(m.tenant, 0o755)
}

// mountStore mounts a store, for one tenant, with everything local below dir.
func mountStore(ctx context.Context, store, dir string, noPassthrough bool, id string) (*mounted, error) {
	opened, err := bucket.Open(ctx, store)
	if err != nil {
		return nil, err
	}
	b := &timed{Bucket: opened}
	v, err := volume.Open(ctx, volume.Options{Bucket: b, Cache: filepath.Join(dir, "cache"), Logger: slog.Default()})
	if err != nil {
		return nil, err
	}
	mnt := filepath.Join(dir, "mnt")
	m, err := mount.Mount(ctx, mnt, v, mount.Options{Name: dir, NoPassthrough: noPassthrough, Logger: slog.Default()})
	if err != nil {
		v.Close(ctx)
		return nil, err
	}
	return &mounted{v, m, filepath.Join(mnt, id), b}, nil
}

func (m *mounted) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	return stderrors.Join(m.mounted.Unmount(ctx), m.volume.Close(ctx))
}
