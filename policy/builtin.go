package policy

import (
	"embed"
	"slices"
)

// The resolvers that every atc carries. They are modules like any other, built
// from wasm-examples; a test builds them again and compares.

//go:generate sh ../wasm-examples/build.sh

//go:embed builtin/*.wasm
var builtin embed.FS

// builtinNames are the names that Builtin knows, in the order of the alphabet.
var builtinNames = [...]string{"path-prefix", "subdomain"}

// BuiltinNames lists the names that [Builtin] knows.
func BuiltinNames() []string { return slices.Clone(builtinNames[:]) }

// Builtin returns the module of a built-in resolver:
//
//	subdomain    acme.example.com        config domain = "example.com, example.org"
//	path-prefix  example.com/t/acme/x    config prefix = "/t/" (default "/")
func Builtin(name string) (wasm []byte, ok bool) {
	if !slices.Contains(builtinNames[:], name) {
		return nil, false
	}
	wasm, err := builtin.ReadFile("builtin/" + name + ".wasm")
	return wasm, err == nil
}
