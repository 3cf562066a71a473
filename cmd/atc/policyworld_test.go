package main

import (
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"atc/fs/bucket"
	"atc/fs/errors"
	"atc/fs/volume"
	"atc/policy"
)

// fakeStore is a store of tenants that takes a while to answer, and remembers
// what it was asked for as a volume does.
type fakeStore struct {
	takes time.Duration

	mu     sync.Mutex
	known  map[string]bool
	there  map[string]bool
	asked  []time.Time // requests
	broken error
}

func (s *fakeStore) Known(id string) (bool, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[id], s.known[id]
}

func (s *fakeStore) Exists(ctx context.Context, id string) (bool, error) {
	s.request()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[id] = s.there[id]
	return s.there[id], s.broken
}

func (s *fakeStore) IDs(context.Context) ([]string, error) {
	s.mu.Lock()
	n := len(s.there)
	s.mu.Unlock()
	for range n/listPage + 1 {
		s.request()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for id := range s.there {
		ids = append(ids, id)
	}
	return ids, s.broken
}

func (s *fakeStore) request() {
	s.mu.Lock()
	s.asked = append(s.asked, time.Now())
	s.mu.Unlock()
	time.Sleep(s.takes)
}

// most is the largest number of requests within one second.
func (s *fakeStore) most() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortFunc(s.asked, time.Time.Compare)
	most := 0
	for i, at := range s.asked {
		n := i
		for n < len(s.asked) && s.asked[n].Sub(at) < time.Second {
			n++
		}
		most = max(most, n-i)
	}
	return most
}

func newFakeStore(ids ...string) *fakeStore {
	s := &fakeStore{takes: 20 * time.Millisecond, known: map[string]bool{}, there: map[string]bool{}}
	for _, id := range ids {
		s.there[id] = true
	}
	return s
}

// 10,000 invented names in ten seconds cost a few requests a second, and
// tenants are found among them, those that nobody has visited yet too.
func TestInventedNamesCostFewRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore("acme", "globex")
		s.known["acme"] = true
		d := newDirectory(s, time.Now)
		defer d.close()
		exists := func(id string, want bool) {
			if ok, err := d.Exists(t.Context(), id); err != nil || ok != want {
				t.Errorf("%s: %v, %v", id, ok, err)
			}
		}
		for i := range 1000 {
			var all sync.WaitGroup
			for j := range 10 {
				all.Go(func() { exists(fmt.Sprintf("invented-%d-%d", i, j), false) })
			}
			began := time.Now()
			exists("acme", true)
			if took := time.Since(began); took > 0 {
				t.Errorf("a known tenant waited for %v", took)
			}
			if i == 500 {
				exists("globex", true)
			}
			all.Wait()
			time.Sleep(10 * time.Millisecond)
		}
		if n, most := len(s.asked), s.most(); n > lookupBurst+10*lookupRate+10 || most > lookupBurst+lookupRate+2 {
			t.Errorf("%d requests, at most %d in one second", n, most)
		}
		s.there["new"] = true // on another machine
		time.Sleep(listEvery)
		exists("new", true)
	})
}

func TestManyTenantsAreListedLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		for i := range 100 * listPage {
			s.there[fmt.Sprint("t", i)] = true
		}
		d := newDirectory(s, time.Now)
		defer d.close()
		for i := range 6000 { // a minute
			if ok, err := d.Exists(t.Context(), fmt.Sprint("invented-", i)); ok || err != nil {
				t.Fatal(ok, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n := len(s.asked); n > 60*2*lookupRate+2*100 {
			t.Errorf("%d requests in a minute", n)
		}
	})
}

// Who waits for the same tenant waits for one request, and leaves when it wants.
func TestOneRequestForManyCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore("acme")
		d := newDirectory(s, time.Now)
		defer d.close()
		short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := d.Exists(short, "acme"); !errors.Is(errors.Unavailable, err) {
				t.Errorf("who left: %v", err)
			}
		})
		synctest.Wait()
		for range 100 {
			all.Go(func() {
				if ok, err := d.Exists(t.Context(), "acme"); !ok || err != nil {
					t.Error(ok, err)
				}
			})
		}
		all.Wait()
		if len(s.asked) != 1 {
			t.Errorf("%d requests", len(s.asked))
		}
	})
}

// A store that fails is not asked more often for it.
func TestBrokenStoreIsNotAskedMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.takes = 0
		s.broken = errors.E("get", "x", errors.Unavailable, nil)
		d := newDirectory(s, time.Now)
		defer d.close()
		for i := range 1000 {
			if _, err := d.Exists(t.Context(), fmt.Sprint("t", i)); !errors.Is(errors.Unavailable, err) {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n := len(s.asked); n > lookupBurst+10*lookupRate+10 {
			t.Errorf("%d requests in ten seconds", n)
		}
	})
}

