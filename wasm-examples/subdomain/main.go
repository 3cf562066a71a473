//go:build wasip1

// Command subdomain is a resolver: acme.example.com is the tenant acme.
//
// Its configuration is domain, one or several with commas between them:
// "example.com, example.org". Ports and a trailing dot in the Host header are
// ignored, upper case is lower case. Where domains overlap the longest counts.
package main

import (
	"errors"
	"strings"

	"atc/wasm-examples/go/guest"
)

//go:wasmexport resolve
func resolve() int32 { return guest.Resolve(route) }

func main() {}

// domains is the configuration, read by the first request.
var domains []string

func route(r guest.Request) (guest.Decision, error) {
	if domains == nil {
		for domain := range strings.SplitSeq(guest.Config().Get("domain"), ",") {
			if domain = lower(hostname(strings.TrimSpace(domain))); domain != "" {
				domains = append(domains, domain)
			}
		}
		if domains == nil {
			return guest.Decision{}, errors.New(`config domain is missing: domain = "example.com"`)
		}
	}
	host := hostname(r.Host())
	id, domain := split(host)
	if !guest.ValidID(id) { // most hosts come in lower case: a loop saved
		id, domain = split(lower(host))
	}
	switch {
	case domain == "":
		return guest.NotFound("This host name is not served here."), nil
	case id == "" || strings.Contains(id, "."):
		return guest.NotFound("No tenant in this host name: it has the form <tenant>." + domain), nil
	case !guest.ValidID(id):
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
	return guest.Decision{Tenant: id}, nil
}

// split takes the longest domain off a host name. Both parts are empty where
// the name is in none.
func split(host string) (id, domain string) {
	for _, d := range domains {
		n := len(host) - len(d)
		if n < 0 || len(d) <= len(domain) || host[n:] != d {
			continue
		}
		if n == 0 {
			id, domain = "", d
		} else if host[n-1] == '.' {
			id, domain = host[:n-1], d
		}
	}
	return id, domain
}

// hostname is a Host header's name without its port and the dot that ends a
// full name. Of an IPv6 address nothing is left that could be in a domain.
func hostname(host string) string {
	if i := strings.IndexByte(host, ':'); i >= 0 {
		host = host[:i]
	}
	return strings.TrimSuffix(host, ".")
}

// lower is strings.ToLower for A to Z only: there the Kelvin sign becomes a k,
// and two host names the same tenant.
func lower(s string) string {
	for i := range len(s) {
		if s[i]-'A' < 26 {
			b := []byte(s)
			for ; i < len(b); i++ {
				if b[i]-'A' < 26 {
					b[i] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}
