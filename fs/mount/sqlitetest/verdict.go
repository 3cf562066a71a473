package sqlitetest

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// This file defines what a test program has said. Its exit status alone tells
// little: a program that did nothing ends with 0 as well.

// Verdict is how one run of a case ended.
type Verdict struct {
	// Tests is how many tests were executed.
	Tests int
	// Failures has what was said about each test that failed, by its name. What
	// went wrong with the run itself stands under a name in parentheses.
	Failures map[string]string
}

func (v *Verdict) fail(name, said string) {
	if v.Failures == nil {
		v.Failures = make(map[string]string)
	}
	if was := v.Failures[name]; was != "" {
		said = was + "\n" + said
	}
	v.Failures[name] = said
}

// Beyond returns the names of the failures that a baseline lacks, sorted.
func (v Verdict) Beyond(baseline Verdict) (names []string) {
	for name := range v.Failures {
		if _, both := baseline.Failures[name]; !both {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// add takes in another step of the same case.
func (v *Verdict) add(step Verdict) {
	v.Tests += step.Tests
	for name, said := range step.Failures {
		v.fail(name, said)
	}
}

var (
	closing  = regexp.MustCompile(`(?m)^(?:Summary: )?(\d+) errors out of (\d+) tests`)
	failed   = regexp.MustCompile(`(?m)^!Failures on these tests:(.*)$`)
	left     = regexp.MustCompile(`(?m)^(\d+ files were left open|Unfreed memory: .*)$`)
	started  = regexp.MustCompile(`(?m)^([^\s!]\S*)\.\.\.`)
	erred    = regexp.MustCompile(`(?m)^([^\s!]\S*)\.\.\.[^\n]*\nError: (.*)$`)
	checked  = regexp.MustCompile(`(?mi)^integrity-check: +(.*)$`)
	mismatch = regexp.MustCompile(`(?ms)^! (\S+) (expected|got): +\[(.*?)\]$`)
)

// fixtureVerdict judges the output of testfixture (test/tester.tcl, do_test and
// finalize_testing), which ended with a status.
func fixtureVerdict(output string, ended error) Verdict {
	var v Verdict
	end := closing.FindStringSubmatch(output)
	if end == nil {
		return unfinished(output, ended)
	}
	// Ending counts as a test too.
	v.Tests = number(end[2]) - 1
	said := make(map[string]string)
	for _, m := range mismatch.FindAllStringSubmatch(output, -1) {
		said[m[1]] += fmt.Sprintf("%s [%s] ", m[2], m[3])
	}
	for _, m := range erred.FindAllStringSubmatch(output, -1) {
		said[m[1]] += m[2]
	}
	named := 0
	if m := failed.FindStringSubmatch(output); m != nil {
		for _, name := range strings.Fields(m[1]) {
			named++
			v.fail(name, strings.TrimSpace(said[name]))
		}
	}
	if n := number(end[1]); n != named {
		v.fail("(errors)", fmt.Sprintf("%d errors, but %d named tests have failed", n, named))
	}
	for _, m := range left.FindAllStringSubmatch(output, -1) {
		v.fail("(left)", m[1])
	}
	if v.Tests <= 0 {
		v.fail("(nothing)", "no test was executed")
	}
	if ended != nil && v.Failures == nil {
		v.fail("(end)", ended.Error())
	}
	return v
}

// countVerdict judges the output of threadtest3 and of mptester, which count what
// has failed but give it no name.
func countVerdict(output string, ended error) Verdict {
	end := closing.FindStringSubmatch(output)
	if end == nil {
		return unfinished(output, ended)
	}
	v := Verdict{Tests: number(end[2])}
	if number(end[1]) > 0 || ended != nil {
		v.fail("(errors)", fmt.Sprintf("%s errors, %v: %s", end[1], ended, tail(output)))
	}
	if v.Tests == 0 {
		v.fail("(nothing)", "no test was executed")
	}
	return v
}

// checkVerdict judges the output of kvtest, which looks whether the database is
// sound where it is asked to.
func checkVerdict(output string, ended error) Verdict {
	var v Verdict
	for _, m := range checked.FindAllStringSubmatch(output, -1) {
		v.Tests++
		if m[1] != "ok" {
			v.fail("(integrity)", m[1])
		}
	}
	if ended != nil {
		v.fail("(end)", fmt.Sprintf("%v: %s", ended, tail(output)))
	}
	if v.Tests == 0 {
		v.fail("(nothing)", "the database was not checked: "+tail(output))
	}
	return v
}

// unfinished is the verdict on a program that has not said how it ended. The
// name of the failure has the test that was under way, since two runs that stop
// at different tests have not failed alike.
func unfinished(output string, ended error) Verdict {
	var v Verdict
	all := started.FindAllStringSubmatch(output, -1)
	v.Tests = len(all)
	at := "the beginning"
	if len(all) > 0 {
		at = all[len(all)-1][1]
	}
	if ended == nil {
		ended = fmt.Errorf("exit status 0")
	}
	v.fail("(stopped at "+at+")", fmt.Sprintf("%v, without a closing line: %s", ended, tail(output)))
	return v
}

// tail is the end of an output, where programs say why they gave up.
func tail(output string) string {
	const most = 1500
	output = strings.TrimSpace(output)
	if len(output) > most {
		output = "..." + output[len(output)-most:]
	}
	return output
}

// number is what the digits mean that a pattern has matched; too many of them
// mean no tests at all.
func number(digits string) int {
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0
	}
	return n
}