// slow is a bucket that takes its time for tenants' records and listings.
type slow struct {
	bucket.Bucket
	takes    time.Duration
	requests atomic.Int64
}

func (s *slow) Get(ctx context.Context, key string) (io.ReadCloser, bucket.Info, error) {
	s.requests.Add(1)
	time.Sleep(s.takes)
	return s.Bucket.Get(ctx, key)
}

func (s *slow) List(ctx context.Context, prefix string, o bucket.ListOptions) iter.Seq2[bucket.Entry, error] {
	s.requests.Add(1)
	time.Sleep(s.takes)
	return s.Bucket.List(ctx, prefix, o)
}

// The same through a resolver, with a real volume on a slow store: known tenants
// are answered at once while names are invented.
func TestInventedHostsDoNotSlowDownKnownTenants(t *testing.T) {
	const takes = 300 * time.Millisecond
	dir := t.TempDir()
	opened, err := bucket.Open(t.Context(), "file://"+dir+"/bucket")
	if err != nil {
		t.Fatal(err)
	}
	b := &slow{Bucket: opened, takes: takes}
	v, err := volume.Open(t.Context(), volume.Options{Bucket: b, Cache: dir + "/cache"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := v.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	if _, err := v.Create(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	d := newDirectory(v, time.Now)
	defer d.close()
	wasm, _ := policy.Builtin("canary")
	r, err := policy.Load(t.Context(), wasm, policy.Options{
		World: world{d, "m", ""}, Logger: slog.New(slog.DiscardHandler), Deadline: 20 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close(context.Background())

	ask := func(host string) int {
		got, err := r.Resolve(t.Context(), policy.Request{Method: "GET", Scheme: "http", Host: host, Path: "/", Remote: "192.0.2.1:1"})
		switch {
		case err != nil:
			t.Errorf("%s: %v", host, err)
		case got.Tenant != "":
			return http.StatusOK
		}
		return got.Status
	}
	before, began := b.requests.Load(), time.Now()
	var invented, absent atomic.Int64
	var all sync.WaitGroup
	done := make(chan struct{})
	for range 64 {
		all.Go(func() {
			for {
				n := invented.Add(1)
				if n > 2000 {
					return
				}
				if ask(fmt.Sprintf("invented-%d.localhost", n)) == http.StatusNotFound {
					absent.Add(1)
				}
			}
		})
	}
	go func() { all.Wait(); close(done) }()
	var times []time.Duration
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(5 * time.Millisecond):
			at := time.Now()
			if got := ask("acme.localhost"); got != http.StatusOK {
				t.Fatalf("a known tenant is answered %d", got)
			}
			times = append(times, time.Since(at))
		}
	}
	took := time.Since(began)
	slices.Sort(times)
	median, requests := times[len(times)/2], b.requests.Load()-before
	t.Logf("%v, %d requests, %d of 2000 told that there is no such tenant; known tenants: median %v, longest %v of %d",
		took, requests, absent.Load(), median, times[len(times)-1], len(times))
	if median > takes/3 {
		t.Errorf("a known tenant waited for %v", median)
	}
	if most := lookupBurst + int64(2*lookupRate*(took.Seconds()+1)); requests > most {
		t.Errorf("%d requests in %v: at most %d", requests, took, most)
	}
	if absent.Load() < 1800 {
		t.Errorf("only %d of 2000 were told that there is no such tenant", absent.Load())
	}
}

// What the volume says of its tenants is what a resolver has to forget.
func TestVolumeTellsOfItsTenants(t *testing.T) {
	dir := t.TempDir()
	b, err := bucket.Open(t.Context(), "file://"+dir+"/bucket")
	if err != nil {
		t.Fatal(err)
	}
	v, err := volume.Open(t.Context(), volume.Options{Bucket: b, Cache: dir + "/cache"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := v.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	var mu sync.Mutex
	var told []string
	v.OnChange(func(id string) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, id)
	})
	tellsOf := func(what, id string, do func() error) {
		t.Helper()
		mu.Lock()
		told = nil
		mu.Unlock()
		if err := do(); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if !slices.Contains(told, id) {
			t.Errorf("%s: told of %q", what, told)
		}
	}
	tellsOf("made", "acme", func() error { _, err := v.Create(t.Context(), "acme"); return err })
	tellsOf("removed", "acme", func() error { return v.Remove(t.Context(), "acme") })
	tellsOf("made again", "acme", func() error { _, err := v.Create(t.Context(), "acme"); return err })
}
