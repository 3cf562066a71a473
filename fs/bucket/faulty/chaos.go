package faulty

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"atc/fs/errors"
)

// This file defines chaos: faults at random, and the same ones again with the
// same seed. What happens to a request depends on the seed, its kind, its key
// and how many such requests came before it, and on nothing else: so the order
// in which concurrent requests arrive does not change which of them fail.

// Plan says which faults befall some requests, and how often. A rate is the
// share of them that the fault takes, from 0 to 1; one request has at most one
// fault, so the rates add up to at most 1.
type Plan struct {
	Op  Op     // requests of this kind; empty for any
	Key string // whose key matches, as in Fault; empty for any

	Delay    float64 // waits, and goes through
	Before   float64 // fails, without asking the store
	After    float64 // goes through, and its answer is lost
	Throttle float64 // is answered 503
	Late     float64 // fails, and reaches the store afterwards: Put, Copy, Delete; else as Before
	Cut      float64 // breaks off in its body: Get, GetRange; else as After
	Corrupt  float64 // a bit of the body is another one: Get, GetRange; else nothing happens
	Hang     float64 // has no answer, and is given up after Patience

	// MostDelay bounds how long a request waits or is late; 10 ms by default.
	MostDelay time.Duration
	// Patience is after how long a request that hangs fails, as the limit of a
	// client's own; by default it hangs until its context ends, or Calm.
	Patience time.Duration
}

// Chaos is a storm of faults. Its methods may be called concurrently.
type Chaos struct {
	seed  uint64
	plans []Plan
	owner *Bucket
	calm  chan struct{} // closed by Calm
	once  sync.Once

	// Name is what the choice sees of a key; a test whose keys have random parts
	// leaves them out, so that its seed tells the same story again. It is set
	// before the first request.
	Name func(key string) string

	mu       sync.Mutex // protects what follows
	count    map[string]uint64
	injected map[string]int // by what it was
	last     []string       // the newest events, a ring
	events   int
}

// keptEvents is how many of the newest events a log has.
const keptEvents = 200

// Chaos begins a storm in place of the one before. A request that no injected
// fault takes has the first plan that is for it.
func (b *Bucket) Chaos(seed uint64, plans ...Plan) *Chaos {
	c := &Chaos{
		seed: seed, plans: slices.Clone(plans), owner: b, calm: make(chan struct{}),
		Name:  func(key string) string { return key },
		count: make(map[string]uint64), injected: make(map[string]int),
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.chaos = c
	return c
}

// Calm ends the storm: what waits goes on, what hangs fails, and it returns when
// all late requests have reached the store.
func (c *Chaos) Calm() {
	c.owner.mu.Lock()
	if c.owner.chaos == c {
		c.owner.chaos = nil
	}
	c.owner.mu.Unlock()
	c.once.Do(func() { close(c.calm) })
	c.owner.Settle()
}

// Log tells what was injected: how much of each kind, and the newest events.
func (c *Chaos) Log() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var s strings.Builder
	fmt.Fprintf(&s, "seed %d: %d faults, %v\n", c.seed, c.events, c.injected)
	for i := range c.last {
		fmt.Fprintln(&s, c.last[(max(0, c.events-keptEvents)+i)%len(c.last)])
	}
	return s.String()
}

// take decides about a request.
func (c *Chaos) take(op Op, key string) *taken {
	i := slices.IndexFunc(c.plans, func(p Plan) bool {
		f := Fault{Op: p.Op, Key: p.Key}
		return f.takes(op, key)
	})
	if i < 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	name := string(op) + " " + c.Name(key)
	c.count[name]++
	what, f := c.plans[i].choose(op, c.random(name, c.count[name]))
	if what == "" {
		return nil
	}
	c.injected[what]++
	event := fmt.Sprintf("%d: %s number %d: %s", c.events, name, c.count[name], what)
	if c.events < keptEvents {
		c.last = append(c.last, event)
	} else {
		c.last[c.events%keptEvents] = event
	}
	c.events++
	return &taken{f, c.calm}
}

// random is the source of the choices about one request.
func (c *Chaos) random(name string, n uint64) *rand.Rand {
	d := xxhash.NewWithSeed(c.seed)
	_, _ = d.WriteString(name)
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	_, _ = d.Write(b[:])
	return rand.New(rand.NewPCG(c.seed, d.Sum64()))
}

// choose draws a fault, or none, and names it.
func (p *Plan) choose(op Op, random *rand.Rand) (what string, f Fault) {
	most := p.MostDelay
	if most == 0 {
		most = 10 * time.Millisecond
	}
	draw, delay, at := random.Float64(), time.Duration(random.Int64N(int64(most)))+1, random.Int()
	reads := op == Get || op == GetRange
	for _, c := range []struct {
		what  string
		rate  float64
		fault Fault
	}{
		{"delayed", p.Delay, Fault{Latency: delay}},
		{"failed before", p.Before, Fault{Before: errors.Unavailable}},
		{"answer lost", p.After, Fault{After: errors.Unavailable}},
		{"throttled", p.Throttle, Fault{Throttle: true}},
		{"late", p.Late, Fault{Late: delay}},
		{"cut", p.Cut, Fault{Cut: Middle}},
		{"corrupted", p.Corrupt, Fault{Mangle: flipSomewhere(at)}},
		{"hung", p.Hang, Fault{Block: p.Patience == 0, Latency: p.Patience, Before: errors.Unavailable}},
	} {
		if draw -= c.rate; draw >= 0 {
			continue
		}
		switch {
		case c.fault.Late > 0 && (reads || op == List):
			return "failed before", Fault{Before: errors.Unavailable}
		case c.fault.Cut != 0 && !reads:
			return "answer lost", Fault{After: errors.Unavailable}
		case c.fault.Mangle != nil && !reads:
			return "", Fault{}
		}
		return c.what, c.fault
	}
	return "", Fault{}
}

// flipSomewhere is Flip at an offset that any body has.
func flipSomewhere(at int) func([]byte) []byte {
	return func(body []byte) []byte {
		if len(body) == 0 {
			return body
		}
		return Flip(at % len(body))(body)
	}
}
