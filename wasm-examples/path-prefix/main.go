//go:build wasip1

// Command path-prefix is a resolver: /t/acme/x is the path /x of the tenant
// acme.
//
// Its configuration is prefix, what stands before the tenant: "/t/", by default
// "/". The application learns what was taken off its path from the header
// X-Forwarded-Prefix. A tenant is recognised only as it is spelled: neither
// %61cme nor Acme is acme.
package main

import (
	"strings"

	"atc/wasm-examples/go/guest"
)

//go:wasmexport resolve
func resolve() int32 { return guest.Resolve(route) }

func main() {}

func route(r guest.Request) (guest.Decision, error) {
	prefix := "/" + strings.Trim(guest.Config().Get("prefix"), "/") + "/"
	if prefix == "//" {
		prefix = "/"
	}
	rest, ok := strings.CutPrefix(r.Path(), prefix)
	id, path, _ := strings.Cut(rest, "/")
	if !ok || id == "" {
		return guest.NotFound("No tenant in this path: it has the form " + prefix + "<tenant>/"), nil
	}
	if !guest.ValidID(id) {
		return guest.NotFound("This cannot be a tenant: " + guest.IDRule), nil
	}
	_, ok, err := guest.Tenant(id)
	switch {
	case err != nil:
		return guest.Decision{
			Status: 503, Body: "The list of tenants cannot be read at the moment.",
			Set: []guest.Header{{Name: "retry-after", Value: "1"}},
		}, nil
	case !ok:
		return guest.NotFound("There is no such tenant."), nil
	}
	return guest.Decision{
		Tenant: id,
		Path:   "/" + path,
		Set:    []guest.Header{{Name: "x-forwarded-prefix", Value: prefix + id}},
	}, nil
}
