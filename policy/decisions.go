package policy

import (
	"container/list"
	"encoding/binary"
	"slices"
	"strings"
	"sync"
	"time"
)

// Decisions that a guest allowed to be kept. A decision is found again by the
// request parts that its cache line named and by nothing else, so that a guest
// says exactly what its answer depends on. It is forgotten when its time is up,
// when a tenant that the guest asked for or decided is made, moved or removed,
// when newer ones need the room, and with the module that made it.

const (
	maxKept      = 10_000
	maxKeptBytes = 16 << 20
	maxKeptKey   = 4 << 10 // bytes of one key; a request with more is decided each time
	maxShapes    = 8       // different lists of parts at a time: each costs a look

	// absentFor bounds how long a decision is kept that rests on a tenant's
	// absence: nobody hears of one that another machine makes.
	absentFor = 2 * time.Second
)

// decisions is safe for concurrent use.
type decisions struct {
	mu     sync.Mutex
	epoch  uint64 // guarded by mu, like all below; counts what forget was called for
	shapes []*shape
	serial uint32
	byKey  map[string]*list.Element // of *kept
	recent list.List                // the least recently used one at the back
	bytes  int
	swept  time.Time                             // when all that had expired was last looked for
	rests  map[string]map[*list.Element]struct{} // what is kept, by each tenant it rests on
}

// shape is a list of parts that decisions in the cache were made by.
type shape struct {
	serial uint32 // the first bytes of its keys
	parts  []string
	uses   int // decisions that have it
}

// kept is one decision.
type kept struct {
	key     string
	shape   *shape
	until   time.Time
	size    int
	tenants []string
	d       Decision
}

func newDecisions() *decisions {
	return &decisions{byKey: map[string]*list.Element{}, rests: map[string]map[*list.Element]struct{}{}}
}

// look returns the decision that is kept for a request. The epoch goes to keep
// with the one that is made where there is none.
func (c *decisions) look(r *Request) (d Decision, ok bool, epoch uint64) {
	var room [256]byte
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.shapes) == 0 {
		return d, false, c.epoch
	}
	now := time.Now()
	for _, s := range c.shapes {
		key, fits := s.appendKey(room[:0], r)
		if !fits {
			continue
		}
		e := c.byKey[string(key)]
		if e == nil {
			continue
		}
		k := e.Value.(*kept)
		if now.After(k.until) {
			c.drop(e)
			return d, false, c.epoch // the shape may have gone with it
		}
		c.recent.MoveToFront(e)
		return k.d, true, c.epoch
	}
	return d, false, c.epoch
}

// keep notes what a guest decided for a request, unless something it may rest
// on has changed since look gave the epoch.
func (c *decisions) keep(epoch uint64, r *Request, o *outcome) {
	d := &o.decision
	if d.CacheFor == 0 || o.unsure {
		return
	}
	life := d.CacheFor
	if o.absent {
		life = min(life, absentFor)
	}
	tenants := o.asked
	if d.Tenant != "" && !slices.Contains(tenants, d.Tenant) {
		tenants = append(slices.Clip(tenants), d.Tenant)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if epoch != c.epoch {
		return
	}
	s := c.shape(d.CacheKey)
	if s == nil {
		return
	}
	key, fits := s.appendKey(nil, r)
	if !fits {
		return
	}
	if e := c.byKey[string(key)]; e != nil {
		s.uses++ // or dropping the last one would drop the shape
		c.drop(e)
		s.uses--
	}
	k := &kept{key: string(key), shape: s, until: time.Now().Add(life), tenants: tenants, d: *d}
	k.size = k.weight()
	e := c.recent.PushFront(k)
	c.byKey[k.key] = e
	c.bytes += k.size
	if s.uses++; s.uses == 1 {
		c.shapes = append(c.shapes, s)
	}
	for _, id := range k.tenants {
		if c.rests[id] == nil {
			c.rests[id] = map[*list.Element]struct{}{}
		}
		c.rests[id][e] = struct{}{}
	}
	for len(c.byKey) > maxKept || c.bytes > maxKeptBytes {
		c.drop(c.recent.Back())
	}
}

// forget drops every decision that rests on a tenant, and those that are being
// made.
func (c *decisions) forget(tenant string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	for e := range c.rests[tenant] {
		c.drop(e)
	}
}

// forgetAll drops all decisions, and those that are being made.
func (c *decisions) forgetAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	for e := c.recent.Front(); e != nil; e = c.recent.Front() {
		c.drop(e)
	}
}

// shape finds a list of parts, or makes it; nil where there are too many. mu is
// held.
func (c *decisions) shape(parts []string) *shape {
	for _, s := range c.shapes {
		if slices.Equal(s.parts, parts) {
			return s
		}
	}
	if now := time.Now(); len(c.shapes) >= maxShapes && now.Sub(c.swept) > time.Second {
		c.swept = now
		for e := c.recent.Front(); e != nil; {
			next := e.Next()
			if now.After(e.Value.(*kept).until) {
				c.drop(e)
			}
			e = next
		}
	}
	if len(c.shapes) >= maxShapes {
		return nil
	}
	c.serial++
	return &shape{serial: c.serial, parts: parts}
}

// drop forgets one decision. mu is held.
func (c *decisions) drop(e *list.Element) {
	k := c.recent.Remove(e).(*kept)
	delete(c.byKey, k.key)
	c.bytes -= k.size
	for _, id := range k.tenants {
		delete(c.rests[id], e)
		if len(c.rests[id]) == 0 {
			delete(c.rests, id)
		}
	}
	if k.shape.uses--; k.shape.uses == 0 {
		c.shapes = slices.DeleteFunc(c.shapes, func(s *shape) bool { return s == k.shape })
	}
}

// weight is about how many bytes of memory it takes.
func (k *kept) weight() int {
	n := 512 + len(k.key) + len(k.d.Path) + len(k.d.Location) + len(k.d.Body)
	for _, h := range k.d.SetHeader {
		n += 32 + len(h.Name) + len(h.Value)
	}
	for _, id := range k.tenants {
		n += 128 + len(id)
	}
	return n
}

// appendKey writes the request's values of the shape's parts, each with its
// length, so that no two requests that differ in one of them share a key. It
// reports false where the key is too long, or a header is there under two
// spellings, whose values have no order.
func (s *shape) appendKey(key []byte, r *Request) ([]byte, bool) {
	key = binary.BigEndian.AppendUint32(key, s.serial)
	for _, part := range s.parts {
		switch part {
		case "method":
			key = appendValue(key, r.Method)
		case "scheme":
			key = appendValue(key, r.Scheme)
		case "host":
			key = appendValue(key, r.Host)
		case "path":
			key = appendValue(key, r.Path)
		case "query":
			key = appendValue(key, r.Query)
		case "remote":
			key = appendValue(key, r.Remote)
		default:
			name := strings.TrimPrefix(part, "header.")
			spellings, values := 0, []string(nil)
			for spelled, v := range r.Header {
				if len(spelled) == len(name) && strings.EqualFold(spelled, name) {
					spellings, values = spellings+1, v
				}
			}
			if spellings > 1 {
				return key, false
			}
			key = binary.AppendUvarint(key, uint64(len(values)))
			for _, v := range values {
				key = appendValue(key, v)
			}
		}
		if len(key) > maxKeptKey {
			return key, false
		}
	}
	return key, true
}

func appendValue(key []byte, value string) []byte {
	if len(value) > maxKeptKey {
		value = value[:maxKeptKey+1] // more than fits, whatever it is
	}
	return append(binary.AppendUvarint(key, uint64(len(value))), value...)
}
