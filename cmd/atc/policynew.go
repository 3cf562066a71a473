package main

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"atc/fs/errors"
	examples "atc/wasm-examples"
)

// This file defines `atc policy new`: a resolver to begin with.

// starter is what a language's starting point is made of.
type starter struct {
	files   map[string]string // where a file goes, and which example it comes from
	replace []string          // in all of them: what, by what
	extra   map[string]string // files of their own
	build   string            // what makes resolver.wasm
	needs   string
}

var starters = map[string]starter{
	"go": {
		files:   map[string]string{"main.go": "subdomain/main.go", "cases.toml": "subdomain/cases.toml", "guest/": "go/guest"},
		replace: []string{"atc/wasm-examples/go/guest", "resolver/guest"},
		extra:   map[string]string{"go.mod": "module resolver\n\ngo 1.24\n"},
		build:   "GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o resolver.wasm .",
		needs:   "Go 1.24",
	},
	"c": {
		files:   map[string]string{"main.c": "header/main.c", "cases.toml": "header/cases.toml", "atc.h": "c/atc.h"},
		replace: []string{"../c/atc.h", "atc.h"},
		build:   "clang --target=wasm32 -nostdlib -ffreestanding -O2 -Wl,--no-entry -Wl,--strip-all -o resolver.wasm main.c",
		needs:   "clang and lld",
	},
	"rust": {
		files:   map[string]string{"main.rs": "domains/main.rs", "cases.toml": "domains/cases.toml", "guest.rs": "rust/guest.rs"},
		replace: []string{"../rust/guest.rs", "guest.rs"},
		build: "rustc --edition 2021 --target wasm32-unknown-unknown --crate-type cdylib -O -C panic=abort -C strip=symbols " +
			"-C link-arg=-zstack-size=65536 -o resolver.wasm main.rs",
		needs: "rustc with the target wasm32-unknown-unknown (Debian: libstd-rust-dev-wasm32)",
	},
	"assemblyscript": {
		files:   map[string]string{"main.ts": "region/main.ts", "cases.toml": "region/cases.toml", "atc.ts": "assemblyscript/atc.ts"},
		replace: []string{"../assemblyscript/atc", "./atc"},
		build:   "asc main.ts -O3 --runtime incremental --use abort= -o resolver.wasm",
		needs:   "npm install assemblyscript@0.28",
	},
	"wat": {
		files: map[string]string{"main.wat": "maintenance/main.wat", "cases.toml": "maintenance/cases.toml"},
		build: "wat2wasm -o resolver.wasm main.wat",
		needs: "wabt",
	},
}

func policyNewCommand() *cobra.Command {
	languages := slices.Sorted(maps.Keys(starters))
	return &cobra.Command{
		Use:   "new LANGUAGE DIR",
		Short: "Write a resolver to begin with, in " + strings.Join(languages, ", "),
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, ok := starters[args[0]]
			if !ok {
				return errors.E("find language", args[0], errors.Invalid, fmt.Errorf("write one of %s", strings.Join(languages, ", ")))
			}
			if err := s.write(args[1]); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s holds a resolver that works. It needs %s. Next:\n\n  cd %[1]s\n  sh build.sh\n  atc policy test resolver.wasm cases.toml\n", args[1], s.needs)
			return err
		},
	}
}

// write makes the folder, which may not be there yet or must be empty.
func (s starter) write(dir string) error {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return errors.E("make resolver", dir, errors.Exist, fmt.Errorf("the folder is not empty"))
	}
	files := maps.Clone(s.extra)
	if files == nil {
		files = map[string]string{}
	}
	files["build.sh"] = "#!/bin/sh\n# Builds resolver.wasm. It needs " + s.needs + ".\nset -eu\ncd \"$(dirname \"$0\")\"\n" + s.build + "\n"
	replacer := strings.NewReplacer(s.replace...)
	for to, from := range s.files {
		if !strings.HasSuffix(to, "/") {
			text, err := fs.ReadFile(examples.Sources, from)
			if err != nil {
				return err
			}
			files[to] = replacer.Replace(string(text))
			continue
		}
		entries, err := fs.ReadDir(examples.Sources, from)
		if err != nil {
			return err
		}
		for _, e := range entries {
			text, err := fs.ReadFile(examples.Sources, from+"/"+e.Name())
			if err != nil {
				return err
			}
			files[to+e.Name()] = replacer.Replace(string(text))
		}
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
