package main

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"atc/policy"
)

// TestServeReplacesItsResolver does so in all three ways, in a process of its own,
// under requests none of which fails.
func TestServeReplacesItsResolver(t *testing.T) {
	dir := t.TempDir()
	module := filepath.Join(dir, "own.wasm")
	install := func(name string) {
		t.Helper()
		wasm, _ := policy.Builtin(name)
		if err := os.WriteFile(module+".next", wasm, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(module+".next", module); err != nil {
			t.Fatal(err)
		}
	}
	configure := func(host string) string {
		return configured(t, dir, "[policy]\nresolver = \"own.wasm\"\nisolation = \"process\"\nconfig = { \"steady.example\" = \"acme\", \""+host+"\" = \"acme\" }")
	}
	install("domains")
	p := startAtc(t, dir, "serve", "--config", configure("one.example"))
	if err := os.Mkdir(filepath.Join(dir, "mnt", "acme"), 0o755); err != nil {
		t.Fatal(err)
	}
	wait := func(host string, want int) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			status, body := p.request(t, "GET", host, "/", nil)
			if status == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d %s", host, status, body)
			}
		}
	}
	wait("one.example", http.StatusOK)
	wait("two.example", http.StatusNotFound)

	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		client := http.Client{Timeout: 30 * time.Second}
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			req, err := http.NewRequest("GET", "http://"+p.addr+"/", nil)
			if err != nil {
				t.Error(err)
				return
			}
			req.Host = "steady.example"
			resp, err := client.Do(req)
			if err != nil {
				t.Errorf("request %d: %v", n, err)
				return
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("request %d: %s", n, resp.Status)
				return
			}
		}
	}()
	configure("two.example")
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	wait("two.example", http.StatusOK)
	reload := func() (string, error) {
		out, err := exec.Command(atcPath(t), "policy", "reload", "--cache", filepath.Join(dir, "cache")).CombinedOutput()
		return string(out), err
	}
	configure("three.example")
	if out, err := reload(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	wait("three.example", http.StatusOK)
	wait("two.example", http.StatusNotFound)

	configure("a b")
	if out, err := reload(); err == nil || !strings.Contains(out, "a resolver cannot read it") {
		t.Errorf("a broken configuration: %v %s", err, out)
	}
	wait("three.example", http.StatusOK)
	configure("three.example")
	close(stop)
	<-stopped

	install("canary") // a change of the file
	wait("acme.anything.example", http.StatusOK)
	p.interrupt(t)
}
