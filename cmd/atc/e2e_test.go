package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"atc/proxy/control"
)

// This file defines how the tests run atc: as its users do, a binary in a
// process of its own.

var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "atc-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "atc")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	status := m.Run()
	if path, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(status)
}

func atcPath(t *testing.T) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// process is a running atc.
type process struct {
	cmd  *exec.Cmd
	addr string // host:port of the proxy
	dir  string

	mu     sync.Mutex // protects output
	output bytes.Buffer
	ended  chan error
	found  chan string // the address, when it was printed
}

var addressLine = regexp.MustCompile(`http://\w+\.localhost(:\d+)/|listen=\S*?(:\d+)`)

// startDemo starts `atc demo` on a folder and waits until it listens.
func startDemo(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	return startAtc(t, dir, append([]string{"demo", "--listen", "127.0.0.1:0", "--dir", dir, "--log-level", "info"}, args...)...)
}

func startAtc(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	return start(t, dir, exec.Command(atcPath(t), args...))
}

func start(t *testing.T, dir string, cmd *exec.Cmd) *process {
	t.Helper()
	p := launch(t, dir, cmd)
	select {
	case p.addr = <-p.found:
	case err := <-p.ended:
		p.ended <- err
		t.Fatalf("atc ended: %v\n%s", err, p.text())
	case <-time.After(30 * time.Second):
		t.Fatalf("atc does not listen\n%s", p.text())
	}
	return p
}

// launch starts a command and collects its output. The test's end kills it.
func launch(t *testing.T, dir string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, dir: dir, ended: make(chan error, 1), found: make(chan string, 1)}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go func() {
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			p.mu.Lock()
			p.output.WriteString(lines.Text() + "\n")
			p.mu.Unlock()
			if m := addressLine.FindStringSubmatch(lines.Text()); m != nil {
				select {
				case p.found <- "127.0.0.1" + m[1] + m[2]:
				default:
				}
			}
		}
		r.Close()
	}()
	go func() { p.ended <- cmd.Wait() }()
	t.Cleanup(func() {
		p.kill()
		_ = unix.Unmount(filepath.Join(dir, "mnt"), unix.MNT_DETACH)
		if t.Failed() {
			t.Logf("output of atc:\n%s", p.text())
		}
	})
	return p
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// kill ends the process as the kernel would when memory is short.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	err := <-p.ended
	p.ended <- err
}

// interrupt is Ctrl-C; it waits for the end and wants it to be clean.
func (p *process) interrupt(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-p.ended:
		p.ended <- err
		if err != nil {
			t.Errorf("atc ended with %v\n%s", err, p.text())
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("atc does not end\n%s", p.text())
	}
}

// request sends a request for a tenant's host and returns status and body.
func (p *process) request(t *testing.T, method, host, path string, form url.Values) (int, string) {
	t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequest(method, "http://"+p.addr+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	client := http.Client{Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s http://%s%s: %v\n%s", method, host, path, err, p.text())
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// post adds a note; notes reads the page.
func (p *process) post(t *testing.T, tenant, text string) {
	t.Helper()
	if status, body := p.request(t, "POST", tenant+".localhost", "/", url.Values{"text": {text}}); status != http.StatusSeeOther {
		t.Fatalf("posting to %s: %d\n%s", tenant, status, body)
	}
}

func (p *process) notes(t *testing.T, tenant string) string {
	t.Helper()
	status, body := p.request(t, "GET", tenant+".localhost", "/", nil)
	if status != http.StatusOK {
		t.Fatalf("notes of %s: %d\n%s", tenant, status, body)
	}
	return body
}

// stat is `atc fs stat --json`.
func (p *process) stat(t *testing.T) control.FSStat {
	t.Helper()
	out, err := exec.Command(atcPath(t), "fs", "stat", "--json", "--cache", filepath.Join(p.dir, "cache")).Output()
	if err != nil {
		t.Fatalf("atc fs stat: %v\n%s", err, out)
	}
	var s control.FSStat
	if err := json.Unmarshal(out, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// waitShipped returns when nothing is pending of a tenant that has a database.
func (p *process) waitShipped(t *testing.T, tenant string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	// What was posted before is captured by the second interval from now.
	time.Sleep(1100 * time.Millisecond)
	for {
		for _, s := range p.stat(t).Tenants {
			if s.ID == tenant && len(s.Databases) > 0 && s.Databases[0].TXID > 0 && s.Databases[0].PendingPages == 0 {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not shipped: %+v", tenant, p.stat(t))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// noMount fails if something is still mounted below dir.
func noMount(t *testing.T, dir string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), dir) {
		t.Errorf("something is still mounted below %s", dir)
	}
}
