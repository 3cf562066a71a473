// Package proxy is the HTTP front of atc: it takes requests for all tenants on
// one listener and hands each to the application process of its own tenant.
//
// A request passes through these steps, one file each:
//
//	limits.go    refuses what is malformed, before anybody else sees it
//	route.go     asks the [Resolver] for a decision, and whether the tenant exists
//	proxy.go     acquires the tenant's [Instance], which starts it if need be
//	headers.go   says who the client was and which tenant this is
//	forward.go   sends the request over the instance's connection
//	failure.go   turns what went wrong into a status and a small page
//	accesslog.go writes one line
//
// The heavy lifting (hop-by-hop headers, streaming, trailers, switching to
// WebSockets) is net/http/httputil's. What a request needs from the rest of atc
// comes through the three small interfaces in route.go.
//
//	p := proxy.New(proxy.Options{
//		Resolver:  resolver,
//		Tenants:   tenants,
//		Instances: instances,
//		Logger:    slog.Default(),
//	})
//	err := p.Serve(ctx, listener) // until ctx ends, then drains
//
// # What an application can rely on
//
// Host, the query and the escaped path arrive as the client sent them (the path
// unless the decision rewrote it). Atc-Tenant names the tenant. X-Forwarded-For,
// -Proto, -Host, -Port and X-Real-Ip describe the client; what a client wrote
// into them itself is dropped, also in spellings such as X_Forwarded_For that
// CGI, Rack and WSGI cannot tell from the real name. X-Request-Id is the
// client's if it is well-formed, else a new one. Forwarded is always dropped:
// most proxies pass it through unseen, and some frameworks prefer it.
//
// # Isolation
//
// A kept-alive connection belongs to one run of one instance and is never used
// for another. Only WebSocket upgrades are passed on: after any other switch
// (h2c, for one) a client would speak to the application past everything above.
//
// # Limitations
//
// HTTP/1.1 in both directions. Upgrades other than "websocket" are answered as
// ordinary requests. A request that is not safe to repeat and meets a connection
// in the moment that the application closes it is answered 502. After an answer
// that began before its request's body had ended, the client's connection is
// closed. A draining WebSocket ends without a closing handshake.
package proxy
