package apps

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"atc/proxy/control"
)

// This file defines a machine, which runs `atc serve`, and the client of one
// tenant on it.

var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "atc-apps-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "atc")
	if out, err := exec.Command("go", "build", "-o", path, "atc/cmd/atc").CombinedOutput(); err != nil {
		return path, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	status := m.Run()
	if path, _ := binary(); path != "" {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(status)
}

// machine is the place where atc runs, with its disk.
type machine struct {
	atc, dir, store, app string
}

func newMachine(t *testing.T, store, app string) *machine {
	t.Helper()
	atc, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return &machine{atc, t.TempDir(), store, app}
}

// loseDisk leaves nothing but the bucket.
func (m *machine) loseDisk(t *testing.T) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(m.dir, "cache")); err != nil {
		t.Fatal(err)
	}
}

// process is a running `atc serve`.
type process struct {
	*machine
	cmd   *exec.Cmd
	addr  string // of the proxy
	ended chan struct{}
	err   error // how it ended, once ended is closed

	mu     sync.Mutex // protects output
	output bytes.Buffer
}

var listening = regexp.MustCompile(`msg=serving listen=(\S+)`)

// start starts atc and returns when it listens. The test's end kills it.
func (m *machine) start(t *testing.T, durability string) *process {
	t.Helper()
	// A short lease: a machine with an empty disk is another one to the bucket,
	// and waits until the one that was killed counts as dead.
	config := fmt.Sprintf(`
listen = "127.0.0.1:0"
mount = %q
cache = %q
store = %q
durability = %q
heartbeat = "1s"
lease = "5s"
[policy.config]
domain = "localhost"
[app]
start_timeout = "2m"
%s`, filepath.Join(m.dir, "mnt"), filepath.Join(m.dir, "cache"), m.store, durability, m.app)
	path := filepath.Join(m.dir, "atc.toml")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	p := &process{machine: m, cmd: exec.Command(m.atc, "serve", "--config", path), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	// What outlives a killed atc does not keep the test waiting for its output.
	p.cmd.WaitDelay = 10 * time.Second
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.kill()
		_ = unix.Unmount(filepath.Join(m.dir, "mnt"), unix.MNT_DETACH)
		if t.Failed() {
			t.Logf("output of atc with durability %s:\n%s", durability, p.text())
		}
	})
	p.eventually(t, "it listens", func() bool {
		found := listening.FindStringSubmatch(p.text())
		if found != nil {
			p.addr = found[1]
		}
		return found != nil
	})
	return p
}

// Write takes the output.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.Write(b)
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// eventually waits for a condition, as long as the process runs.
func (p *process) eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); {
		select {
		case <-p.ended:
			t.Fatalf("waiting until %s: atc ended: %v", what, p.err)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited for a minute until %s", what)
		}
	}
}

// kill ends the process as the kernel would when memory is short.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// stop asks it to end, and wants a clean end.
func (p *process) stop(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.ended:
	case <-time.After(time.Minute):
		t.Fatal("atc does not end")
	}
	if p.err != nil {
		t.Errorf("atc ended with %v", p.err)
	}
}

// waitFiles returns when all plain files are in the bucket. Commits are when they
// return, with the durability of that name.
func (p *process) waitFiles(t *testing.T) {
	t.Helper()
	p.eventually(t, "all files are shipped", func() bool {
		out, err := exec.Command(p.atc, "fs", "stat", "--json", "--cache", filepath.Join(p.dir, "cache")).Output()
		if err != nil {
			t.Fatalf("atc fs stat: %v", err)
		}
		var s control.FSStat
		if err := json.Unmarshal(out, &s); err != nil {
			t.Fatal(err)
		}
		for _, tenant := range s.Tenants {
			if tenant.Pending {
				return false
			}
		}
		return len(s.Tenants) == len(tenants)
	})
}

// client sends requests for one tenant.
type client struct {
	*process
	host   string
	header http.Header // sent with each request
}

func (p *process) client(tenant string) *client {
	return &client{p, tenant + ".localhost", http.Header{}}
}

// with is the same client with a header more.
func (c *client) with(key, value string) *client {
	more := &client{c.process, c.host, c.header.Clone()}
	more.header.Set(key, value)
	return more
}

// answer is a complete answer.
type answer struct {
	status   int
	location string
	body     string
}

// send sends a request. It waits while the tenant still belongs to a machine that
// is not known to be dead.
func (c *client) send(t *testing.T, method, path, contentType, body string) (a answer) {
	t.Helper()
	c.eventually(t, "the tenant is free", func() bool {
		req, err := http.NewRequest(method, "http://"+c.addr+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Host, req.Header = c.host, c.header.Clone()
		if contentType != "" {
			req.Header.Set("Content-Type", contentType)
		}
		// A connection each, which no restart can have closed.
		transport := &http.Transport{DisableKeepAlives: true}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatalf("%s %s of %s: %v", method, path, c.host, err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatalf("%s %s of %s: %v", method, path, c.host, err)
		}
		a = answer{resp.StatusCode, resp.Header.Get("Location"), string(b)}
		return a.status != http.StatusMisdirectedRequest
	})
	return a
}

func (c *client) get(t *testing.T, path string) answer {
	t.Helper()
	return c.send(t, "GET", path, "", "")
}

// sendJSON sends a value and reads one.
func (c *client) sendJSON(t *testing.T, path string, in, out any) int {
	t.Helper()
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	a := c.send(t, "POST", path, "application/json", string(b))
	if a.status < 300 {
		readJSON(t, a, out)
	}
	return a.status
}

func readJSON(t *testing.T, a answer, out any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), out); err != nil {
		t.Fatalf("status %d: %v\n%.1000s", a.status, err, a.body)
	}
}

// upload sends a form with a picture.
func (c *client) upload(t *testing.T, path string, form map[string]string, field string, picture []byte) answer {
	t.Helper()
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for k, v := range form {
		if err := w.WriteField(k, v); err != nil {
			t.Fatal(err)
		}
	}
	part, err := w.CreatePart(textproto.MIMEHeader{
		"Content-Disposition": {fmt.Sprintf(`form-data; name=%q; filename="picture.png"`, field)},
		"Content-Type":        {"image/png"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := part.Write(picture); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return c.send(t, "POST", path, w.FormDataContentType(), body.String())
}
