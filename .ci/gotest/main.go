// Command gotest runs `go test` with the given arguments and prints of its
// output what somebody has to see: the closing line of each package, everything
// about tests that failed, and at the end every test that was skipped, with its
// reason. With CI=true a skipped test is a failure. So is a process that the
// tests have left running.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	// Orphans of the tests become children of this process, wherever they went.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "gotest: become a subreaper:", err)
		os.Exit(1)
	}
	// Ctrl-C goes to the tests as well, which clean up; their end is ours.
	signal.Ignore(unix.SIGINT)

	cmd := exec.Command("go", append([]string{"test", "-json"}, os.Args[1:]...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
		os.Exit(1)
	}
	skipped := report(os.Stdout, out)
	failed := cmd.Wait() != nil

	for _, line := range skipped {
		fmt.Println("skipped:", line)
	}
	if len(skipped) > 0 && os.Getenv("CI") == "true" {
		fmt.Println("FAIL: in CI no test may be skipped")
		failed = true
	}
	for _, line := range left(10 * time.Second) {
		fmt.Println("FAIL: left running:", line)
		failed = true
	}
	if failed {
		os.Exit(1)
	}
}

// event is what `go test -json` writes, see `go doc test2json`.
type event struct {
	Action, Package, Test, Output string
}

// report prints the events' text and returns the skipped tests.
func report(w io.Writer, events io.Reader) (skipped []string) {
	open := map[string]map[string]string{} // package, test: what it has printed so far
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				w.Write(line) // go itself has something to say
			} else {
				skipped = append(skipped, step(w, open, e)...)
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				fmt.Fprintln(w, "gotest: read events:", err)
			}
			return skipped
		}
	}
}

// step prints one event's text, or keeps it until it is known whether its test
// fails.
func step(w io.Writer, open map[string]map[string]string, e event) (skipped []string) {
	tests := open[e.Package]
	if tests == nil {
		tests = map[string]string{}
		open[e.Package] = tests
	}
	switch {
	case e.Action == "build-output":
		fmt.Fprint(w, e.Output)
	case e.Action == "output" && e.Test != "":
		tests[e.Test] += e.Output
	case e.Action == "output" && e.Output != "PASS\n":
		fmt.Fprint(w, e.Output)
	case e.Action == "fail" && e.Test == "":
		for _, output := range tests { // a panic or a timeout: they have no end of their own
			fmt.Fprint(w, output)
		}
		delete(open, e.Package)
	case e.Action == "fail":
		fmt.Fprint(w, tests[e.Test])
		delete(tests, e.Test)
	case e.Action == "skip" && e.Test != "":
		skipped = []string{fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(tests[e.Test]))}
		delete(tests, e.Test)
	case e.Action == "pass":
		delete(tests, e.Test)
	}
	return skipped
}

// reason is what a test has printed, without go test's own lines.
func reason(output string) string {
	var said []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			said = append(said, line)
		}
	}
	return strings.Join(said, " ")
}

// left returns the command lines of the processes that are there when all have
// had some time to end.
func left(patience time.Duration) []string {
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		for { // collect those that have ended
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != nil || pid <= 0 {
				break
			}
		}
		var found []string
		lists, _ := filepath.Glob("/proc/self/task/*/children")
		for _, list := range lists {
			pids, _ := os.ReadFile(list)
			for _, pid := range strings.Fields(string(pids)) {
				command, _ := os.ReadFile("/proc/" + pid + "/cmdline")
				found = append(found, pid+" "+strings.ReplaceAll(string(command), "\x00", " "))
			}
		}
		if len(found) == 0 || time.Now().After(deadline) {
			return found
		}
	}
}
