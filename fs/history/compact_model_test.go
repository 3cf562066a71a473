package history

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/errors"
	"atc/fs/journal"
)

// What the tests of compaction stand on: a store in memory whose clock the test
// moves and which can be cloned before each of many kills, and a database of
// which every state is remembered.

const testFolder = "tenants/acme/db/main"

// memory is a bucket.Bucket as far as this package uses one.
type memory struct {
	mu      sync.Mutex
	objects map[string]object
	now     time.Time
}

type object struct {
	data     []byte
	meta     map[string]string
	modified time.Time
	version  int
}

var versions int

func newMemory(now time.Time) *memory {
	return &memory{objects: make(map[string]object), now: now}
}

func (m *memory) clone() *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &memory{objects: maps.Clone(m.objects), now: m.now}
}

func (m *memory) find(op, key, etag string) (object, bucket.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[key]
	if !ok {
		return o, bucket.Info{}, errors.E(op, key, errors.NotExist, nil)
	}
	if etag != "" && etag != fmt.Sprint(o.version) {
		return o, bucket.Info{}, errors.E(op, key, errors.Condition, nil)
	}
	return o, bucket.Info{ETag: fmt.Sprint(o.version), Size: int64(len(o.data)), Modified: o.modified, Now: m.now, Meta: o.meta}, nil
}

func (m *memory) Get(_ context.Context, key string) (io.ReadCloser, bucket.Info, error) {
	o, info, err := m.find("get", key, "")
	return io.NopCloser(bytes.NewReader(o.data)), info, err
}

func (m *memory) GetRange(ctx context.Context, key string, offset, length int64, etag string) ([]byte, bucket.Info, error) {
	o, info, err := m.find("get", key, etag)
	if err != nil {
		return nil, info, err
	}
	begin := min(offset, int64(len(o.data)))
	return bytes.Clone(o.data[begin:min(begin+length, int64(len(o.data)))]), info, ctx.Err()
}

