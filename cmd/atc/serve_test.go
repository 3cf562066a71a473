package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"atc/policy"
)

// configured writes an atc.toml for the notes application and returns its path.
func configured(t *testing.T, dir, more string) string {
	t.Helper()
	path := filepath.Join(dir, "atc.toml")
	text := fmt.Sprintf(`
listen = "127.0.0.1:0"
mount = %q
cache = %q
store = %q
%s
[app]
command = [%q, "notes"]
env = { DATABASE_PATH = "/data/notes.sqlite3" }
health = "/health"
idle_timeout = "1s"
`, filepath.Join(dir, "mnt"), filepath.Join(dir, "cache"), "file://"+filepath.Join(dir, "bucket"), more, atcPath(t))
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestServe runs atc from a configuration file, with the path-prefix resolver
// and, the second time, the same module from a file.
func TestServe(t *testing.T) {
	dir := t.TempDir()
	wasm, _ := policy.Builtin("path-prefix")
	module := filepath.Join(dir, "own.wasm")
	if err := os.WriteFile(module, wasm, 0o644); err != nil {
		t.Fatal(err)
	}
	path := configured(t, dir, "[policy]\nresolver = \"path-prefix\"\nconfig = { prefix = \"/t\" }")
	for round, args := range [][]string{{"serve", "--config", path}, {"serve", "--config", path, "--resolver", module}} {
		p := startAtc(t, dir, args...)
		if round == 0 {
			if status, body := p.request(t, "GET", "x.example", "/t/acme/", nil); status != http.StatusNotFound {
				t.Errorf("a tenant that is not there: %d %s", status, body)
			}
			if err := os.Mkdir(filepath.Join(dir, "mnt", "acme"), 0o755); err != nil {
				t.Fatal(err)
			}
			waitStatus(t, p, "/t/acme/", http.StatusOK)
			if status, body := p.request(t, "POST", "x.example", "/t/acme/", url.Values{"text": {"by path"}}); status != http.StatusSeeOther {
				t.Fatalf("posting: %d %s", status, body)
			}
		}
		if status, body := p.request(t, "GET", "x.example", "/t/acme/", nil); status != http.StatusOK || !strings.Contains(body, "by path") {
			t.Errorf("round %d: %d\n%s", round, status, body)
		}
		waitStopped(t)
		if status, body := p.request(t, "GET", "x.example", "/t/acme/", nil); status != http.StatusOK || !strings.Contains(body, "by path") {
			t.Errorf("woken: %d\n%s", status, body)
		}
		p.interrupt(t)
		noMount(t, dir)
		noProcess(t, atcPath(t))
	}
}

// waitStatus asks until a tenant that was just made is known.
func waitStatus(t *testing.T, p *process, path string, want int) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		status, body := p.request(t, "GET", "x.example", path, nil)
		if status == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %d %s", path, status, body)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// waitStopped returns when the idle application is gone, with its sandbox.
func waitStopped(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		running := commandLines(atcPath(t) + " notes")
		if len(running) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("an idle application still runs: %q", running)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// commandLines lists the processes whose command line contains text.
func commandLines(text string) (found []string) {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		b, _ := os.ReadFile(path)
		if line := strings.ReplaceAll(string(b), "\x00", " "); strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

func TestServeRefusesBadConfiguration(t *testing.T) {
	dir := t.TempDir()
	path := configured(t, dir, `ship_intervall = "1s"`)
	out, err := exec.Command(atcPath(t), "serve", "--config", path).CombinedOutput()
	for _, want := range []string{"atc.toml:6:", "ship_intervall", "did you mean ship_interval?"} {
		if err == nil || !bytes.Contains(out, []byte(want)) {
			t.Errorf("want %q in %v: %s", want, err, out)
		}
	}
	path = configured(t, dir, "[policy]\nresolver = \"subdomian\"")
	if out, err = exec.Command(atcPath(t), "serve", "--config", path).CombinedOutput(); err == nil || !bytes.Contains(out, []byte("subdomain")) {
		t.Errorf("a resolver that is not there: %v %s", err, out)
	}
	noMount(t, dir)
}
