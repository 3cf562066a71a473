package sqlitetest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// An exit status alone does not make a run good or bad: each of these has
// happened, or would look like success to who only counts failures.
func TestVerdict(t *testing.T) {
	ended := errors.New("exit status 1")
	for _, c := range []struct {
		name     string
		judge    func(string, error) Verdict
		output   string
		ended    error
		tests    int
		failures []string
		says     string // in the first of them
	}{
		{"all well", fixtureVerdict, "lock-1.0... Ok\nlock-1.1... Ok\nSQLite 2022 x\n0 errors out of 3 tests on vm Linux 64-bit little-endian\nAll memory allocations freed - no leaks\n",
			nil, 2, nil, ""},
		{"a wrong result", fixtureVerdict, "a-1...\n! a-1 expected: [1\n2]\n! a-1 got:      [3]\na-2... Ok\n1 errors out of 3 tests on vm\n!Failures on these tests: a-1\n",
			ended, 2, []string{"a-1"}, "expected [1\n2] got [3]"},
		{"an error in the script", fixtureVerdict, "a-1...\nError: disk I/O error\na-2... Ok\n1 errors out of 3 tests on vm\n!Failures on these tests: a-1\n",
			ended, 2, []string{"a-1"}, "disk I/O error"},
		{"several", fixtureVerdict, "a-1...\n! a-1 expected: [1]\n! a-1 got:      [2]\na-2...\n! a-2 expected: [1]\n! a-2 got:      [2]\n2 errors out of 3 tests on vm\n!Failures on these tests: a-1 a-2\n",
			ended, 2, []string{"a-1", "a-2"}, ""},
		{"a crash", fixtureVerdict, "a-1... Ok\na-2...", errors.New("signal: segmentation fault"),
			2, []string{"(stopped at a-2)"}, "segmentation fault"},
		{"a script that gives up", fixtureVerdict, "attach-6.1... Ok\nattach-6.2...\n**** Tests do not work when run as root ****\n", ended,
			2, []string{"(stopped at attach-6.2)"}, "as root"},
		{"an end without a word", fixtureVerdict, "", nil, 0, []string{"(stopped at the beginning)"}, "exit status 0"},
		{"nothing executed", fixtureVerdict, "0 errors out of 1 tests on vm\n", nil, 0, []string{"(nothing)"}, ""},
		{"an error without a name", fixtureVerdict, "a-1... Ok\n1 errors out of 2 tests on vm\n", ended, 1, []string{"(errors)"}, ""},
		{"files left open", fixtureVerdict, "a-1... Ok\n0 errors out of 2 tests on vm\n2 files were left open\n", ended, 1, []string{"(left)"}, "2 files"},
		{"good until its end", fixtureVerdict, "a-1... Ok\n0 errors out of 2 tests on vm\n", errors.New("signal: aborted"), 1, []string{"(end)"}, "aborted"},
		{"threads", countVerdict, "Running walthread1 for 20 seconds...\n0 errors out of 1 tests\n", nil, 1, nil, ""},
		{"threads that fail", countVerdict, "Error: (11) \"database disk image is malformed\" at line 9\n1 errors out of 1 tests\n", ended, 1, []string{"(errors)"}, "malformed"},
		{"a script of several processes", countVerdict, "BEGIN: x\nSummary: 0 errors out of 81 tests\nEND: x\n", nil, 81, nil, ""},
		{"a script that matched nothing", countVerdict, "Summary: 0 errors out of 0 tests\n", nil, 0, []string{"(nothing)"}, ""},
		{"blobs", checkVerdict, "Total elapsed time: 1\nIntegrity-check:    ok\n", nil, 1, nil, ""},
		{"broken blobs", checkVerdict, "integrity-check: ok\nintegrity-check: *** in database main ***\n", nil, 2, []string{"(integrity)"}, "in database main"},
		{"unchecked blobs", checkVerdict, "SQLite version: 3.40.1\n", nil, 0, []string{"(nothing)"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := c.judge(c.output, c.ended)
			names := v.Beyond(Verdict{})
			if v.Tests != c.tests || !slices.Equal(names, c.failures) {
				t.Fatalf("%d tests, failed %q; want %d, %q", v.Tests, names, c.tests, c.failures)
			}
			if len(names) > 0 && !strings.Contains(v.Failures[names[0]], c.says) {
				t.Errorf("it says %q, want %q", v.Failures[names[0]], c.says)
			}
		})
	}
}

// What fails on the local filesystem as well is no fault of the mount, but only
// where it is the same.
func TestBeyond(t *testing.T) {
	mount := Verdict{Failures: map[string]string{"a": "", "b": "", "(stopped at c)": ""}}
	local := Verdict{Failures: map[string]string{"b": "", "(stopped at d)": ""}}
	if got, want := mount.Beyond(local), []string{"(stopped at c)", "a"}; !slices.Equal(got, want) {
		t.Errorf("beyond the baseline: %q, want %q", got, want)
	}
}

// A program that hangs is ended with all that it started, and has failed.
func TestHangingProgram(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\nsleep 1000 & echo $! >child\nsleep 1000\n"
	if err := os.WriteFile(filepath.Join(dir, "hang"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	tree := Tree{dir}
	c := Case{Name: "hang", Steps: [][]string{{"hang", "x"}}, Timeout: 300 * time.Millisecond, judge: fixtureVerdict}
	v, err := tree.Run(t.Context(), c, dir)
	if err != nil {
		t.Fatal(err)
	}
	if said := v.Failures["(stopped at the beginning)"]; !strings.Contains(said, "not ended after 300ms") {
		t.Errorf("the verdict is %v", v)
	}
	child, err := os.ReadFile(filepath.Join(dir, "child"))
	if err != nil {
		t.Fatal(err)
	}
	if state, err := os.ReadFile(filepath.Join("/proc", strings.TrimSpace(string(child)), "stat")); err == nil && !strings.Contains(string(state), ") Z ") {
		t.Errorf("its child is still there: %s", state)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tree.Run(ctx, c, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("a run that was interrupted returns %v", err)
	}
}
