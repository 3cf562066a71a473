package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"atc/fs/mount/mounttest"
)

// tenantRun runs `atc tenant` on the store of a folder.
func tenantRun(t *testing.T, dir string, args ...string) (status int, output string) {
	t.Helper()
	args = append([]string{"tenant"}, args...)
	if dir != "" {
		args = append(args, "--store", "file://"+filepath.Join(dir, "bucket"))
	}
	cmd := exec.Command(atcPath(t), args...)
	cmd.Env = append(os.Environ(), "BUCKET_NAME=")
	out, err := cmd.CombinedOutput()
	if exit, ok := err.(*exec.ExitError); ok {
		return exit.ExitCode(), string(out)
	} else if err != nil {
		t.Fatal(err)
	}
	return 0, string(out)
}

// seed mounts a store once and writes a tenant with two commits; between is a
// moment between them.
func seed(t *testing.T, dir string) (between string) {
	t.Helper()
	db := filepath.Join(dir, "mnt", "acme", "main.sqlite3")
	script := `mkdir -p "$(dirname "$1")" && sqlite3 "$1" "pragma journal_mode=wal; create table t(a); insert into t values(1)" && echo x > "$(dirname "$1")/plain"`
	if out, err := exec.Command(atcPath(t), mountArgs(dir, "sh", "-c", script, "sh", db)...).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	time.Sleep(5 * time.Millisecond)
	between = time.Now().UTC().Format(time.RFC3339Nano)
	time.Sleep(5 * time.Millisecond)
	if out, err := exec.Command(atcPath(t), mountArgs(dir, "sqlite3", db, "insert into t values(2)")...).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	return between
}

// TestTenantCommands goes through all of them as an operator would.
func TestTenantCommands(t *testing.T) {
	dir := t.TempDir()
	between := seed(t, dir)
	out := filepath.Join(dir, "out")
	export := func(id, to string) string {
		t.Helper()
		if status, text := tenantRun(t, dir, "export", id, to); status != 0 {
			t.Fatalf("%d %s", status, text)
		}
		return mounttest.SQL(t, filepath.Join(to, "main.sqlite3"), "select group_concat(a) from t")
	}
	for _, step := range []struct {
		args   []string
		status int
		want   string // a regular expression
	}{
		{[]string{"list"}, 0, `(?s)TENANT.*acme +\d +1 +released at`},
		{[]string{"list", "acme"}, 0, `main.sqlite3 +20.*0000000000000001-000000000000000\d +present +tenants/acme/db/main\.sqlite3-\w+\n`},
		{[]string{"fork", "acme", "before", "--at", between}, 0, `(?s)made before of acme in .*1 database, 1 file.*objects, not bytes.*transaction 0000000000000001.*no history`},
		{[]string{"fork", "acme", "before"}, 1, `choose another`},
		{[]string{"restore", "acme", "--txid", "1", "--as", "first"}, 0, `made first of acme`},
		{[]string{"verify", "--all"}, 0, `(?s)acme: sound: .*before: sound.*first: sound`},
		{[]string{"export", "acme", out}, 0, `exported acme to .*1 database, 1 file`},
		{[]string{"export", "acme", out}, 1, `not empty`},
		{[]string{"import", out, "again"}, 0, `made again of .*1 database, 1 file`},
		{[]string{"restore", "acme", "--at", between}, 0, `(?s)restored acme\n  main.sqlite3: transaction`},
		{[]string{"restore", "acme", "--at", "-300d"}, 1, `its history goes from 20`},
		{[]string{"undelete", "acme"}, 1, `was not removed`},
	} {
		status, text := tenantRun(t, dir, step.args...)
		if status != step.status || !regexp.MustCompile(step.want).MatchString(text) {
			t.Errorf("%q: status %d, want %d and %s:\n%s", step.args, status, step.status, step.want, text)
		}
	}
	for id, want := range map[string]string{"acme": "1", "before": "1", "first": "1", "again": "1,2"} {
		if got := export(id, filepath.Join(dir, "check-"+id)); got != want {
			t.Errorf("%s: %q, want %q", id, got, want)
		}
	}
	if b, err := os.ReadFile(filepath.Join(out, "plain")); string(b) != "x\n" {
		t.Errorf("the exported file: %q, %v", b, err)
	}
	// Damage: the first transaction of one tenant.
	files, _ := filepath.Glob(filepath.Join(dir, "bucket/tenants/again/db/*/0000/*.ltx"))
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if status, text := tenantRun(t, dir, "verify", "--all"); status != 3 || !strings.Contains(text, "again: DAMAGED") || !strings.Contains(text, "acme: sound") {
		t.Errorf("status %d: %s", status, text)
	}
}

