package policy

import (
	"embed"
	"slices"
)

// The resolvers that every atc carries. They are modules like any other, built
// from wasm-examples; tests build those in Go again and compare, and hold the
// sources of the others against what they were built from.

//go:generate sh ../wasm-examples/build.sh ../policy/builtin

//go:embed builtin/*.wasm
var builtin embed.FS

// builtinNames are the names that Builtin knows, in the order of the alphabet.
var builtinNames = [...]string{
	"canary", "domains", "header", "maintenance", "path-prefix", "region", "rendezvous", "subdomain",
}

// BuiltinNames lists the names that [Builtin] knows.
func BuiltinNames() []string { return slices.Clone(builtinNames[:]) }

// Builtin returns the module of a built-in resolver:
//
//	subdomain    acme.example.com        config domain = "example.com, example.org"
//	path-prefix  example.com/t/acme/x    config prefix = "/t/" (default "/")
//	header       X-Tenant: acme          config header = "x-tenant", "key.<API key>" = "acme"
//	domains      shop.example.org        config "shop.example.org" = "acme"
//	region       acme.example.com        config "home.acme" = "ams"; near its home
//	rendezvous   acme.example.com        on the same machine whoever is asked
//	canary       acme.example.com        config canary = "v2", percent = 10
//	maintenance  acme.example.com        config from and until = "2026-11-28T22:00:00Z"
func Builtin(name string) (wasm []byte, ok bool) {
	if !slices.Contains(builtinNames[:], name) {
		return nil, false
	}
	wasm, err := builtin.ReadFile("builtin/" + name + ".wasm")
	return wasm, err == nil
}
