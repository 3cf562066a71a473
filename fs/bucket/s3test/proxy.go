package s3test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// This file defines the proxy: every request to the server waits for a given
// time, as it would on its way to a store that is far away, and some are answered
// 503. What breaks connections is in network.go. A proxy of HTTP and not of
// bytes, because a latency belongs to a request, and many of them share a
// connection.

// Proxy is an HTTP server on 127.0.0.1 in front of another one. Its methods may
// be called concurrently.
type Proxy struct {
	target  *url.URL
	network *network
	server  *http.Server
	forward *httputil.ReverseProxy
	serving sync.WaitGroup

	mu         sync.Mutex // protects what follows
	latency    time.Duration
	share      float64
	retryAfter time.Duration
	random     *rand.Rand
	counts     ProxyCounts
}

// ProxyCounts are what a proxy was asked for, repeated attempts counted again.
type ProxyCounts struct {
	Requests  int64 // all
	Throttled int64 // of these, answered 503
}

// NewProxy begins to serve in front of endpoint, "http://host:port", without any
// latency. Close ends it.
func NewProxy(endpoint string) (*Proxy, error) {
	target, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p := &Proxy{target: target, random: rand.New(rand.NewPCG(1, 1))}
	p.forward = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is signed
		},
		Transport: &http.Transport{
			MaxIdleConns: 1024, MaxIdleConnsPerHost: 1024, IdleConnTimeout: time.Minute,
			DisableCompression: true,
			ReadBufferSize:     64 << 10, WriteBufferSize: 64 << 10,
		},
		BufferPool:   new(buffers),
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	p.server = &http.Server{Handler: p, ErrorLog: silent}
	if p.network, err = newNetwork(); err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p.serving.Go(func() { _ = p.server.Serve(p.network) })
	return p, nil
}

// Slow puts a proxy with a latency in front of the store that Start returned, and
// returns the store's URL behind it. It ends with the test.
func Slow(t testing.TB, store string, latency time.Duration) string {
	t.Helper()
	u, err := url.Parse(store)
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewProxy(u.Query().Get("endpoint"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	p.SetLatency(latency)
	return p.Through(store)
}

// Endpoint is where the proxy is reached.
func (p *Proxy) Endpoint() string { return "http://" + p.network.address }

// Through returns the URL of a store, as [Server.URL], with the proxy in the way.
func (p *Proxy) Through(store string) string {
	return strings.Replace(store, p.target.String(), p.Endpoint(), 1)
}

// SetLatency sets how long each request waits before it goes to the server.
func (p *Proxy) SetLatency(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.latency = d
}

// Throttle answers a share of the requests, from 0 to 1, with 503 and a
// Retry-After of whole seconds. Which ones is the same in every run.
func (p *Proxy) Throttle(share float64, retryAfter time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.share, p.retryAfter = share, retryAfter
}

// Counts is what the proxy was asked for until now.
func (p *Proxy) Counts() ProxyCounts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts
}

// Cut breaks the network in the given way until Heal.
func (p *Proxy) Cut(how Break) { p.network.set(how) }

// Heal mends the network.
func (p *Proxy) Heal() { p.network.set(Whole) }

// Close ends the proxy and the connections through it.
func (p *Proxy) Close() {
	p.network.set(Reset)
	_ = p.server.Close()
	p.serving.Wait()
	p.forward.Transport.(*http.Transport).CloseIdleConnections()
}

// slowDown is what S3 says to whom it throttles.
const slowDown = `<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>`

// ServeHTTP takes one request through.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.counts.Requests++
	latency, retryAfter := p.latency, p.retryAfter
	throttled := p.share > 0 && p.random.Float64() < p.share
	if throttled {
		p.counts.Throttled++
	}
	p.mu.Unlock()
	if latency > 0 {
		timer := time.NewTimer(latency)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return
		}
	}
	if throttled {
		w.Header().Set("Content-Type", "application/xml")
		w.Header().Set("Retry-After", fmt.Sprint(int(retryAfter.Seconds())))
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte(slowDown))
		return
	}
	p.forward.ServeHTTP(w, r)
}

// buffers are what bodies are copied through: large ones, since bandwidth is not
// what a proxy here takes away.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if buf, ok := b.pool.Get().(*[]byte); ok {
		return *buf
	}
	return make([]byte, 256<<10)
}

func (b *buffers) Put(buf []byte) { b.pool.Put(&buf) }
