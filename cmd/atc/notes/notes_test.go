package notes

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// TestMain lets the test binary be the application, as atc notes is.
func TestMain(m *testing.M) {
	if os.Getenv("NOTES_TEST_RUN") != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := Main(ctx, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// process is a running application.
type process struct {
	*exec.Cmd
	url string
}

func launch(t *testing.T, database string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "NOTES_TEST_RUN=1", "PORT=0", "DATABASE_PATH="+database)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	words := strings.Fields(line)
	if err != nil || len(words) < 2 {
		t.Fatalf("the application says %q, %v", line, err)
	}
	return &process{cmd, words[1]}
}

func (p *process) stop(t *testing.T, sig os.Signal) {
	t.Helper()
	p.Process.Signal(sig)
	if err := p.Wait(); (sig == syscall.SIGTERM) != (err == nil) {
		t.Errorf("after %v: %v", sig, err)
	}
}

func post(t *testing.T, address, text string) (status int, body string) {
	t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.PostForm(address, url.Values{"text": {text}})
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b)
}

func get(t *testing.T, address string) (status int, body string) {
	t.Helper()
	res, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b)
}

func serveTest(t *testing.T) *httptest.Server {
	t.Helper()
	s, err := openStore(context.Background(), filepath.Join(t.TempDir(), "a?b #%.sqlite3"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler(s))
	t.Cleanup(func() {
		server.Close()
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

func TestPage(t *testing.T) {
	server := serveTest(t)
	if status, body := get(t, server.URL); status != 200 || !strings.Contains(body, "No notes yet") {
		t.Errorf("empty: %d %s", status, body)
	}
	for _, text := range []string{"first", "<script>alert('x')</script>", "  Grüße, 世界  "} {
		if status, _ := post(t, server.URL, text); status != http.StatusSeeOther {
			t.Errorf("%q: status %d", text, status)
		}
	}
	_, body := get(t, server.URL)
	if strings.Contains(body, "<script>") || !strings.Contains(body, "&lt;script&gt;") {
		t.Error("a note is not escaped")
	}
	if first, third := strings.Index(body, "first"), strings.Index(body, "<li>Grüße, 世界<"); third < 0 || first < third {
		t.Errorf("not newest first: %s", body)
	}
	for text, want := range map[string]string{
		"":                              "nothing in this note",
		" \n ":                          "nothing in this note",
		strings.Repeat("n", MaxNote+1):  "too long: 2001 bytes",
		strings.Repeat("n", 20*MaxNote): "far too long",
		"\xff\xfe":                      "not text",
	} {
		if status, body := post(t, server.URL, text); status != http.StatusUnprocessableEntity || !strings.Contains(body, want) {
			t.Errorf("%.10q: status %d, %q is missing in %.200s", text, status, want, body)
		}
	}
	if status, _ := post(t, server.URL, strings.Repeat("n", MaxNote)); status != http.StatusSeeOther {
		t.Errorf("the longest note: status %d", status)
	}
	if status, body := get(t, server.URL+"/health"); status != 200 || body != "ok\n" {
		t.Errorf("health: %d %q", status, body)
	}
	if status, _ := get(t, server.URL+"/elsewhere"); status != 404 {
		t.Errorf("elsewhere: %d", status)
	}
}

func TestTitle(t *testing.T) {
	for host, want := range map[string]string{
		"acme.localhost:8080": "acme", "acme": "acme", "127.0.0.1:80": "notes", "[::1]:80": "notes", "": "notes", "<b>.x": "<b>",
	} {
		if got := title(host); got != want {
			t.Errorf("title(%q) = %q, want %q", host, got, want)
		}
	}
	server := serveTest(t)
	req, _ := http.NewRequest("GET", server.URL, nil)
	req.Host = "acme.localhost:8080"
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); !strings.Contains(string(body), "<h1>acme</h1>") {
		t.Errorf("%s", body)
	}
}

func TestConfigure(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		args []string
		want Config
		fail string
	}{
		{want: Config{0, "notes.sqlite3"}},
		{env: map[string]string{"PORT": "81", "DATABASE_PATH": "/d/x"}, want: Config{81, "/d/x"}},
		{env: map[string]string{"PORT": "81"}, args: []string{"-port=82", "-database", "y"}, want: Config{82, "y"}},
		{env: map[string]string{"PORT": "http"}, fail: `PORT="http"`},
		{args: []string{"-port=70000"}, fail: "out of range"},
		{args: []string{"-verbose"}, fail: "-verbose"},
		{args: []string{"extra"}, fail: "extra"},
	} {
		got, err := Configure(c.args, func(k string) string { return c.env[k] })
		if got != c.want || (err != nil) != (c.fail != "") || err != nil && !strings.Contains(err.Error(), c.fail) {
			t.Errorf("%v %v: %v, %v", c.env, c.args, got, err)
		}
	}
}

// Two processes write to one database at once, which needs the shared memory of
// WAL mode. One then ends cleanly, the other is killed; no note is lost.
func TestTwoProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notes.sqlite3")
	a, b := launch(t, path), launch(t, path)
	const each = 60
	var wg sync.WaitGroup
	for _, p := range []*process{a, b} {
		for client := range 2 {
			wg.Go(func() {
				for n := range each / 2 {
					if status, body := post(t, p.url, fmt.Sprintf("from %d: %d of %d", p.Process.Pid, n, client)); status != http.StatusSeeOther {
						t.Errorf("status %d: %s", status, body)
					}
				}
			})
		}
	}
	wg.Wait()
	if info, err := os.Stat(path + "-shm"); err != nil || info.Size() < 32<<10 {
		t.Errorf("no shared memory beside the database: %v", err)
	}
	for _, p := range []*process{a, b} {
		if _, body := get(t, p.url); strings.Count(body, "<li>from ") != 2*each {
			t.Errorf("a process sees %d notes of %d", strings.Count(body, "<li>from "), 2*each)
		}
	}
	a.stop(t, syscall.SIGTERM)
	post(t, b.url, "from the survivor")
	b.stop(t, syscall.SIGKILL)

	c := launch(t, path)
	if _, body := get(t, c.url); strings.Count(body, "<li>from ") != 2*each+1 {
		t.Errorf("after a kill there are %d notes", strings.Count(body, "<li>from "))
	}
	c.stop(t, syscall.SIGTERM)
	for _, sidecar := range []string{"-wal", "-shm"} {
		if _, err := os.Stat(path + sidecar); !os.IsNotExist(err) {
			t.Errorf("%s is left after a clean end: %v", sidecar, err)
		}
	}
	if out, err := exec.Command("sqlite3", path, "PRAGMA integrity_check; PRAGMA journal_mode").CombinedOutput(); err == nil {
		if string(out) != "ok\nwal\n" {
			t.Errorf("sqlite3 says %s", out)
		}
	} else {
		t.Logf("not checked with the sqlite3 program: %v", err)
	}
}

func TestRunFails(t *testing.T) {
	if err := Run(context.Background(), Config{Database: filepath.Join(t.TempDir(), "no", "folder", "x")}, io.Discard); err == nil {
		t.Error("ran without a database")
	}
	file := filepath.Join(t.TempDir(), "x")
	os.WriteFile(file, []byte(strings.Repeat("this is no database ", 100)), 0o600)
	if err := Run(context.Background(), Config{Database: file}, io.Discard); err == nil {
		t.Error("ran on a file that is no database")
	}
}
