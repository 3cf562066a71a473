package policy_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"atc/policy"
	"atc/policy/cases"
)

// The resolvers in wasm-examples, told as their authors tell their stories.
func TestExamples(t *testing.T) {
	for _, name := range policy.BuiltinNames() {
		files, err := filepath.Glob("../wasm-examples/" + name + "/cases*.toml")
		if err != nil || len(files) == 0 {
			t.Errorf("%s has no cases: %v", name, err)
		}
		for _, path := range files {
			t.Run(name+"/"+filepath.Base(path), func(t *testing.T) {
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				f, err := cases.Parse(path, text)
				if err != nil {
					t.Fatal(err)
				}
				wasm, _ := policy.Builtin(name)
				failures, err := f.Run(t.Context(), wasm, policy.Options{
					Name: name, Deadline: 20 * time.Second, Logger: slog.New(slog.DiscardHandler),
					CacheDir: os.Getenv("ATC_POLICY_TEST_CACHE"), // TestMain's
				})
				if err != nil {
					t.Fatal(err)
				}
				for _, failure := range failures {
					t.Errorf("%s\n%s", failure.Case, failure.Diff)
				}
			})
		}
	}
}
