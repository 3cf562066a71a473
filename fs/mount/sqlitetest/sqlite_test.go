//go:build !race

package sqlitetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// The race detector makes a mount ten times as slow, and SQLite's tests with it.
// What it might find here the hammer in fs/mount shows it.

// place is somewhere a case can be run.
type place struct {
	name string
	dir  string        // each case has a folder of its own in it
	fs   *mounttest.FS // nil for the local filesystem

	tests, failures, beyond, databases int
	took                               time.Duration
}

// TestSQLite runs SQLite's own tests on the local filesystem and through the
// mount, and fails where a mount does and the local filesystem does not.
func TestSQLite(t *testing.T) {
	tree, err := OpenTree()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	patterns := short
	switch asked := os.Getenv("ATC_SQLITE_TESTS"); asked {
	case "":
	case "all":
		patterns = []string{"*"}
	default:
		patterns = strings.Fields(asked)
	}
	cases, err := tree.Cases(patterns...)
	if err != nil {
		t.Fatal(err)
	}
	// Ctrl-C ends the programs, and then the mounts as any end does.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	local := &place{name: "local", dir: t.TempDir()}
	mounts := []*place{through(t, "daemon", true), through(t, "passthrough", false)}
	places := append([]*place{local}, mounts...)
	var inBoth []string
	for i, c := range cases {
		verdicts, err := everywhere(ctx, tree, c, places)
		if err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		line := fmt.Sprintf("[%d/%d] %-24s", i+1, len(cases), c.Name)
		for j, p := range places {
			v := verdicts[j]
			p.tests += v.Tests
			p.failures += len(v.Failures)
			line += fmt.Sprintf("  %s: %d tests, %d failed, %.1f s", p.name, v.Tests, len(v.Failures), v.took.Seconds())
			p.took += v.took
		}
		progress(line)
		for _, name := range verdicts[0].Beyond(Verdict{}) {
			inBoth = append(inBoth, fmt.Sprintf("%s %s: %.200s", c.Name, name, verdicts[0].Failures[name]))
		}
		if verdicts[0].Tests == 0 && !slices.Contains(empty, c.Name) {
			t.Errorf("%s: no test was executed on the local filesystem: %v", c.Name, verdicts[0].Failures)
		}
		for j, p := range mounts {
			v := verdicts[j+1].Verdict
			for _, name := range v.Beyond(verdicts[0].Verdict) {
				p.beyond++
				t.Errorf("%s, %s: %s has failed, which it has not on the local filesystem:\n%s", c.Name, p.name, name, v.Failures[name])
			}
			// crash.test leaves out what its dice have not changed.
			if want := verdicts[0].Tests; v.Tests < want*9/10 {
				p.beyond++
				t.Errorf("%s, %s: %d tests were executed, %d on the local filesystem", c.Name, p.name, v.Tests, want)
			}
			p.compare(ctx, t, c)
		}
		for _, p := range places {
			if err := os.RemoveAll(filepath.Join(p.dir, folder(c))); err != nil {
				t.Errorf("%s, %s: remove what it has left: %v", c.Name, p.name, err)
			}
		}
	}
	for _, line := range inBoth {
		progress("fails on the local filesystem: " + line)
	}
	for _, p := range places {
		line := fmt.Sprintf("%-12s %d tests, %d failed", p.name, p.tests, p.failures)
		if p.fs != nil {
			line += fmt.Sprintf(", %d of them not on the local filesystem; %d databases are the same in the bucket", p.beyond, p.databases)
		}
		progress(line + fmt.Sprintf("; %.0f s", p.took.Seconds()))
	}
}

// progress says something at once, if anybody wants to see more than failures.
func progress(line string) {
	if testing.Verbose() {
		fmt.Println(line)
	}
}

// through mounts a volume. It keeps its tenants: one mode may have to wait for the
// other before their databases are compared.
func through(t *testing.T, name string, daemon bool) *place {
	fs := mounttest.Start(t, mounttest.Options{NoPassthrough: daemon, Volume: volume.Options{ReleaseAfter: 24 * time.Hour}})
	return &place{name: name, dir: fs.Dir, fs: fs}
}

// timed is a verdict with the time that it took.
type timed struct {
	Verdict
	took time.Duration
}

// everywhere runs a case in all places at the same time, since most cases wait
// for something most of the time.
func everywhere(ctx context.Context, tree Tree, c Case, places []*place) ([]timed, error) {
	verdicts, errs := make([]timed, len(places)), make([]error, len(places))
	var all sync.WaitGroup
	for i, p := range places {
		all.Go(func() {
			dir := filepath.Join(p.dir, folder(c))
			if errs[i] = os.Mkdir(dir, 0o755); errs[i] != nil {
				return
			}
			began := time.Now()
			verdicts[i].Verdict, errs[i] = tree.Run(ctx, c, dir)
			verdicts[i].took = time.Since(began)
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return verdicts, errors.Join(errs...)
}

var unfit = regexp.MustCompile(`[^a-z0-9_-]+`)

// folder is the folder of a case, and its tenant.
func folder(c Case) string { return unfit.ReplaceAllString(strings.ToLower(c.Name), "-") }

// compare restores with Litestream what a case has left and compares it with
// what the application sees.
func (p *place) compare(ctx context.Context, t *testing.T, c Case) {
	if why, ok := uncompared[c.Name]; ok {
		progress("  not compared with the bucket: " + why)
		return
	}
	tenant := folder(c)
	if err := p.shipped(ctx, tenant); err != nil {
		t.Errorf("%s, %s: %v", c.Name, p.name, err)
		return
	}
	for _, d := range p.fs.Volume.Stat(tenant).Tenants[0].Databases {
		path := filepath.Join(p.dir, tenant, d.Path)
		if filled(path+"-wal") || filled(path+"-journal") {
			continue // recovery comes first, and is SQLite's
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Errorf("%s, %s: %v", c.Name, p.name, err)
			continue
		}
		if len(want) == 0 {
			continue // emptied: no database any more
		}
		got, err := os.ReadFile(mounttest.LitestreamRestore(t, p.fs.Bucket.URL(), tenant, d.Path))
		if err != nil {
			t.Errorf("%s, %s: %v", c.Name, p.name, err)
			continue
		}
		// The bucket has whole pages. A database that sqlite3_backup made of an
		// empty one with smaller pages is less than a page.
		if short := len(got) - len(want); short > 0 && short < d.PageSize {
			want = append(want, make([]byte, short)...)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s, %s: the bucket holds another %s: %d bytes, want %d; %s", c.Name, p.name, d.Path, len(got), len(want), differing(got, want))
			continue
		}
		p.databases++
	}
}

// filled reports whether a file is there and not empty.
func filled(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() > 0
}

// differing names the first pages in which two databases differ.
func differing(a, b []byte) string {
	const page = 512 // the smallest
	var at []string
	for off := 0; off < min(len(a), len(b)) && len(at) < 10; off += page {
		if end := min(off+page, len(a), len(b)); !bytes.Equal(a[off:end], b[off:end]) {
			at = append(at, fmt.Sprint(off))
		}
	}
	return "they differ at " + strings.Join(at, ", ")
}

// shipped waits until the bucket holds everything of a tenant.
func (p *place) shipped(ctx context.Context, tenant string) error {
	deadline := time.Now().Add(time.Minute)
	for !p.fs.Volume.Shipped(tenant) {
		if time.Now().After(deadline) {
			return fmt.Errorf("not shipped in time: %+v", p.fs.Volume.Stat(tenant).Tenants[0])
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