func TestTenantUsage(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"nonsense"}, "there is no"},
		{[]string{"fork", "a"}, "usage: atc tenant fork"},
		{[]string{"fork", "a", "B"}, "upper-case"},
		{[]string{"restore", "a"}, "give --at"},
		{[]string{"restore", "a", "--at", "yesterday"}, "write 2026-"},
		{[]string{"restore", "a", "--at", "2026-11-21T10:00:00"}, "time zone"},
		{[]string{"restore", "a", "--at", "2999-01-01"}, "future"},
		{[]string{"restore", "a", "--txid", "zero"}, "16 hexadecimal"},
		{[]string{"verify"}, "usage"},
		{[]string{"verify", "a", "--all"}, "usage"},
		{[]string{"import", "d", "a", "--path", "x"}, "--path go together"},
		{[]string{"list", "--colour"}, "unknown flag"},
	} {
		where := dir
		if c.args[0] == "nonsense" {
			where = "" // flags are a command's
		}
		if status, out := tenantRun(t, where, c.args...); status != 2 || !strings.Contains(out, c.want) {
			t.Errorf("%q: status %d, %s", c.args, status, out)
		}
	}
	if status, out := tenantRun(t, "", "list"); status != 2 || !strings.Contains(out, "no store") {
		t.Errorf("without a store: %d %s", status, out)
	}
}

// TestTenantInterrupted stops an import in the middle: it says so, quickly, and
// nothing is to be seen of it.
func TestTenantInterrupted(t *testing.T) {
	dir, from := t.TempDir(), t.TempDir()
	mounttest.SQL(t, filepath.Join(from, "big.db"), `create table t(a);
		with recursive n(i) as (select 1 union all select i+1 from n where i<300000) insert into t select randomblob(1000) from n`)
	cmd := exec.Command(atcPath(t), "tenant", "import", from, "new", "--store", "file://"+filepath.Join(dir, "bucket"))
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	err := cmd.Wait()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 1 || !strings.Contains(out.String(), "interrupted") {
		t.Errorf("%v: %s", err, out.String())
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("it took %v to end", d)
	}
	if _, text := tenantRun(t, dir, "list"); strings.Contains(text, "new") {
		t.Errorf("it left %s", text)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "atc-import-*")); len(left) > 0 {
		t.Errorf("it left %v", left)
	}
}

func TestParseMoment(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]string{
		"2026-11-21T10:00:00Z":      "2026-11-21T10:00:00Z",
		"2026-11-21T10:00:00.5Z":    "2026-11-21T10:00:00.5Z",
		"2026-11-21T10:00:00+05:30": "2026-11-21T04:30:00Z",
		"2026-11-21":                "2026-11-21T00:00:00Z",
		"-90m":                      "2026-11-22T10:30:00Z",
		"-3d":                       "2026-11-19T12:00:00Z",
	} {
		got, err := parseMoment(in, now)
		if text := got.UTC().Format(time.RFC3339Nano); err != nil || text != want {
			t.Errorf("%s: %s, %v", in, text, err)
		}
	}
	for _, in := range []string{"", "-", "--1h", "-0s", "now", "2026-11-23", "2026-11-22T13:00:00Z", "-99999999d", "1700000000"} {
		if got, err := parseMoment(in, now); err == nil {
			t.Errorf("%q was read as %v", in, got)
		}
	}
}
