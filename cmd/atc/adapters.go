package main

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"

	"atc/policy"
	"atc/proxy"
	"atc/proxy/control"
	"atc/sandbox/instance"
)

// This file lets the rooms meet that do not know each other: each type turns
// what one has into what another declares.

// resolver lets the proxy ask a policy.
type resolver struct {
	policy          *policy.Live
	region, machine string
}

var _ proxy.Resolver = resolver{}

func (r resolver) Resolve(ctx context.Context, req *http.Request) (proxy.Decision, error) {
	scheme := "http"
	if req.TLS != nil {
		scheme = "https"
	}
	d, err := r.policy.Resolve(ctx, policy.Request{
		Method: req.Method, Scheme: scheme, Host: req.Host,
		Path: req.URL.EscapedPath(), Query: req.URL.RawQuery, Remote: req.RemoteAddr,
		Region: r.region, Machine: r.machine, Header: req.Header,
	})
	if err != nil {
		return proxy.Decision{}, err
	}
	out := proxy.Decision{
		Tenant: d.Tenant, App: d.App, Path: d.Path,
		Status: d.Status, Location: d.Location, Body: d.Body,
	}
	for _, h := range d.SetHeader {
		out.SetHeader = append(out.SetHeader, proxy.Header(h))
	}
	return out, nil
}

// instances lets the proxy acquire the processes of a pool, and the control API
// see them. The control socket is there before the pool is.
type instances struct{ pool atomic.Pointer[instance.Pool] }

var (
	_ proxy.Instances   = (*instances)(nil)
	_ control.Instances = (*instances)(nil)
)

func (i *instances) set(p *instance.Pool) { i.pool.Store(p) }

func (i *instances) Acquire(ctx context.Context, tenant, _ string) (proxy.Instance, error) {
	l, err := i.pool.Load().Acquire(ctx, tenant)
	if err != nil {
		return nil, err
	}
	return leased{l}, nil
}

// Instances tells the control API about the processes.
func (i *instances) Instances(context.Context) ([]control.InstanceStat, error) {
	pool := i.pool.Load()
	if pool == nil {
		return nil, nil
	}
	var out []control.InstanceStat
	for _, s := range pool.Snapshot() {
		stat := control.InstanceStat{
			Tenant: s.Tenant, ID: s.Instance, State: control.InstanceState(s.State.String()),
			PID: s.Pid, Started: s.Since, Leases: s.InFlight, Crashes: int64(s.Crashes),
		}
		if s.Err != nil {
			stat.Error = s.Err.Error()
		}
		out = append(out, stat)
	}
	return out, nil
}

// leased is a lease as the proxy wants it.
type leased struct{ lease *instance.Lease }

func (l leased) ID() string                                 { return l.lease.Instance() }
func (l leased) Dial(ctx context.Context) (net.Conn, error) { return l.lease.Dial(ctx) }
func (l leased) Release()                                   { l.lease.Release() }
