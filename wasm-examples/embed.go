// Package examples holds the sources from which atc policy new makes a starting
// point: an example for each language, with its helper and its cases.
package examples

import "embed"

// Sources are those files, by their paths in this folder.
//
//go:embed go/guest/*.go c/atc.h rust/guest.rs assemblyscript/atc.ts
//go:embed subdomain/main.go subdomain/cases.toml header/main.c header/cases.toml domains/main.rs domains/cases.toml
//go:embed region/main.ts region/cases.toml maintenance/main.wat maintenance/cases.toml
var Sources embed.FS
