package policy

import (
	"bufio"
	stderrors "errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"atc/fs/errors"
)

// A module in processes of its own.

func isolated(opts Options) Options {
	opts.Isolation = "process"
	return opts
}

// nested is a guest whose POST makes 2^40 calls without a loop, minutes of them,
// which the engine's deadline does not see.
func nested() guestModule {
	var more [][]byte
	for i := range 40 {
		more = append(more, ins(invoke(fnMore+1+i), invoke(fnMore+1+i)))
	}
	more = append(more, ins([]byte{0x01}))
	return onProbe(ins(invoke(fnMore)), more...)
}

func TestNestedCallsAreKilled(t *testing.T) {
	r := mustLoad(t, nested().wasm(), isolated(Options{Deadline: 300 * time.Millisecond, Instances: 3}))
	before := workerPIDs(t, r)
	var stuck sync.WaitGroup
	stuck.Go(func() {
		began := time.Now()
		_, err := r.Resolve(t.Context(), post())
		wantError(t, err, "no decision within 300ms, twice")
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("it took %v to give up", took)
		}
	})
	done := make(chan struct{})
	go func() { stuck.Wait(); close(done) }()
	calls := 0
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
			if _, err := r.Resolve(t.Context(), get("x", "/")); err != nil {
				t.Fatal(err)
			}
			calls++
		}
	}
	if calls < 10 {
		t.Errorf("only %d calls went through meanwhile", calls)
	}
	after := workerPIDs(t, r)
	for _, pid := range before {
		// The one that was there served either the stuck request or the others.
		if err := syscall.Kill(pid, 0); err == nil && !slices.Contains(after, pid) {
			t.Errorf("worker %d lives on", pid)
		}
	}
	if _, err := r.Resolve(t.Context(), get("x", "/")); err != nil {
		t.Error(err)
	}
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, pid := range append(before, after...) {
		if err := syscall.Kill(pid, 0); err == nil {
			t.Errorf("worker %d is left behind", pid)
		}
	}
}

func workerPIDs(t *testing.T, r *Resolver) (pids []int) {
	t.Helper()
	p := r.backend.(*workers)
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := range p.alive {
		pids = append(pids, w.cmd.Process.Pid)
	}
	return pids
}

// The same rules hold in a process of its own: each line of the table is one of
// TestGuestViolations or TestGuestSees.
func TestIsolatedGuests(t *testing.T) {
	w := &town{
		tenants:  map[string]string{"404": "a: b\n"},
		machines: []Machine{{ID: "m1", Region: "ams", Load: 0.5, State: "started"}, {ID: "m2"}},
	}
	for _, c := range []struct {
		name  string
		guest guestModule
		body  string
		words []string
	}{
		{"refuses", onProbe(ins(num(3), num(0), num(11), invoke(fnLog), num(1), 0x0f)), "", []string{"returned 1", "it logged: status: 404"}},
		{"traps", onProbe(ins(opUnreachable)), "", []string{"unreachable"}},
		{"decides nonsense", onProbe(ins(num(4096), num(20), invoke(fnDecide), num(0), 0x0f)), "", []string{"line 1", "no such key"}},
		{"sees machines", echo(ins(to(4096), invoke(fnMachines))), "m1 ams 0.50 started|m2 - 0.00 -|", nil},
		{"sees its configuration", echo(ins(to(4096), invoke(fnConfig))), "domain: example.com|", nil},
		{"sees the request", echo(ins(to(8192), invoke(fnRequest))), "method: POST|scheme: https|", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := mustLoad(t, c.guest.wasm(), isolated(Options{Name: "own", World: w, Config: map[string]string{"domain": "example.com"}}))
			for range 2 {
				d, err := r.Resolve(t.Context(), post())
				if c.words != nil {
					wantError(t, err, append(c.words, "resolve own: ")...)
					if kind := errors.KindOf(err); kind != errors.Other {
						t.Errorf("kind %v", kind)
					}
				} else if err != nil || !strings.HasPrefix(d.Body, c.body) {
					t.Errorf("%q, %v", d.Body, err)
				}
			}
			if n := len(workerPIDs(t, r)); n != 1 {
				t.Errorf("%d workers: a guest's failure is none of the worker", n)
			}
		})
	}
}

func TestIsolatedTenants(t *testing.T) {
	w := &town{tenants: map[string]string{"acme": ""}, lookup: nil}
	r := mustLoad(t, askFirst().wasm(), isolated(Options{World: w}))
	for range 3 {
		if d, err := r.Resolve(t.Context(), get("x", "/")); err != nil || d.Tenant != "acme" {
			t.Fatal(d, err)
		}
	}
	if n := len(w.questions()); n != 3 {
		t.Errorf("asked %d times", n)
	}
}

func TestIsolatedModuleThatDoesNotLoad(t *testing.T) {
	for _, c := range []struct {
		wasm []byte
		word string
	}{
		{[]byte("(module)"), "wat2wasm"},
		{guestModule{noResolve: true, body: ins(num(1))}.wasm(), "does not export the function resolve"},
		{guestModule{body: ins(opUnreachable)}.wasm(), "probe"},
		{guestModule{pages: 1000, body: ins(num(1))}.wasm(), "32 MiB"},
	} {
		_, err := Load(t.Context(), c.wasm, isolated(Options{Name: "bad.wasm"}))
		wantError(t, err, c.word, "load resolver bad.wasm")
		if !errors.Is(errors.Invalid, err) {
			t.Errorf("kind %v", errors.KindOf(err))
		}
	}
}

