// Package faulty wraps a bucket and makes chosen requests fail, for tests of
// what stands on it.
//
//	f := faulty.Wrap(b)
//	lost := f.Inject(faulty.Fault{Op: faulty.Put, Key: "tenants/*/tenant.json", Times: 1, After: errors.Unavailable})
//	...
//	if lost.Hits() != 1 { ... }
//
// The requests that no fault takes go to the wrapped bucket untouched, so a
// test runs against a real store whose faults come when the test says so.
//
// # Limitations
//
// A fault that changes a body holds it in memory. A listing fails before its
// first entry or after its last.
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

	Latency time.Duration            // wait so long
	Block   bool                     // wait until Release, or until the request's context ends
	Before  errors.Kind              // fail with this kind, without asking the store; Other: do not
	Mangle  func(body []byte) []byte // change what Put stores, or what Get and GetRange return
	After   errors.Kind              // ask the store, then fail with this kind: its answer is lost; Other: do not
}

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

	mu     sync.Mutex // protects what follows, and the counts of each
	faults []*Injected
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

// Release lets blocked requests go on, and blocks no more.
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

// take finds the fault for a request, or returns nil.
func (b *Bucket) take(op Op, key string) *Injected {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, i := range b.faults {
		f := i.fault
		if f.Op != "" && f.Op != op || f.Key != "" && !match(f.Key, key) {
			continue
		}
		i.seen++
		if i.seen <= f.Skip || f.Times > 0 && i.hits >= f.Times {
			continue
		}
		if i.hits++; i.hits == 1 {
			close(i.reached)
		}
		return i
	}
	return nil
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
func (i *Injected) before(ctx context.Context, op Op, key string) error {
	if i == nil {
		return nil
	}
	if i.fault.Latency > 0 {
		timer := time.NewTimer(i.fault.Latency)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return errors.E(string(op), key, errors.Other, ctx.Err())
		}
	}
	if i.fault.Block {
		select {
		case <-i.released:
		case <-ctx.Done():
			return errors.E(string(op), key, errors.Other, ctx.Err())
		}
	}
	return injected(i.fault.Before, op, key)
}

// after replaces the store's answer as the fault says.
func (i *Injected) after(err error, op Op, key string) error {
	if i == nil || i.fault.After == errors.Other {
		return err
	}
	return injected(i.fault.After, op, key)
}

// mangles reports whether the fault changes bodies.
func (i *Injected) mangles() bool { return i != nil && i.fault.Mangle != nil }

// injected makes the error of a kind, none for Other.
func injected(kind errors.Kind, op Op, key string) error {
	if kind == errors.Other {
		return nil
	}
	return errors.E(string(op), key, kind, errInjected{})
}

type errInjected struct{}

func (errInjected) Error() string { return "injected fault" }
