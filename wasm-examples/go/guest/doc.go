// Package guest lets a resolver for atc be written in Go in ten lines.
//
//	//go:build wasip1
//
//	package main
//
//	import "atc/wasm-examples/go/guest"
//
//	//go:wasmexport resolve
//	func resolve() int32 { return guest.Resolve(route) }
//
//	func route(r guest.Request) (guest.Decision, error) {
//		if id := r.Header("x-tenant"); id != "" {
//			return guest.Decision{Tenant: id}, nil
//		}
//		return guest.NotFound("Send the header X-Tenant."), nil
//	}
//
//	func main() {}
//
// Build it with
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o resolver.wasm .
//
// The package is a thin layer over the ABI atc_v1: it reads the request, writes
// the decision, and asks for tenants, machines and the configuration.
//
// # Limitations
//
// An instance of a Go resolver serves many requests, one after the other, so a
// package variable that one request writes is seen by the next: keep there only
// what does not depend on the request. The strings of a [Request] are views of
// a buffer that the next request overwrites: clone what must live longer.
//
// The clock stands still, there are no files, no environment and no network.
// Packages such as fmt and encoding/json work; they cost 0.5 to 1.5 MB of
// module and time in each call.
package guest
