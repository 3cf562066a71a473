// This file is the proxy itself: its options, and the steps of one request from
// the first check to the end of the answer. Each step has its own file.

package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
	"time"
)

// Options is what a proxy is made of. Zero limits and durations mean the
// default named beside them.
type Options struct {
	Resolver  Resolver
	Tenants   Tenants
	Instances Instances
	Logger    *slog.Logger // nil: discard

	// AccessLog writes one line for each request at level Info. Failures with
	// a status of 500 or more are logged at level Warn without it too.
	AccessLog bool

	// TrustedProxies are the peers whose X-Forwarded-* headers are believed.
	// Default: nobody.
	TrustedProxies []netip.Prefix

	MaxHeaderBytes int // request line and headers; default 64 KiB, answered 431
	MaxURIBytes    int // request target; default 16 KiB, answered 414

	StartTimeout    time.Duration // decision, lookup and waiting for an instance; default 60 s, answered 504
	DialTimeout     time.Duration // connecting to a running instance; default 5 s
	ResponseTimeout time.Duration // from the sent request to the answer's headers; default 60 s, answered 504

	// UpstreamIdle is how long an unused connection to an instance is kept;
	// default 4 s. It is below the 5 s after which common application servers
	// close theirs, so that we do it first and no request meets a closing
	// connection; dialling anew costs tens of microseconds.
	UpstreamIdle time.Duration

	ReadHeaderTimeout time.Duration // a client's request line and headers; default 10 s
	ClientIdle        time.Duration // a client's unused connection; default 2 min
	DrainTimeout      time.Duration // see Serve; default 30 s
}

func (o *Options) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&o.MaxHeaderBytes, 64<<10)
	setDefault(&o.MaxURIBytes, 16<<10)
	setDefault(&o.StartTimeout, 60*time.Second)
	setDefault(&o.DialTimeout, 5*time.Second)
	setDefault(&o.ResponseTimeout, 60*time.Second)
	setDefault(&o.UpstreamIdle, 4*time.Second)
	setDefault(&o.ReadHeaderTimeout, 10*time.Second)
	setDefault(&o.ClientIdle, 2*time.Minute)
	setDefault(&o.DrainTimeout, 30*time.Second)
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Proxy is an http.Handler that forwards each request to its tenant's instance.
// It may be used by several servers at once.
type Proxy struct {
	opt       Options
	upstream  *upstream
	forwarder *httputil.ReverseProxy
}

var _ http.Handler = (*Proxy)(nil)

// New makes a proxy. It panics if Resolver, Tenants or Instances is nil.
func New(opt Options) *Proxy {
	if opt.Resolver == nil || opt.Tenants == nil || opt.Instances == nil {
		panic("proxy: Resolver, Tenants and Instances are required")
	}
	opt.setDefaults()
	p := &Proxy{opt: opt}
	p.upstream = newUpstream(&p.opt)
	p.forwarder = &httputil.ReverseProxy{
		Rewrite:       p.rewrite,
		Transport:     p.upstream,
		ErrorHandler:  p.forwardFailed,
		ErrorLog:      slog.NewLogLogger(opt.Logger.Handler(), slog.LevelDebug),
		BufferPool:    newBufferPool(),
		FlushInterval: flushInterval,
	}
	return p
}

// flushInterval bounds how long a piece of an answer of known length may stay
// in a buffer. Event streams and answers of unknown length are flushed at once.
const flushInterval = 20 * time.Millisecond

// Close drops the idle connections to instances. Requests that are under way
// are not affected; Serve is what ends them.
func (p *Proxy) Close() { p.upstream.transport.CloseIdleConnections() }

// exchange is one request and what has been found out about it. It belongs to
// the request's own goroutine.
type exchange struct {
	id       string
	began    time.Time
	decision Decision
	instance Instance     // the lease; nil before it is acquired
	held     bool         // the lease has to be released
	body     *requestBody // what the application is sent; nil if there is none
	err      error        // what the client was not told
	status   int          // answered by the proxy itself; 0: by the application
}

// release ends the lease, if one is held.
func (x *exchange) release() {
	if x.held {
		x.held = false
		x.instance.Release()
	}
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// ServeHTTP handles one request. It returns when the answer has been sent, or
// when an upgraded connection has ended.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{id: requestID(r), began: time.Now()}
	rec := &recorder{ResponseWriter: w, withBody: r.ContentLength != 0, x: x}
	finished := false
	defer func() { p.logAccess(r, x, rec, finished) }() // also when httputil panics to abort an answer
	if err := p.serve(rec, r, x); err != nil {
		p.fail(rec, r, x, err)
	}
	finished = true
}

func (p *Proxy) serve(w *recorder, r *http.Request, x *exchange) error {
	if err := p.checkRequest(r); err != nil {
		return err
	}
	limitUpgrade(r)
	ready, err := p.prepare(r, x)
	if err != nil {
		return err
	}
	if !ready {
		answer(w, x.decision)
		return nil
	}
	defer x.release()
	p.forwarder.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x)))
	return nil
}

// prepare finds the decision and, if it names a tenant, takes the lease; both
// within StartTimeout.
func (p *Proxy) prepare(r *http.Request, x *exchange) (ready bool, err error) {
	ctx, cancel := context.WithTimeout(r.Context(), p.opt.StartTimeout)
	defer cancel()
	x.decision, err = p.route(ctx, r)
	if err == nil && x.decision.Status == 0 {
		ready, err = true, p.upstream.acquire(ctx, x)
	}
	if err != nil && ctx.Err() != nil && r.Context().Err() == nil {
		err = &statusError{status: http.StatusGatewayTimeout, err: err}
	}
	return ready, err
}

// answer sends what the resolver decided instead of a tenant.
func answer(w http.ResponseWriter, d Decision) {
	if d.Location != "" {
		w.Header().Set("Location", d.Location)
	}
	if d.Body != "" {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
	}
	w.WriteHeader(d.Status)
	fmt.Fprint(w, d.Body) // a client that is gone has nothing to be told
}

// limitUpgrade leaves a request for a WebSocket alone, and makes any other
// upgrade an ordinary request, as RFC 9110 allows: see Isolation in the
// package's comment.
func limitUpgrade(r *http.Request) {
	values := r.Header["Upgrade"]
	if len(values) == 1 && strings.EqualFold(values[0], "websocket") && r.Method == http.MethodGet {
		return
	}
	delete(r.Header, "Upgrade")
	delete(r.Header, "Http2-Settings")
}