// A worker is nobody, alone, and can open nothing.
func TestWorkerHasNoPrivileges(t *testing.T) {
	r := mustLoad(t, decides("status: 404\n").wasm(), isolated(Options{}))
	pid := workerPIDs(t, r)[0]
	proc := func(name string) string {
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	status := proc("status")
	for _, want := range []string{"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"} {
		if !strings.Contains(status, want) {
			t.Errorf("its status does not say %q:\n%s", want, status)
		}
	}
	if os.Geteuid() == 0 && allIDs() && !strings.Contains(status, fmt.Sprintf("Uid:\t%d\t%d\t%d\t%d", nobody, nobody, nobody, nobody)) {
		t.Errorf("its user:\n%s", status)
	}
	for _, limit := range []string{"Max open files            0", "Max file size             0", "Max core file size        0"} {
		if !strings.Contains(proc("limits"), limit) {
			t.Errorf("its limits do not say %q:\n%s", limit, proc("limits"))
		}
	}
	for _, ns := range []string{"net", "pid", "ipc", "uts"} {
		theirs, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "ns", ns))
		if err != nil {
			t.Fatal(err)
		}
		if ours, err := os.Readlink("/proc/self/ns/" + ns); err != nil || ours == theirs {
			t.Errorf("it shares our namespace %s, %v", ns, err)
		}
	}
	fds, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "fd"))
	if os.Geteuid() != 0 && stderrors.Is(err, fs.ErrPermission) {
		fds, err = nil, nil // it is not to be looked into: only root may
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		to, _ := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "fd", fd.Name()))
		if !strings.HasPrefix(to, "socket:") && !strings.HasPrefix(to, "pipe:") && to != "/dev/null" && !strings.HasPrefix(to, "anon_inode:") &&
			!strings.HasPrefix(to, "/sys/fs/cgroup/") { // the runtime looks there for its share of processors
			t.Errorf("it has %s open as %s", to, fd.Name())
		}
	}
	if env := proc("environ"); env != "GOMAXPROCS=2\x00" {
		t.Errorf("its environment: %q", env)
	}
}

// A worker that is killed from outside costs at most its own request, and is
// started again.
func TestKilledWorkerIsStartedAgain(t *testing.T) {
	r := mustLoad(t, decides("status: 404\n").wasm(), isolated(Options{}))
	for range 3 {
		for _, pid := range workerPIDs(t, r) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		failed := 0
		for {
			if _, err := r.Resolve(t.Context(), get("x", "/")); err == nil {
				break
			}
			if failed++; failed > 1 {
				t.Fatal("a second request fails")
			}
		}
	}
}

// What a worker could send if its guest had taken it over.
func TestHostileWorker(t *testing.T) {
	long := strings.Repeat("a", maxFrame+1)
	for _, c := range []struct {
		name   string
		frames []frame
		words  string
	}{
		{"another tenant", []frame{{frameDecision, []byte("tenant: ../acme\n")}}, "line 1"},
		{"a forged header", []frame{{frameDecision, []byte("tenant: acme\nset-header.atc-tenant: x\n")}}, "belongs to the proxy"},
		{"an ID that is none", []frame{{frameTenant, []byte("../acme")}}, "tenant"},
		{"a huge frame", []frame{{frameDecision, []byte(long)}}, "at most"},
		{"a frame of no kind", []frame{{'?', nil}}, "sends '?'"},
		{"logs without end", slices.Repeat([]frame{{frameLog, []byte("1x")}}, 100), "logs without end"},
		{"a log without a level", []frame{{frameLog, nil}}, "logs without end"},
		{"lookups without end", slices.Repeat([]frame{{frameTenant, []byte("acme")}}, 100), "more than 16 tenants"},
		{"an end", nil, "has ended"},
		{"control characters", []frame{{frameFailed, []byte("a\x1b[2J\nlevel=ERROR b")}}, "a [2J level=ERROR b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := Options{Deadline: 10 * time.Second}.withDefaults()
			p := &workers{gate: newGate(1, 1), opts: opts, alive: map[*worker]struct{}{}}
			ours, theirs := socketPair(t)
			go func() {
				defer theirs.Close()
				r := bufio.NewReader(theirs)
				if _, _, err := readFrame(r, maxFrame); err != nil {
					return
				}
				for _, f := range c.frames {
					if writeFrame(theirs, f.kind, f.text) != nil {
						return
					}
					if f.kind == frameTenant {
						if _, _, err := readFrame(r, maxFrame); err != nil {
							return
						}
					}
				}
				if len(c.frames) > 0 {
					_, _, _ = readFrame(r, maxFrame) // until it is dropped
				}
			}()
			w := &worker{conn: ours, in: bufio.NewReader(ours)}
			_, obedient, err := p.call(w, t.Context(), emptyWorld{}, []byte("method: GET\n"))
			ours.Close()
			wantError(t, err, c.words)
			if obedient && c.name != "control characters" {
				t.Error("the worker is kept")
			}
		})
	}
}

func TestWorkersBackOff(t *testing.T) {
	p := &workers{}
	var pauses []time.Duration
	for range 9 {
		p.lost()
		pauses = append(pauses, time.Until(p.notBefore).Round(50*time.Millisecond))
	}
	if pauses[0] > 150*time.Millisecond || pauses[2] < 2*pauses[1]-100*time.Millisecond || pauses[8] > maxBackoff {
		t.Errorf("pauses %v", pauses)
	}
}

func socketPair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}
