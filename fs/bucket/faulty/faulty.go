// Package faulty wraps a bucket and makes chosen requests fail, for tests of
// what stands on it.
//
//	f := faulty.Wrap(b)
//	lost := f.Inject(faulty.Fault{Op: faulty.Put, Key: "tenants/*/tenant.json", Times: 1, After: errors.Unavailable})
//	...
//	if lost.Hits() != 1 { ... }
//
// The requests that no fault takes go to the wrapped bucket untouched, so a
// test runs against a real store whose faults come when the test says so. A
// test that wants them at random, and the same ones again with the same seed,
// has [Bucket.Chaos].
//
// # Limitations
//
// A fault that changes a body holds it in memory. A listing fails before its
// first entry or after its last, and cannot be mangled, cut or late. A throttled
// request fails as one does whose retries were all answered 503: for the answer
// itself, with its Retry-After, there is a proxy in bucket/s3test.
package faulty

import (
	"context"
	"strings"
	"sync"
	"time"

	"atc/fs/bucket"
	"atc/fs/errors"
)

// Op is a kind of request.
type Op string

// The requests of a bucket. A fault without an Op takes any of them.
const (
	Get      Op = "get"
	GetRange Op = "getrange"
	Put      Op = "put"
	List     Op = "list"
	Copy     Op = "copy"
	Delete   Op = "delete"
)

// Fault says which requests fail and how. What it says about how happens in the
// order of the fields.
type Fault struct {
	Op    Op     // of this kind; empty for any
	Key   string // whose key (List: prefix, Copy: destination) matches, "*" standing for any run of bytes; empty for any
	Skip  int    // but let so many of them pass first
	Times int    // and take at most so many; 0 for all that follow

	Latency  time.Duration            // wait so long
	Block    bool                     // hang until Release, or until the request's context ends
	Throttle bool                     // fail as a store that answers 503, without asking it
	Before   errors.Kind              // fail with this kind, without asking the store; Other: do not
	Late     time.Duration            // Put, Copy, Delete: fail with Unavailable now, and ask the store so much later
	Mangle   func(body []byte) []byte // change what Put stores, or what Get and GetRange return
	Cut      int                      // Get, GetRange: fail with Unavailable after so many bytes of the body; 0: do not
	After    errors.Kind              // ask the store, then fail with this kind: its answer is lost; Other: do not
}

// Middle is a Cut in the middle of the body, whatever its length.
const Middle = -1

// Truncate is a Mangle that keeps the first n bytes.
func Truncate(n int) func([]byte) []byte {
	return func(body []byte) []byte { return body[:min(n, len(body))] }
}

// Flip is a Mangle that inverts a bit of the byte at offset, if there is one; a
// negative offset counts from the end.
func Flip(offset int) func([]byte) []byte {
	return func(body []byte) []byte {
		changed := append([]byte(nil), body...)
		if offset < 0 {
			offset += len(changed)
		}
		if offset >= 0 && offset < len(changed) {
			changed[offset] ^= 0x10
		}
		return changed
	}
}

// Bucket is a bucket with faults. Its methods may be called concurrently.
type Bucket struct {
	bucket.Bucket // what requests without a fault go to

	late sync.WaitGroup // requests that are still on their way

	mu     sync.Mutex // protects what follows, and the counts of each
	faults []*Injected
	chaos  *Chaos
}

var _ bucket.Bucket = (*Bucket)(nil)

// Wrap returns b, without faults yet.
func Wrap(b bucket.Bucket) *Bucket { return &Bucket{Bucket: b} }

// Injected is a fault in force.
type Injected struct {
	fault    Fault
	owner    *Bucket
	seen     int           // requests that matched; owner.mu
	hits     int           // of these, taken; owner.mu
	reached  chan struct{} // closed at the first hit
	released chan struct{} // closed by Release
	once     sync.Once     // for closing released
}

