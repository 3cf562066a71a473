package s3test_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/url"
	"sync"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/bucket/buckettest"
	"atc/fs/bucket/s3test"
	"atc/fs/errors"
)

// behind opens a store behind a proxy, and the same store without it.
func behind(t *testing.T) (p *s3test.Proxy, through, direct bucket.Bucket) {
	t.Helper()
	store := s3test.Start(t)
	u, err := url.Parse(store)
	if err != nil {
		t.Fatal(err)
	}
	if p, err = s3test.NewProxy(u.Query().Get("endpoint")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	open := func(url string) bucket.Bucket {
		b, err := bucket.Open(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	return p, open(p.Through(store)), open(store)
}

func put(ctx context.Context, b bucket.Bucket, key string, body []byte) error {
	_, err := b.Put(ctx, key, bytes.NewReader(body), bucket.PutOptions{})
	return err
}

func get(ctx context.Context, b bucket.Bucket, key string) ([]byte, error) {
	r, _, err := b.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// Behind a proxy the store is the same one, signatures and conditions included.
func TestProxyKeepsTheContract(t *testing.T) {
	store := s3test.Slow(t, s3test.Start(t), 0)
	n := 0
	buckettest.Run(t, func(t *testing.T) bucket.Bucket {
		n++
		u, err := url.Parse(store)
		if err != nil {
			t.Fatal(err)
		}
		u.Path = fmt.Sprint("/run", n)
		b, err := bucket.Open(t.Context(), u.String())
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}

func TestLatencyIsPaidByEachRequest(t *testing.T) {
	const latency, each = 20 * time.Millisecond, 10
	p, b, _ := behind(t)
	if err := put(t.Context(), b, "a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	measure := func() (sequential, parallel time.Duration) {
		began := time.Now()
		for range each {
			if _, err := get(t.Context(), b, "a"); err != nil {
				t.Fatal(err)
			}
		}
		sequential = time.Since(began) / each
		began = time.Now()
		var wg sync.WaitGroup
		for range each {
			wg.Go(func() {
				if _, err := get(t.Context(), b, "a"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		return sequential, time.Since(began)
	}
	plain, _ := measure()
	before := p.Counts().Requests
	p.SetLatency(latency)
	slow, together := measure()
	t.Logf("a request takes %v, with the latency %v; %d at once %v", plain, slow, each, together)
	if slow < latency || slow > plain+latency+15*time.Millisecond {
		t.Errorf("a request takes %v with a latency of %v, %v without", slow, latency, plain)
	}
	if together > each*latency/2 {
		t.Errorf("%d requests at once take %v: they wait for each other", each, together)
	}
	if n := p.Counts().Requests - before; n != 2*each {
		t.Errorf("%d requests were counted, want %d", n, 2*each)
	}
}

// The proxy costs latency and hardly any bandwidth: a body is delayed once.
func TestBandwidthStays(t *testing.T) {
	p, b, direct := behind(t)
	body := make([]byte, 16<<20)
	if err := put(t.Context(), b, "large", body); err != nil {
		t.Fatal(err)
	}
	p.SetLatency(20 * time.Millisecond)
	took := func(b bucket.Bucket) time.Duration {
		best := time.Hour
		for range 3 {
			began := time.Now()
			got, err := get(t.Context(), b, "large")
			if err != nil || len(got) != len(body) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			best = min(best, time.Since(began))
		}
		return best
	}
	plain, slow := took(direct), took(b)
	t.Logf("16 MiB: %v, through the proxy %v", plain, slow)
	if slow > 4*plain+200*time.Millisecond {
		t.Errorf("16 MiB take %v through the proxy, %v without", slow, plain)
	}
}

func TestBrokenNetworks(t *testing.T) {
	p, b, direct := behind(t)
	for _, how := range []s3test.Break{s3test.Refuse, s3test.Reset, s3test.Blackhole} {
		if err := put(t.Context(), b, "a", []byte("before")); err != nil {
			t.Fatal(err)
		}
		p.Cut(how)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		if _, err := get(ctx, b, "a"); !errors.Is(errors.Unavailable, err) {
			t.Errorf("%d: %v", how, err)
		}
		cancel()
		p.Heal()
		ctx, cancel = context.WithTimeout(t.Context(), 20*time.Second)
		if got, err := get(ctx, b, "a"); string(got) != "before" || err != nil {
			t.Errorf("%d, healed: %q, %v", how, got, err)
		}
		cancel()
	}
	// A request that was on its way into the black hole arrives when there is
	// none any more, whatever its sender thinks by then.
	p.SetLatency(200 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	errs := make(chan error)
	go func() { errs <- put(ctx, b, "late", []byte("x")) }()
	time.Sleep(100 * time.Millisecond) // it waits in the proxy
	p.Cut(s3test.Blackhole)
	if err := <-errs; !errors.Is(errors.Unavailable, err) {
		t.Errorf("a write into the black hole: %v", err)
	}
	p.Heal()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		got, err := get(t.Context(), direct, "late")
		if string(got) == "x" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the write whose answer was lost: %q, %v", got, err)
		}
	}
}

func TestThrottled(t *testing.T) {
	p, b, _ := behind(t)
	p.Throttle(0.3, 0)
	for n := range 20 {
		if err := put(t.Context(), b, fmt.Sprint(n), []byte("x")); err != nil {
			t.Errorf("the client does not try again: %v", err)
		}
	}
	if c := p.Counts(); c.Throttled == 0 || c.Requests != 20+c.Throttled {
		t.Errorf("%+v", c)
	}
	p.Throttle(1, time.Second)
	if err := put(t.Context(), b, "never", []byte("x")); !errors.Is(errors.Unavailable, err) {
		t.Errorf("throttled for good: %v", err)
	}
}
