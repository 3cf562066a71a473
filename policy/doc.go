// Package policy runs resolvers: WebAssembly modules that decide which tenant a
// request belongs to and where it should run.
//
//	wasm, _ := policy.Builtin("subdomain")
//	r, err := policy.Load(ctx, wasm, policy.Options{
//		Name:   "subdomain",
//		Config: map[string]string{"domain": "example.com"},
//		World:  tenants,
//	})
//	d, err := r.Resolve(ctx, policy.Request{Method: "GET", Host: "acme.example.com", Path: "/"})
//	// d.Tenant == "acme"
//
// # The ABI
//
// A resolver is a core WebAssembly module that exports its memory and one
// function, resolve() -> i32. It imports what it needs of six functions from
// the module "atc_v1": request to read what is asked, decide to answer it,
// tenant, machines and config to look around, log to say something. All texts
// are "key: value" lines, so that a guest needs neither an allocator nor a JSON
// library. The whole specification, from which a guest can be written in any
// language, is docs/policy-abi.md; for Go there is wasm-examples/go/guest.
//
// # What a guest cannot do
//
// A guest is a stranger: everything it hands over is checked, and nothing it
// does reaches beyond its own call.
//
//   - Memory: each instance has at most Options.MemoryLimit, tables included.
//   - Time: after Options.Deadline of its own work it is stopped and asked once
//     more, on a fresh instance; then the request fails. The time that the host
//     needs to look up a tenant has a limit of its own.
//   - Texts: a pointer or length outside of its memory, a decision of more than
//     64 KiB, an unknown, repeated or contradicting line, a CR, LF or NUL in a
//     value fail the request. A [Decision] is fit to be put into headers and
//     addresses as it is.
//   - World: WASI is there so that a language's runtime starts, but shows no
//     arguments, environment, files or time.
//   - Noise: 16 log lines of 1,024 bytes for each request, 16 lookups.
//
// An instance of a small guest serves one request and is thrown away. One of a
// large guest, which is one with a language runtime such as Go's, is used again
// but never after an error, of which kind ever.
//
// # Limitations
//
// The deadline is checked at loop headers. A guest of nothing but nested calls,
// without a loop, runs until it ends: Close and its own request wait for it, and
// it occupies one of Options.Instances. So a module must come from somebody who
// is trusted not to do this on purpose, or run in processes of its own:
// Options.Isolation. There each worker compiles the module for itself (0.7 s for a
// Go guest) and nothing filters its system calls yet.
//
// A Go guest's package variables outlive a request. What one request leaves
// there, the next one may see.
//
// Options.Instances calls run at a time, and four times as many may wait for the
// World. Beyond that, tenants that nobody knows hold up those that are known.
//
// A decision that is kept answers requests that the guest has not seen. What
// else changes than the tenants it rests on, such as the machines, is noticed
// when its time is up.
package policy
