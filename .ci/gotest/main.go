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
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT)

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
	ended := make(chan int, 1)   // the status of go test
	alone := make(chan struct{}) // closed when no process is left
	go reap(cmd.Process.Pid, ended, alone)
	skipped := report(os.Stdout, out)
	failed := <-ended != 0

	for _, line := range skipped {
		fmt.Println("skipped:", line)
	}
	if len(skipped) > 0 && os.Getenv("CI") == "true" {
		fmt.Println("FAIL: in CI no test may be skipped")
		failed = true
	}
	select {
	case <-alone:
	case <-time.After(10 * time.Second):
		fmt.Println("FAIL: left running:", children())
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

// pkg is what is known of a package whose tests are under way.
type pkg struct {
	open   map[string]string // what each test that has not ended has printed
	failed strings.Builder   // what failed tests have printed
	own    strings.Builder   // what belongs to no test, with the closing line
}

// report prints the events' text, each package in one piece when it has ended,
// and returns the skipped tests.
func report(w io.Writer, events io.Reader) (skipped []string) {
	packages := map[string]*pkg{}
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		var e event
		switch {
		case len(line) == 0:
		case json.Unmarshal(line, &e) != nil:
			w.Write(line) // go itself has something to say
		case e.Action == "build-output":
			fmt.Fprint(w, e.Output)
		case e.Package != "":
			p := packages[e.Package]
			if p == nil {
				p = &pkg{open: map[string]string{}}
				packages[e.Package] = p
			}
			if e.Action == "skip" && e.Test != "" {
				skipped = append(skipped, fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(p.open[e.Test])))
			}
			if p.step(e) {
				p.print(w)
				delete(packages, e.Package)
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

// step takes in an event and reports whether it is the package's last.
func (p *pkg) step(e event) (last bool) {
	switch ended := e.Action == "pass" || e.Action == "fail" || e.Action == "skip"; {
	case e.Action == "output" && e.Test != "":
		p.open[e.Test] += e.Output
	case e.Action == "output" && e.Output != "PASS\n":
		p.own.WriteString(e.Output)
	case ended && e.Test == "":
		return true
	case ended:
		if e.Action == "fail" {
			p.failed.WriteString(p.open[e.Test])
		}
		delete(p.open, e.Test)
	}
	return false
}

func (p *pkg) print(w io.Writer) {
	fmt.Fprint(w, p.failed.String())
	for _, output := range p.open { // a panic or a timeout: they have no end of their own
		fmt.Fprint(w, output)
	}
	fmt.Fprint(w, p.own.String())
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

// reap collects every child that ends, as process 1 would, so that tests see
// orphans vanish. The status of one is sent to ended.
func reap(pid int, ended chan<- int, alone chan<- struct{}) {
	for {
		var status unix.WaitStatus
		switch child, err := unix.Wait4(-1, &status, 0, nil); {
		case err == unix.ECHILD:
			close(alone)
			return
		case err == nil && child == pid && (status.Exited() || status.Signaled()):
			ended <- int(status)
		}
	}
}

// children lists the command lines of the processes that are still there.
func children() string {
	var found []string
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		pids, _ := os.ReadFile(list)
		for _, pid := range strings.Fields(string(pids)) {
			command, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			found = append(found, pid+" "+strings.TrimSpace(strings.ReplaceAll(string(command), "\x00", " ")))
		}
	}
	return strings.Join(found, "; ")
}
