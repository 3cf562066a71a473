package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"atc/policy"
)

// The commands for authors of resolvers, as an author types them.

// author runs `atc policy` and returns what it prints, with its error behind.
func author(t *testing.T, args ...string) string {
	t.Helper()
	cmd := policyCommand()
	var out bytes.Buffer
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		return out.String() + "error: " + err.Error()
	}
	return out.String()
}

func wantWords(t *testing.T, got string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(got, word) {
			t.Errorf("it does not say %q:\n%s", word, got)
		}
	}
}

// What new writes for Go builds, and its cases come out as wanted.
func TestPolicyNewGo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "own")
	wantWords(t, author(t, "new", "go", dir), "sh build.sh")
	build := exec.Command("sh", filepath.Join(dir, "build.sh"))
	build.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	module, cases := filepath.Join(dir, "resolver.wasm"), filepath.Join(dir, "cases.toml")
	// By the program itself: under the race detector the engine compiles slowly.
	out, err := exec.Command(atcPath(t), "policy", "test", module, cases).CombinedOutput()
	if err != nil {
		t.Error(err)
	}
	wantWords(t, string(out), "3 cases came out as wanted")
	wantWords(t, author(t, "new", "go", dir), "error: ", "not empty")
}

// What new writes for the others holds together: every file that one of them
// takes in is there. `make examples` builds them.
func TestPolicyNewOthers(t *testing.T) {
	takesIn := regexp.MustCompile(`(?m)^#include "(.*)"|^#\[path = "(.*)"\]|from "\./(.*)"`)
	for _, c := range []struct{ language, main string }{
		{"c", "main.c"}, {"rust", "main.rs"}, {"assemblyscript", "main.ts"}, {"wat", "main.wat"},
	} {
		dir := filepath.Join(t.TempDir(), c.language)
		wantWords(t, author(t, "new", c.language, dir), "atc policy test resolver.wasm cases.toml")
		text, err := os.ReadFile(filepath.Join(dir, c.main))
		if err != nil {
			t.Fatal(err)
		}
		found := takesIn.FindAllStringSubmatch(string(text), -1)
		if len(found) == 0 && c.language != "wat" {
			t.Errorf("%s takes nothing in", c.main)
		}
		for _, m := range found {
			name := m[1] + m[2] + m[3]
			if c.language == "assemblyscript" {
				name += ".ts"
			}
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				t.Error(err)
			}
		}
		for _, name := range []string{"build.sh", "cases.toml"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				t.Error(err)
			}
		}
	}
	wantWords(t, author(t, "new", "cobol", t.TempDir()), "error: ", "assemblyscript, c, go, rust, wat")
}

func TestPolicyTestShowsWhatDiffers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cases.toml")
	if err := os.WriteFile(path, []byte("[tenants.acme]\n[[case]]\nrequest = \"GET https://acme.x/\"\ndecision = \"tenant: acme\\nregion: ams\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	wantWords(t, author(t, "test", "maintenance", path), path+": GET https://acme.x/", "  tenant: acme\n- region: ams\n", "error: 1 of 1 cases")
	wantWords(t, author(t, "test", "maintenance", path+".none"), "error: ", path+".none")
}

func TestPolicyExplain(t *testing.T) {
	got := author(t, "explain", "canary", "--request", "POST https://acme.example.com:8080/x?y", "--header", "cookie: a=b",
		"--config", "canary=v2", "--config", "percent=100", "--tenant", "acme plan=pro")
	wantWords(t, got,
		"request -> ", "    method: POST\n", "    host: acme.example.com:8080\n", "    query: y\n", "    header.cookie: a=b\n",
		"config -> 24\n    canary: v2\n    percent: 100\n", "tenant(\"acme\") -> 10\n    plan: pro\n",
		"decide\n    tenant: acme\n    app: v2\n", "This is the decision", "\ntenant: acme\napp: v2\ncache: host 60\n")
	if strings.Contains(got, "probe.invalid") {
		t.Errorf("the probe is explained:\n%s", got)
	}
	wantWords(t, author(t, "explain", "header", "--header", "x-tenant: globex", "--tenant", "acme"), `tenant("globex") -> -1, no such tenant`, "status: 404")
	for _, bad := range [][]string{
		{"--request", "/x", "write a method and a URL"}, {"--header", "cookie", `"cookie: a=b"`},
		{"--config", "domain", `"domain=example.com"`}, {"--tenant", "Acme", `"acme region=ams"`},
	} {
		wantWords(t, author(t, "explain", "canary", bad[0], bad[1]), "error: ", bad[2])
	}
}

// A guest that breaks a rule is shown up to there.
func TestPolicyExplainShowsAViolation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "own.wasm")
	wasm, _ := policy.Builtin("maintenance")
	// The decision's key, misspelled where the tenant's ID would follow.
	broken := bytes.Replace(wasm, []byte("tenant: "), []byte("tennnt: "), 1)
	if err := os.WriteFile(path, broken, 0o644); err != nil {
		t.Fatal(err)
	}
	wantWords(t, author(t, "explain", path, "--tenant", "acme"), "decide\n    tennnt: acme\n", "error: ", "line 1", "no such key")
}

func TestPolicyBench(t *testing.T) {
	got := author(t, "bench", "canary", "--n", "200")
	wantWords(t, got, "a new instance for each request", "a decision ", "the engine's call alone", "a kept decision", "times the engine's call")
}

// Modules that are none are refused with what to change.
func TestPolicyRefusals(t *testing.T) {
	path := filepath.Join(t.TempDir(), "own.wasm")
	if err := os.WriteFile(path, []byte("(module)"), 0o644); err != nil {
		t.Fatal(err)
	}
	wantWords(t, author(t, "explain", path), "error: load resolver "+path, "wat2wasm")
	wantWords(t, author(t, "bench", "none.wasm"), "error: ", "none.wasm", "built-in ones are canary, domains")
}