// Inject adds a fault. A request is taken by the first fault, in the order of
// injection, that it matches and that is not used up.
func (b *Bucket) Inject(f Fault) *Injected {
	i := &Injected{fault: f, owner: b, reached: make(chan struct{}), released: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = append(b.faults, i)
	return i
}

// Hits is how many requests the fault has taken.
func (i *Injected) Hits() int {
	i.owner.mu.Lock()
	defer i.owner.mu.Unlock()
	return i.hits
}

// Reached is closed when the fault takes its first request.
func (i *Injected) Reached() <-chan struct{} { return i.reached }

// Settle returns when all late requests have reached the store.
func (b *Bucket) Settle() { b.late.Wait() }

// Release lets the requests go on that hang, wait or are late, and holds up no
// more.
func (i *Injected) Release() { i.once.Do(func() { close(i.released) }) }

// Remove takes the fault away, and releases what it blocks.
func (i *Injected) Remove() {
	i.owner.mu.Lock()
	for n, f := range i.owner.faults {
		if f == i {
			i.owner.faults = append(i.owner.faults[:n:n], i.owner.faults[n+1:]...)
			break
		}
	}
	i.owner.mu.Unlock()
	i.Release()
}

// taken is one request in the hands of a fault.
type taken struct {
	Fault
	released <-chan struct{} // ends whatever waiting it is told to do
}

// take finds the fault for a request, or returns nil.
func (b *Bucket) take(op Op, key string) *taken {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, i := range b.faults {
		if !i.fault.takes(op, key) {
			continue
		}
		i.seen++
		if i.seen <= i.fault.Skip || i.fault.Times > 0 && i.hits >= i.fault.Times {
			continue
		}
		if i.hits++; i.hits == 1 {
			close(i.reached)
		}
		return &taken{i.fault, i.released}
	}
	if b.chaos != nil {
		return b.chaos.take(op, key)
	}
	return nil
}

// takes reports whether a fault is for such requests.
func (f *Fault) takes(op Op, key string) bool {
	return (f.Op == "" || f.Op == op) && (f.Key == "" || match(f.Key, key))
}

// match compares a key with a pattern in which "*" stands for any run of bytes.
func match(pattern, key string) bool {
	head, rest, star := strings.Cut(pattern, "*")
	key, ok := strings.CutPrefix(key, head)
	if !ok || !star {
		return ok && key == ""
	}
	for n := 0; n <= len(key); n++ {
		if match(rest, key[n:]) {
			return true
		}
	}
	return rest == ""
}

// before waits and fails as the fault says. A nil fault does nothing.
func (f *taken) before(ctx context.Context, op Op, key string) error {
	if f == nil {
		return nil
	}
	if err := f.wait(ctx, op, key); err != nil {
		return err
	}
	if f.Throttle {
		return errors.E(string(op), key, errors.Unavailable, errThrottled{})
	}
	return injected(f.Before, op, key)
}

// wait is the part of a fault that takes time.
func (f *taken) wait(ctx context.Context, op Op, key string) error {
	if f.Latency > 0 {
		timer := time.NewTimer(f.Latency)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-f.released:
		case <-ctx.Done():
			return errors.E(string(op), key, errors.Other, ctx.Err())
		}
	}
	if f.Block {
		select {
		case <-f.released:
		case <-ctx.Done():
			return errors.E(string(op), key, errors.Other, ctx.Err())
		}
	}
	return nil
}

// after replaces the store's answer as the fault says.
func (f *taken) after(err error, op Op, key string) error {
	if f == nil || f.After == errors.Other {
		return err
	}
	return injected(f.After, op, key)
}

// postpone reports whether a write reaches the store only after it was answered,
// which do then does. The caller gives up waiting, as one does whose connection
// breaks; the request is on its way all the same.
func (b *Bucket) postpone(ctx context.Context, f *taken, do func(context.Context)) bool {
	if f == nil || f.Late == 0 {
		return false
	}
	b.late.Go(func() {
		select {
		case <-time.After(f.Late):
		case <-f.released:
		}
		do(context.WithoutCancel(ctx))
	})
	return true
}

// mangles reports whether the fault changes bodies.
func (f *taken) mangles() bool { return f != nil && f.Mangle != nil }

// cuts returns after how many of size bytes a body ends, if it does before.
func (f *taken) cuts(size int64) (int64, bool) {
	switch {
	case f == nil || f.Cut == 0:
		return 0, false
	case f.Cut < 0:
		return size / 2, true
	}
	return int64(f.Cut), int64(f.Cut) < size
}

// injected makes the error of a kind, none for Other.
func injected(kind errors.Kind, op Op, key string) error {
	if kind == errors.Other {
		return nil
	}
	return errors.E(string(op), key, kind, errInjected{})
}

type errInjected struct{}

func (errInjected) Error() string { return "injected fault" }

type errThrottled struct{}

func (errThrottled) Error() string { return "injected fault: 503 Slow Down" }
