package history_test

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/bucket/faulty"
	"atc/fs/errors"
	"atc/fs/history"
)

const pageSize = 512

// model is a database in memory, whose commits are put into a log.
type model struct {
	t      *testing.T
	bucket bucket.Bucket
	log    *history.Log
	index  *history.Index
	pages  map[uint32][]byte
	size   uint32
	rand   *rand.Rand
}

func newModel(t *testing.T, b bucket.Bucket) *model {
	return &model{
		t: t, bucket: b, log: history.NewLog(b, "tenants/acme/db/main"), index: history.NewIndex(),
		pages: make(map[uint32][]byte), rand: rand.New(rand.NewPCG(1, 2)),
	}
}

func openBucket(t *testing.T) bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// encode makes the LTX file of the next commit: the given pages with random
// content, and all that the database grows by.
func (m *model) encode(size uint32, changed ...uint32) (history.Commit, []byte, map[uint32]history.Place) {
	m.t.Helper()
	for p := m.size + 1; p <= size; p++ {
		changed = append(changed, p)
	}
	written := make(map[uint32]bool)
	for _, p := range changed {
		data := make([]byte, pageSize)
		for i := range data {
			data[i] = byte(m.rand.Uint32())
		}
		m.pages[p], written[p] = data, true
	}
	for p := size + 1; p <= m.size; p++ {
		delete(m.pages, p)
	}
	m.size = size
	c := history.Commit{PageSize: pageSize, Pages: size, TXID: m.index.TXID() + 1, Time: time.Now(), Epoch: 1}
	var file bytes.Buffer
	places, err := history.Encode(&file, c, func(yield func(history.Page, error) bool) {
		for p := uint32(1); p <= size; p++ {
			if written[p] && !yield(history.Page{Number: p, Data: m.pages[p]}, nil) {
				return
			}
		}
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return c, file.Bytes(), places
}

func (m *model) commit(size uint32, changed ...uint32) {
	m.t.Helper()
	c, file, places := m.encode(size, changed...)
	ref, err := m.log.Append(m.t.Context(), c, bytes.NewReader(file))
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.index.Apply(ref, c, places); err != nil {
		m.t.Fatal(err)
	}
}

// check reads every page by an index and compares.
func (m *model) check(x *history.Index) {
	m.t.Helper()
	ctx := m.t.Context()
	if _, pages := x.Size(); pages != m.size || x.TXID() != m.index.TXID() {
		m.t.Fatalf("index at %s with %d pages, want %s with %d", x.TXID(), pages, m.index.TXID(), m.size)
	}
	const some = 97 // as many pages are read as show every block and file
	for p := uint32(1); p <= m.size; p += 1 + m.size/some {
		e, ok, err := x.Lookup(ctx, p)
		if err != nil || !ok {
			m.t.Fatalf("page %d: %v %v", p, ok, err)
		}
		frame, err := m.log.ReadPages(ctx, e.File, e.Offset, int64(e.Length))
		if err != nil {
			m.t.Fatal(err)
		}
		data, err := history.DecodeFrame(frame, p, pageSize, e.Place)
		if err != nil || !bytes.Equal(data, m.pages[p]) {
			m.t.Fatalf("page %d at %+v is another one (%v)", p, e, err)
		}
	}
	if _, ok, err := x.Lookup(ctx, m.size+1); ok || err != nil {
		m.t.Errorf("a page behind the end: %v %v", ok, err)
	}
}

// TestIndexFindsEveryPage grows, shrinks and grows a database, and loads its
// index from nothing, from an index object and from one with files behind it.
func TestIndexFindsEveryPage(t *testing.T) {
	m := newModel(t, openBucket(t))
	ctx := t.Context()
	m.commit(3)
	m.commit(1500, 1, 2)
	m.commit(1500, 700, 1400)
	load := func(at history.TXID) {
		t.Helper()
		x, err := m.log.Load(ctx, at, 0)
		if err != nil {
			t.Fatal(err)
		}
		m.check(x)
	}
	load(0)
	at, err := m.log.SaveIndex(ctx, m.index)
	if err != nil || at != 3 {
		t.Fatalf("saved at %s: %v", at, err)
	}
	load(3)
	load(0)
	load(2) // an index that is not there: found by listing
	m.commit(600, 5)
	m.commit(1200, 6)
	load(0)
	if x, err := m.log.Load(ctx, 3, 0); err != nil {
		t.Fatal(err)
	} else if err := m.log.CatchUp(ctx, x); err != nil {
		t.Fatal(err)
	} else {
		m.check(x)
		if _, err := m.log.SaveIndex(ctx, x); err != nil {
			t.Fatal(err)
		}
	}
	load(5)
}

// TestAppendIsTheFence has two writers at one TXID.
func TestAppendIsTheFence(t *testing.T) {
	b := faulty.Wrap(openBucket(t))
	ours, theirs := newModel(t, b), newModel(t, b)
	ours.commit(3)
	c, file, _ := theirs.encode(4)
	if _, err := theirs.log.Append(t.Context(), c, bytes.NewReader(file)); !errors.Is(errors.Fenced, err) {
		t.Errorf("a second writer of transaction 1: %v", err)
	}
	// The answer to our next one is lost: the same bytes again are no conflict.
	c, file, _ = ours.encode(3, 2)
	b.Inject(faulty.Fault{Op: faulty.Put, Times: 1, After: errors.Unavailable})
	if _, err := ours.log.Append(t.Context(), c, bytes.NewReader(file)); !errors.Retryable(err) {
		t.Fatalf("a lost answer: %v", err)
	}
	if _, err := ours.log.Append(t.Context(), c, bytes.NewReader(file)); err != nil {
		t.Errorf("the same transaction again: %v", err)
	}
}

// TestGapIsRefused removes a file from the middle of a log.
func TestGapIsRefused(t *testing.T) {
	b := openBucket(t)
	m := newModel(t, b)
	for range 4 {
		m.commit(3, 2)
	}
	if err := b.Delete(t.Context(), "tenants/acme/db/main/0000/0000000000000002-0000000000000002.ltx"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.log.Load(t.Context(), 0, 0); !errors.Is(errors.Corrupt, err) {
		t.Errorf("a log with a gap: %v", err)
	}
}

// TestDamagedIndexIsRebuilt flips bytes of the header and of a block of an
// index object: what is loaded is right all the same, or an error.
func TestDamagedIndexIsRebuilt(t *testing.T) {
	b := openBucket(t)
	m := newModel(t, b)
	const pages = 6000 // too many for a head without a base
	m.commit(pages)
	at, err := m.log.SaveIndex(t.Context(), m.index)
	if err != nil {
		t.Fatal(err)
	}
	key := "tenants/acme/db/main/atc/" + at.String() + ".index"
	whole, _, err := b.GetRange(t.Context(), key, 0, 1<<20, "")
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 64; i += 9 {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 1
		if _, err := b.Put(t.Context(), key, bytes.NewReader(damaged), bucket.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		x, err := m.log.Load(t.Context(), at, 0)
		if err != nil {
			t.Fatalf("byte %d: %v", i, err)
		}
		m.check(x)
	}
	// A block behind the first read is only looked at when it is needed.
	damaged := bytes.Clone(whole)
	damaged[len(damaged)-20] ^= 1
	if _, err := b.Put(t.Context(), key, bytes.NewReader(damaged), bucket.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	x, err := m.log.Load(t.Context(), at, 0)
	if err != nil {
		t.Fatal(err)
	}
	m.check(x)
	if e, ok, err := x.Lookup(t.Context(), pages); !ok || err != nil {
		t.Errorf("a page in a damaged block: %+v %v %v", e, ok, err)
	}
	// The object may also go away while it is being read.
	if _, err := m.log.SaveIndex(t.Context(), x); err != nil {
		t.Fatal(err)
	}
	if x, err = m.log.Load(t.Context(), at, 0); err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	m.check(x)
}

// TestFlippedBits flips a bit of each byte of a file: decoding a page by its place never
// returns other bytes than were written.
func TestFlippedBits(t *testing.T) {
	m := newModel(t, openBucket(t))
	_, file, places := m.encode(3)
	for at := range file {
		b := bytes.Clone(file)
		b[at] ^= 1 << (at % 8)
		for p, place := range places {
			data, err := history.DecodeFrame(b[place.Offset:place.Offset+int64(place.Length)], p, pageSize, place)
			if err == nil && !bytes.Equal(data, m.pages[p]) {
				t.Fatalf("byte %d flipped: page %d is another one", at, p)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("LTX1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = history.Decode(bytes.NewReader(b), int64(len(b)), func(history.Page, history.Place) error { return nil })
		_, _ = history.DecodeFrame(b, 1, 4096, history.Place{})
	})
}
