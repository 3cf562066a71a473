package sqlitetest

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// This file defines which of SQLite's tests are run.

// Case is one run of a test program, or of several on the same files.
type Case struct {
	Name  string
	Steps [][]string // program and arguments, below the tree or absolute
	// Timeout is for all steps: what takes longer hangs.
	Timeout time.Duration
	judge   func(output string, ended error) Verdict
}

// files are the test files that concern a filesystem. Most others test SQL.
var files = []string{
	"wal*.test", "lock*.test", "pager*.test", "journal*.test", "jrnlmode*.test",
	"mmap*.test", "exclusive*.test", "backup*.test", "vacuum*.test", "attach*.test",
	"crash*.test", "shmlock.test", "superlock.test",
	"short-walthread.test", // made by .ci/sqlite
}

// threads are the tests of threadtest3, each a story of several threads.
var threads = []string{
	"walthread1", "walthread2", "walthread3", "walthread4", "walthread5",
	"cgt_pager_1", "dynamic_triggers", "checkpoint_starvation_1", "checkpoint_starvation_2",
	"create_drop_index_1", "lookaside1", "vacuum1", "stress1", "stress2", "shared1",
}

// scripts are mptester's, which makes five processes run them.
var scripts = []struct{ name, script, options string }{
	{"delete", "multiwrite01.test", "--journalmode delete --sync"},
	{"wal", "multiwrite01.test", "--journalmode wal --sync"},
	{"crash-delete", "crash01.test", "--journalmode delete --sync"},
	{"crash-wal", "crash01.test", "--journalmode wal --sync"},
	{"modes", "config01.test", "--sync"},
	{"modes-nosync", "config01.test", ""},
	{"sizes", "config02.test", "--sync"}, // not with a log, where the page size stays
}

// uncompared says of which cases the databases are not compared with the bucket,
// and why.
var uncompared = map[string]string{
	"walbig.test": "it makes a file of 5 GiB with holes, and such a file is not shipped",
}

// empty are the test files that execute nothing in any build like this one: what
// they test was left out when SQLite was compiled, or is of another system.
var empty = []string{"crash5.test", "crashM.test", "lock6.test", "walblock.test"}

// short are the cases of most power for their time, which belong to `make test`.
var short = []string{
	"lock.test", "lock[23457].test", "shmlock.test", "superlock.test", "exclusive*.test",
	"mmap[123].test", "journal*.test", "jrnlmode*.test",
	"pager[134].test", "attach[234].test", "backup[245].test", "vacuum-into.test", "vacuum.test", "vacuum2.test",
	"wal.test", "wal[245678].test", "walbak.test", "walcksum.test", "walmode.test", "walnoshm.test",
	"waloverwrite.test", "walpersist.test", "walro*.test", "walshared.test",
	"short-walthread.test", "crash8.test",
	"threadtest3-cgt_pager_1", "mptester-crash-wal", "mptester-modes", "kvtest-wal-mmap", "kvtest-persist",
}

// Cases returns the cases of a tree whose names match one of the patterns, as
// path.Match means them.
func (t Tree) Cases(patterns ...string) ([]Case, error) {
	all, err := t.all()
	if err != nil {
		return nil, err
	}
	var cases []Case
	for _, pattern := range patterns {
		n := len(cases)
		for _, c := range all {
			ok, err := filepath.Match(pattern, c.Name)
			if err != nil {
				return nil, fmt.Errorf("pattern %q: %w", pattern, err)
			}
			if ok && !slices.ContainsFunc(cases, func(have Case) bool { return have.Name == c.Name }) {
				cases = append(cases, c)
			}
		}
		if len(cases) == n {
			return nil, fmt.Errorf("no case is called %s", pattern)
		}
	}
	return cases, nil
}

func (t Tree) all() (cases []Case, err error) {
	for _, pattern := range files {
		paths, err := filepath.Glob(filepath.Join(t.dir, "test", pattern))
		if err != nil || len(paths) == 0 {
			return nil, fmt.Errorf("%s has no test file %s: %v", t.dir, pattern, err)
		}
		for _, path := range paths {
			cases = append(cases, Case{filepath.Base(path), [][]string{{"testfixture", path}}, 40 * time.Minute, fixtureVerdict})
		}
	}
	for _, name := range threads {
		cases = append(cases, Case{"threadtest3-" + name, [][]string{{"threadtest3", name}}, 5 * time.Minute, countVerdict})
	}
	for _, s := range scripts {
		step := []string{"mptester", "test.db", "--quiet"}
		step = append(append(step, strings.Fields(s.options)...), filepath.Join(t.dir, "mptest", s.script))
		cases = append(cases, Case{"mptester-" + s.name, [][]string{step}, 20 * time.Minute, countVerdict})
	}
	for _, mode := range []string{"wal", "delete", "truncate", "persist"} {
		for _, mmap := range []string{"0", "268435456"} {
			cases = append(cases, blobs(mode, mmap))
		}
	}
	return cases, nil
}

// blobs is a case of kvtest: blobs of several pages are written, overwritten and
// read, by SQL and by the blob interface.
func blobs(mode, mmap string) Case {
	run := func(args string) []string {
		return strings.Fields("kvtest run test.db --integrity-check --mmap " + mmap + " --jmode " + mode + " " + args)
	}
	name := "kvtest-" + mode
	if mmap != "0" {
		name += "-mmap"
	}
	return Case{name, [][]string{
		strings.Fields("kvtest init test.db --count 500 --size 12000 --variance 5000"),
		run("--count 300 --random --update --multitrans"),
		run("--count 500 --update --blob-api"),
		run("--count 2000 --random"),
		strings.Fields("kvtest stat test.db --vacuum"),
		run("--count 300 --random --update --multitrans --blob-api"),
	}, 5 * time.Minute, checkVerdict}
}
