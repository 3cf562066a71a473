package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The test binary is every program of these tests: with "role" as its first
// argument it is one that runs in a sandbox, or beside one.

var roles = map[string]func(args []string){
	"hostile":    hostileRole,
	"parent":     parentRole,
	"serve":      serveRole,
	"environ":    func([]string) { fmt.Println(strings.Join(os.Environ(), "\n")) },
	"exit":       func(args []string) { fmt.Fprintln(os.Stderr, "last words"); syscall.Exit(int(args[0][0] - '0')) },
	"true":       func([]string) {},
	"ls":         lsRole,
	"deaf":       deafRole,
	"orphans":    orphansRole,
	"newuser":    func([]string) {},
	"descriptor": func([]string) { select {} },
}

func TestMain(m *testing.M) {
	Init()
	if len(os.Args) > 2 && os.Args[1] == "role" {
		roles[os.Args[2]](os.Args[3:])
		syscall.Exit(0) // os.Exit takes a second under the race detector
	}
	os.Exit(m.Run())
}

// serveRole answers on PORT with the content of the tenant's folder.
func serveRole([]string) {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		b, err := os.ReadFile("secret")
		fmt.Fprintf(w, "%s %v", b, err)
	})
	fmt.Println(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}

// lsRole prints the names in each folder.
func lsRole(args []string) {
	for _, dir := range args {
		entries, err := os.ReadDir(dir)
		fmt.Printf("%s:", dir)
		for _, e := range entries {
			fmt.Print(" ", e.Name())
		}
		fmt.Println(" ", err)
	}
}

// deafRole does not end when it is asked to.
func deafRole([]string) {
	signal.Ignore(syscall.SIGTERM)
	fmt.Println("deaf")
	select {}
}

// orphansRole leaves processes behind that have left its session, and a zombie
// that only process 1 can collect.
func orphansRole(args []string) {
	for _, seconds := range args {
		cmd := exec.Command("/bin/sh", "-c", "setsid sleep "+seconds+" & exec true")
		if err := cmd.Run(); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println("left")
	select {}
}

// world is a folder of tenants, each with a secret, on the real disk.
type world struct{ dir string }

func newWorld(t testing.TB) world {
	t.Helper()
	dir, err := os.MkdirTemp("", "sandbox-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w := world{dir}
	for _, tenant := range []string{"acme", "globex"} {
		if err := os.Mkdir(w.tenant(tenant), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(w.tenant(tenant, "secret"), []byte(tenant+"'s secret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w world) tenant(path ...string) string {
	return filepath.Join(append([]string{w.dir}, path...)...)
}

// spec runs a role of this binary as acme.
func (w world) spec(t testing.TB, role ...string) Spec {
	t.Helper()
	return Spec{Name: "acme", Dir: w.tenant("acme"), Command: append([]string{executable(t), "role"}, role...)}
}

func executable(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// start starts a sandbox that ends with the test.
func start(t testing.TB, spec Spec) *Process {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	p, err := Start(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(context.Background(), 0); err != nil {
			t.Error(err)
		}
	})
	return p
}

// output runs a sandbox to its end.
func output(t testing.TB, spec Spec) string {
	t.Helper()
	var out buffer
	spec.Stdout, spec.Stderr = &out, &out
	p := start(t, spec)
	wait(t, p)
	return out.String()
}

func wait(t testing.TB, p *Process) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the sandbox does not end")
	}
}

// eventually polls until the condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// buffer is a bytes.Buffer that may be read while it is written.
type buffer struct {
	mu sync.Mutex // protects b
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// processes lists the processes, anywhere, whose command line contains text.
func processes(t testing.TB, text string) []string {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, path := range lines {
		if b, err := os.ReadFile(path); err == nil && bytes.Contains(b, []byte(text)) {
			found = append(found, path)
		}
	}
	return found
}

// nothingLeft fails the test when, after it, there are other mounts or more
// descriptors and children than before it. FUSE mounts come and go with the
// tests of other packages.
func nothingLeft(t testing.TB) {
	t.Helper()
	before := holdings(t)
	t.Cleanup(func() {
		deadline := time.Now().Add(10 * time.Second)
		after := holdings(t)
		for ; after != before && time.Now().Before(deadline); after = holdings(t) {
			time.Sleep(5 * time.Millisecond)
		}
		if after != before {
			t.Errorf("left behind:\nbefore %s\nafter  %s", before, after)
		}
	})
}

func holdings(t testing.TB) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	lines := slices.DeleteFunc(strings.Split(string(mounts), "\n"), func(line string) bool { return strings.Contains(line, " - fuse") })
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var children []string
	threads, _ := filepath.Glob("/proc/self/task/*/children")
	for _, path := range threads {
		if b, err := os.ReadFile(path); err == nil && len(b) > 0 {
			children = append(children, string(b))
		}
	}
	b, _ := json.Marshal(map[string]any{"mounts": lines, "descriptors": len(fds), "children": children})
	return string(b)
}