func (m *memory) Put(_ context.Context, key string, body io.ReadSeeker, opts bucket.PutOptions) (bucket.Info, error) {
	data, err := io.ReadAll(body)
	if err != nil {
		return bucket.Info{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[key]; ok && opts.IfNoneMatch {
		return bucket.Info{}, errors.E("put", key, errors.Condition, nil)
	}
	versions++
	m.objects[key] = object{data, opts.Meta, m.now, versions}
	return bucket.Info{Size: int64(len(data))}, nil
}

func (m *memory) List(_ context.Context, prefix string, opts bucket.ListOptions) iter.Seq2[bucket.Entry, error] {
	m.mu.Lock()
	var entries []bucket.Entry
	for _, key := range slices.Sorted(maps.Keys(m.objects)) {
		if strings.HasPrefix(key, prefix) && key > opts.After {
			entries = append(entries, bucket.Entry{Key: key, Size: int64(len(m.objects[key].data)), Modified: m.objects[key].modified})
		}
	}
	m.mu.Unlock()
	return func(yield func(bucket.Entry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (m *memory) Copy(_ context.Context, from, to string) error {
	o, _, err := m.find("copy", from, "")
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	versions++
	o.modified, o.version = m.now, versions
	m.objects[to] = o
	return nil
}

func (m *memory) Delete(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key)
	return nil
}

func (m *memory) URL() string { return "memory:" }

// count is how many LTX files a level has.
func (m *memory) count(level int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for key := range m.objects {
		if ref, ok := parseName(strings.TrimPrefix(key, testFolder+"/")); ok && ref.Level == level {
			n++
		}
	}
	return n
}

// story is a database whose every state is remembered.
type story struct {
	t      *testing.T
	random *rand.Rand
	store  *memory
	log    *Log
	index  *Index
	now    time.Time
	states []state // states[n] is that after transaction n
}

type state struct {
	pageSize int
	pages    [][]byte // pages[n] is page n+1; never changed, only replaced
	time     time.Time
}

func newStory(t *testing.T, seed uint64) *story {
	begin := time.Date(2026, 3, 1, 10, 2, 0, 0, time.UTC)
	s := &story{
		t: t, random: rand.New(rand.NewPCG(seed, 7)), store: newMemory(begin),
		index: NewIndex(), now: begin, states: []state{{pageSize: 512}},
	}
	s.log = NewLog(s.store, testFolder)
	return s
}

func (s *story) last() state { return s.states[len(s.states)-1] }

func (s *story) step(d time.Duration) {
	s.now = s.now.Add(d)
	s.store.mu.Lock()
	s.store.now = s.now
	s.store.mu.Unlock()
}

// commit changes some pages at random and sets the size. What it grows by is
// part of it, but for holes, which read as zero.
func (s *story) commit(size int, holes bool, changed ...int) {
	s.t.Helper()
	before := s.last()
	if before.pageSize != s.pageSize() {
		before.pages = nil
	}
	next := state{pageSize: s.pageSize(), pages: slices.Clone(before.pages), time: s.now}
	if !s.now.After(before.time) {
		next.time = before.time.Add(time.Millisecond)
	}
	written := make(map[int]bool)
	for _, p := range changed {
		if p <= size {
			written[p] = true
		}
	}
	next.pages = next.pages[:min(size, len(next.pages))]
	for p := len(next.pages) + 1; p <= size; p++ {
		next.pages = append(next.pages, make([]byte, next.pageSize))
		if !holes || p == size || len(s.states) == 1 || s.last().pageSize != next.pageSize {
			written[p] = true
		}
	}
	for p := range written {
		data := bytes.Repeat([]byte{byte(s.random.IntN(8))}, next.pageSize)
		binary.LittleEndian.PutUint64(data, s.random.Uint64())
		if s.random.IntN(20) == 0 {
			clear(data)
		}
		next.pages[p-1] = data
	}
	s.put(next, written)
}

// put makes a state the next one.
func (s *story) put(next state, written map[int]bool) {
	s.t.Helper()
	c := Commit{PageSize: next.pageSize, Pages: uint32(len(next.pages)), TXID: TXID(len(s.states)), Time: next.time, Epoch: 1}
	var file bytes.Buffer
	places, err := Encode(&file, c, func(yield func(Page, error) bool) {
		for _, p := range slices.Sorted(maps.Keys(written)) {
			if uint32(p) != journal.LockPage(next.pageSize) && !yield(Page{uint32(p), next.pages[p-1]}, nil) {
				return
			}
		}
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ref, err := s.log.Append(s.t.Context(), c, bytes.NewReader(file.Bytes()))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.index.Apply(ref, c, places); err != nil {
		s.t.Fatal(err)
	}
	s.states = append(s.states, next)
}

// pageSize is that of the next commit.
func (s *story) pageSize() int { return s.states[0].pageSize }

// random commit: mostly a few pages, sometimes it shrinks or grows.
func (s *story) any() {
	size := len(s.last().pages)
	if s.last().pageSize != s.pageSize() {
		size = 3
	}
	switch s.random.IntN(10) {
	case 0:
		size += s.random.IntN(12)
	case 1:
		size -= s.random.IntN(size/2 + 1)
	}
	size = max(size, 1)
	changed := []int{1}
	for range s.random.IntN(4) {
		changed = append(changed, 1+s.random.IntN(size))
	}
	s.commit(size, s.random.IntN(4) == 0, changed...)
}

// buffer is a file in memory.
type buffer struct {
	mu   sync.Mutex
	data []byte
}

func (b *buffer) WriteAt(p []byte, at int64) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if end := int(at) + len(p); end > len(b.data) {
		b.data = append(b.data, make([]byte, end-len(b.data))...)
	}
	return copy(b.data[at:], p), nil
}

// holds compares what an index describes with a state, byte for byte.
func (s *story) holds(log *Log, x *Index, txid TXID) error {
	if x.TXID() != txid {
		return fmt.Errorf("the index is at %s", x.TXID())
	}
	var got buffer
	if err := log.WriteTo(s.t.Context(), x, &got, nil); err != nil {
		return err
	}
	want := s.states[txid]
	if len(got.data) != len(want.pages)*want.pageSize {
		return fmt.Errorf("%d bytes, want %d pages of %d", len(got.data), len(want.pages), want.pageSize)
	}
	for i, page := range want.pages {
		if !bytes.Equal(got.data[i*want.pageSize:][:want.pageSize], page) {
			return fmt.Errorf("page %d is another one", i+1)
		}
	}
	return nil
}

// promised is what the policy promises at the least, by the definition and not
// by what the code does.
func (s *story) promised(p Policy) []TXID {
	var all []TXID
	last := len(s.states) - 1
	for n := 1; n <= last; n++ {
		at := s.states[n].time
		ends := func(window time.Duration) bool { // it is the last of its window
			return n < last && !s.states[n+1].time.Truncate(window).Equal(at.Truncate(window))
		}
		age := s.now.Sub(at)
		if n == last || age < p.Keep0 || age < p.Keep1 && ends(p.Window1) || age < p.Keep2 && ends(p.Window2) {
			all = append(all, TXID(n))
		}
	}
	return all
}

// check restores every promised position, and opens the present in every way.
func (s *story) check(what string, log *Log, x *Index, p Policy) {
	s.t.Helper()
	ctx := s.t.Context()
	last := TXID(len(s.states) - 1)
	for _, txid := range s.promised(p) {
		at, err := log.LoadAt(ctx, txid)
		if err == nil {
			err = s.holds(log, at, txid)
		}
		if err != nil {
			s.t.Fatalf("%s: transaction %d of %d: %v", what, txid, last, err)
		}
	}
	if x != nil {
		if err := s.holds(log, x, last); err != nil {
			s.t.Fatalf("%s: the index in use: %v", what, err)
		}
	}
	loaded, err := log.Load(ctx, 0, 0)
	if err == nil {
		err = s.holds(log, loaded, last)
	}
	if err != nil {
		s.t.Fatalf("%s: loaded: %v", what, err)
	}
}
