// This file declares what the proxy asks of the rest of atc: which tenant a
// request belongs to, whether that tenant exists, and a process to send it to.
// It also checks the answers, because a resolver is somebody else's code.

package proxy

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"atc/fs/errors"
	"atc/fs/tenant/tenantid"
)

// Resolver decides what becomes of a request.
type Resolver interface {
	// Resolve must not read the body or change r, and must return soon after
	// ctx ends. It is called concurrently. The status of an error is that of
	// its kind; its text is logged and never shown to the client.
	Resolve(ctx context.Context, r *http.Request) (Decision, error)
}

// Decision is a resolver's answer: either a tenant, or a status to answer
// right away. Both or neither is an error.
type Decision struct {
	Tenant string // whose request it is
	App    string // which of the operator's applications; empty: the default one

	// Path, if not empty, replaces the path: absolute and in its escaped form
	// (as [url.URL.EscapedPath] gives it), without a query.
	Path string
	// SetHeader is set on the request that the application gets.
	SetHeader []Header

	Status   int    // 200 to 599
	Location string // for a redirect
	Body     string // plain text
}

// Header is one header field.
type Header struct{ Name, Value string }

// Tenants knows which tenants there are.
type Tenants interface {
	// Exists is asked once a request, before anything is opened or started for
	// the tenant, so it has to be cheap. id is well-formed. It is called
	// concurrently and returns soon after ctx ends.
	Exists(ctx context.Context, id string) (bool, error)
}

// Instances gives out running processes.
type Instances interface {
	// Acquire returns the tenant's running instance, after starting it and
	// waiting until it is ready where there is none. It returns soon after ctx
	// ends, which must not abort a start that others wait for. A full queue is
	// an error of kind Unavailable. It is called concurrently.
	Acquire(ctx context.Context, tenant, app string) (Instance, error)
}

// Instance is a lease on one running process of one tenant.
type Instance interface {
	// ID names this run of this process: no later run, and no other tenant's,
	// has the same. Kept-alive connections are pooled under it.
	ID() string
	// Dial opens a connection to the application. It is called concurrently,
	// and may be called or still be running shortly after Release, because a
	// connection is dialled for whoever needs it first; it must then reach the
	// same run or fail.
	Dial(ctx context.Context) (net.Conn, error)
	// Release ends the lease; it is called once. Connections that were dialled
	// may stay open for a few idle seconds and must not count as use.
	Release()
}

// route finds the decision for a request and checks it. A tenant in the answer
// is well-formed and exists.
func (p *Proxy) route(ctx context.Context, r *http.Request) (Decision, error) {
	d, err := p.opt.Resolver.Resolve(ctx, r)
	if err != nil {
		return Decision{}, fmt.Errorf("resolving the request: %w", err)
	}
	if err := d.check(); err != nil {
		return Decision{}, fmt.Errorf("the resolver's decision: %w", err)
	}
	if d.Status != 0 {
		return d, nil
	}
	if err := tenantid.Check(d.Tenant); err != nil {
		return Decision{}, err
	}
	ok, err := p.opt.Tenants.Exists(ctx, d.Tenant)
	if err != nil {
		return Decision{}, fmt.Errorf("looking up the tenant: %w", err)
	}
	if !ok {
		return Decision{}, errors.E("look up tenant", d.Tenant, errors.NotExist, nil)
	}
	return d, nil
}

// check refuses contradictions and whatever would let a resolver's answer break
// out of its field. It is of no kind (500): the fault is the operator's.
func (d *Decision) check() error {
	switch {
	case d.Tenant == "" && d.Status == 0:
		return fmt.Errorf("names neither a tenant nor a status")
	case d.Tenant != "" && d.Status != 0:
		return fmt.Errorf("names both a tenant and a status")
	case d.Status != 0 && (d.Status < 200 || d.Status > 599):
		return fmt.Errorf("status %d is not one of 200 to 599", d.Status)
	case !validValue(d.Location):
		return fmt.Errorf("location %q has a control character", d.Location)
	}
	if d.Path != "" {
		if u, err := url.ParseRequestURI(d.Path); err != nil || !strings.HasPrefix(d.Path, "/") || u.RawQuery != "" || checkPath(u) != nil {
			return fmt.Errorf("path %q is not an absolute, escaped path without a query", d.Path)
		}
	}
	for _, h := range d.SetHeader {
		if !validName(h.Name) || !validValue(h.Value) {
			return fmt.Errorf("set-header %q: malformed", h.Name)
		}
		if framing(h.Name) || sameName(h.Name, tenantHeader) {
			return fmt.Errorf("set-header %q: this header cannot be set", h.Name)
		}
	}
	return nil
}
