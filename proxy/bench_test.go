package proxy_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"atc/proxy"
)

// BenchmarkProxy answers GETs of 1 KiB for 32 kept-alive client connections:
// the application alone, httputil.ReverseProxy with a tuned transport and
// nothing else ("bare"), and this proxy without and with its access log, in
// seven interleaved rounds. Client, proxy and application share the process, so
// only the median ratios mean something. Use -benchtime=50000x or more.
func BenchmarkProxy(b *testing.B) {
	app := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, kib)
	})
	f := newFleet(b, map[string]http.Handler{"acme": app})
	f.runs.Store(1) // the next run listens on TCP
	instance, err := f.Acquire(context.Background(), "acme", "")
	if err != nil {
		b.Fatal(err)
	}
	defer instance.Release()
	direct := f.current("acme").addr.String()

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	target := &url.URL{Scheme: "http", Host: direct}
	transport := &http.Transport{MaxIdleConns: 1024, MaxIdleConnsPerHost: 64, DisableCompression: true}
	pool := &sync.Pool{New: func() any { return new([32 << 10]byte) }}
	bare := &http.Server{Handler: &httputil.ReverseProxy{
		Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(target); r.SetXForwarded(); r.Out.Host = r.In.Host },
		Transport:  transport,
		BufferPool: buffers{pool},
	}}
	go bare.Serve(l)
	defer transport.CloseIdleConnections()
	defer bare.Close()

	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	quiet := serve(b, f, proxy.Options{})
	logged := serve(b, f, proxy.Options{AccessLog: true, Logger: slog.New(slog.NewJSONHandler(null, nil))})

	targets := []struct{ name, addr string }{
		{"app", direct}, {"bare", l.Addr().String()}, {"atc", quiet.addr}, {"atc+log", logged.addr},
	}
	const rounds = 7
	perRound := max(b.N/rounds, 500)
	wall := make([][]float64, len(targets)) // microseconds a request, one entry a round
	cpu := make([][]float64, len(targets))
	for range rounds {
		for i, target := range targets {
			began, used := time.Now(), cpuTime(b)
			load(b, target.addr, perRound)
			wall[i] = append(wall[i], float64(time.Since(began).Microseconds())/float64(perRound))
			cpu[i] = append(cpu[i], float64((cpuTime(b)-used).Microseconds())/float64(perRound))
		}
	}
	for i, target := range targets {
		b.ReportMetric(1e6/median(wall[i]), target.name+"-req/s")
		b.ReportMetric(median(cpu[i]), target.name+"-cpu-us/req")
	}
	for i := range rounds {
		wall[0][i], wall[3][i] = wall[1][i]/wall[2][i], wall[1][i]/wall[3][i]
	}
	b.ReportMetric(median(wall[0]), "atc/bare")
	b.ReportMetric(median(wall[3]), "atc+log/bare")
	b.ReportMetric(0, "ns/op")
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// cpuTime is what the whole process has used: client, proxy and application.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

var kib = strings.Repeat("k", 1024)

type buffers struct{ *sync.Pool }

func (p buffers) Get() []byte  { return p.Pool.Get().(*[32 << 10]byte)[:] }
func (p buffers) Put(b []byte) { p.Pool.Put((*[32 << 10]byte)(b)) }

// load sends n requests over 32 connections with as little work as it can.
func load(b *testing.B, addr string, n int) {
	const clients = 32
	const request = "GET /some/path HTTP/1.1\r\nHost: acme.example.com\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
	tickets := make(chan struct{}, clients)
	var wg sync.WaitGroup
	for range clients {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		wg.Go(func() {
			r := bufio.NewReader(conn)
			for range tickets {
				if _, err := io.WriteString(conn, request); err != nil {
					b.Error(err)
					return
				}
				for first := true; ; first = false {
					line, err := r.ReadSlice('\n')
					if err != nil || first && string(line) != "HTTP/1.1 200 OK\r\n" {
						b.Errorf("%q %v", line, err)
						return
					}
					if len(line) == 2 {
						break
					}
				}
				if _, err := r.Discard(len(kib)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	for range n {
		tickets <- struct{}{}
	}
	close(tickets)
	wg.Wait()
}
