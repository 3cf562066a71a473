package history_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/errors"
	"atc/fs/history"
)

const folder = "tenants/acme/db/main/atc/"

// objects lists what stands beside the log.
func objects(t *testing.T, b bucket.Bucket) (names []string) {
	t.Helper()
	for e, err := range b.List(t.Context(), folder, bucket.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, strings.TrimLeft(e.Key[len(folder):], "0"))
	}
	return names
}

func whole(t *testing.T, b bucket.Bucket, key string) []byte {
	t.Helper()
	body, _, err := b.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// read is a page of the model, as a local file would have it.
func (m *model) read(page uint32, data []byte) bool { return copy(data, m.pages[page]) == len(data) }

func (m *model) save(hot history.Hot) int64 {
	m.t.Helper()
	if _, err := m.log.SaveHead(m.t.Context(), m.index, hot); err != nil {
		m.t.Fatal(err)
	}
	return m.index.HeadSize()
}

// TestHeadReplacesTheOneBefore closes a database several times: one head stands,
// over a base that is written when much has changed, and that of transaction 1
// stays.
func TestHeadReplacesTheOneBefore(t *testing.T) {
	b := openBucket(t)
	m := newModel(t, b)
	many := make([]uint32, 5000)
	for i := range many {
		many[i] = uint32(i + 1)
	}
	for _, step := range []struct {
		commit []uint32
		size   uint32
		want   string
	}{
		{nil, 6000, "1.head 1.index"},
		{[]uint32{17, 5900}, 6000, "1.index 2.head"},
		{many, 6000, "1.index 3.head 3.index"},
		{[]uint32{5}, 6010, "1.index 3.index 4.head"},
		{many, 7000, "1.index 5.head 5.index"},
	} {
		m.commit(step.size, step.commit...)
		size := m.save(history.Hot{})
		if got := strings.Join(objects(t, b), " "); got != step.want {
			t.Errorf("after %s: %s, want %s", m.index.TXID(), got, step.want)
		}
		m.check(m.index)
		for _, known := range []int64{0, size} {
			x, err := m.log.Load(t.Context(), m.index.TXID(), known)
			if err != nil {
				t.Fatal(err)
			}
			m.check(x)
			if at := m.index.Time(); !x.Time().Equal(at) || at.IsZero() {
				t.Errorf("%s is of %v, want %v", x.TXID(), x.Time(), at)
			}
			m.index = x // the next step goes on from what was loaded
		}
	}
}

// TestHeadIsOneGet loads with the record's word, and counts.
func TestHeadIsOneGet(t *testing.T) {
	m := newModel(t, openBucket(t))
	m.commit(6000)
	size := m.save(history.Hot{})
	log := history.NewLog(m.bucket, "tenants/acme/db/main")
	if _, err := log.Load(t.Context(), 1, size); err != nil {
		t.Fatal(err)
	}
	if c := log.Counts(); c.Requests() != 1 || c.BytesIn != size {
		t.Errorf("%+v for a head of %d bytes", c, size)
	}
}

// TestDamagedHead flips and cuts a head everywhere: what is loaded is right all
// the same, by the base or by the log.
func TestDamagedHead(t *testing.T) {
	b := openBucket(t)
	m := newModel(t, b)
	m.commit(300)
	m.commit(300, 7, 9)
	m.save(history.Hot{Read: m.read, Touched: []uint32{3, 200}})
	key := folder + m.index.TXID().String() + ".head"
	head := whole(t, b, key)
	for at := 0; at < len(head); at += 1 + len(head)/90 {
		damaged := bytes.Clone(head)
		damaged[at] ^= 0x10
		if at%2 == 1 {
			damaged = damaged[:at]
		}
		if _, err := b.Put(t.Context(), key, bytes.NewReader(damaged), bucket.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		x, err := m.log.Load(t.Context(), m.index.TXID(), int64(len(head)))
		if err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		m.check(x)
		for p, err := range x.HotPages() {
			if err == nil && !bytes.Equal(p.Data, m.pages[p.Number]) {
				t.Fatalf("byte %d: hot page %d is another one", at, p.Number)
			}
		}
		if at > 0 {
			continue
		}
		if _, err := m.log.SaveHead(t.Context(), x, history.Hot{}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(objects(t, b), " "); got != "2.head" {
			t.Errorf("after a damaged head was saved again: %s", got)
		}
	}
}

// TestDamagedHotPack flips each bit of a pack's header and list, where a page
// could become another one: the index is good all the same, the pack is left out.
func TestDamagedHotPack(t *testing.T) {
	b := openBucket(t)
	m := newModel(t, b)
	m.commit(300)
	m.save(history.Hot{Read: m.read, Touched: []uint32{3, 200}})
	key := folder + m.index.TXID().String() + ".head"
	head := whole(t, b, key)
	begin := bytes.Index(head, []byte("hot1"))
	const list = 20 + 3*13
	for bit := range list * 8 {
		damaged := bytes.Clone(head)
		damaged[begin+bit/8] ^= 1 << (bit % 8)
		if _, err := b.Put(t.Context(), key, bytes.NewReader(damaged), bucket.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		x, err := m.log.Load(t.Context(), 1, int64(len(head)))
		if err != nil || x.HeadSize() != int64(len(head)) {
			t.Fatalf("bit %d: a head of %d bytes: %v", bit, x.HeadSize(), err)
		}
		for p := range x.HotPages() {
			t.Fatalf("bit %d: hot page %d", bit, p.Number)
		}
	}
}

// TestBaseOfAnotherHead puts a base under a head that counts its files
// differently: its blocks are refused, and the log says where the pages are.
func TestBaseOfAnotherHead(t *testing.T) {
	b := openBucket(t)
	m := newModel(t, b)
	c, file, places := m.encode(5000)
	ref, err := m.log.Append(t.Context(), c, bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.index.Apply(ref, c, places); err != nil {
		t.Fatal(err)
	}
	m.save(history.Hot{})
	key := folder + c.TXID.String() + ".head"
	head := whole(t, b, key)
	other := history.NewIndex()
	if err := other.Apply(history.FileRef{Level: 3, Min: 1, Max: 1}, c, places); err != nil {
		t.Fatal(err)
	}
	if _, err := m.log.SaveHead(t.Context(), other, history.Hot{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(t.Context(), key, bytes.NewReader(head), bucket.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	x, err := m.log.Load(t.Context(), 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	m.check(x)
	if list := m.log.Counts().List; list == 0 {
		t.Error("the log was not asked")
	}
}

// TestHotPackRoundTrip packs pages, loads them, and drops those that a later
// commit changed.
func TestHotPackRoundTrip(t *testing.T) {
	m := newModel(t, openBucket(t))
	m.commit(400)
	touched := []uint32{333, 5, 77}
	m.save(history.Hot{Touched: touched, Read: func(page uint32, data []byte) bool {
		ok := m.read(page, data)
		if page == 5 {
			data[0]++ // the local file is ahead of the bucket
		}
		return ok
	}})
	m.commit(400, 77)
	x, err := m.log.Load(t.Context(), 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.log.CatchUp(t.Context(), x); err != nil {
		t.Fatal(err)
	}
	var got []uint32
	for p, err := range x.HotPages() {
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p.Data, m.pages[p.Number]) {
			t.Errorf("page %d is another one", p.Number)
		}
		got = append(got, p.Number)
	}
	if len(got) != 2 || got[0] != 333 || got[1] != 1 {
		t.Errorf("pages %v, want 333 and page 1", got)
	}
	for range x.HotPages() {
		t.Error("the pack was there twice")
	}
	// A session that saw nothing keeps the list, of pages that it can read.
	m.index = x
	m.save(history.Hot{Read: m.read})
	if x, err = m.log.Load(t.Context(), 2, 0); err != nil {
		t.Fatal(err)
	}
	for page, want := range map[uint32]bool{333: true, 1: true, 5: false, 77: true} {
		if x.Packed(page) != want {
			t.Errorf("page %d packed: %v", page, !want)
		}
	}
}

// TestHeadStaysSmall commits one page to a database of 1 GiB and closes it.
func TestHeadStaysSmall(t *testing.T) {
	b := openBucket(t)
	log := history.NewLog(b, "tenants/acme/db/main")
	x := history.NewIndex()
	const pages = 262144
	places := make(map[uint32]history.Place, pages)
	at := int64(100)
	for p := uint32(1); p <= pages; p++ {
		length := 2000 + p*7919%1500
		places[p] = history.Place{Offset: at, Length: length, Hash: uint64(p) * 0x9e3779b97f4a7c15}
		at += int64(length)
	}
	apply := func(txid history.TXID, places map[uint32]history.Place) {
		t.Helper()
		c := history.Commit{PageSize: 4096, Pages: pages, TXID: txid, Time: time.Now()}
		if err := x.Apply(history.FileRef{Min: txid, Max: txid}, c, places); err != nil {
			t.Fatal(err)
		}
		if _, err := log.SaveHead(t.Context(), x, history.Hot{}); err != nil {
			t.Fatal(err)
		}
	}
	apply(1, places)
	before := log.Counts()
	apply(2, map[uint32]history.Place{5: {Offset: 100, Length: 2000, Hash: 1}})
	wrote := log.Counts().Sub(before)
	t.Logf("a close wrote %d bytes", wrote.BytesOut)
	if wrote.BytesOut > 128<<10 || wrote.Put != 1 {
		t.Errorf("a close after one commit: %+v", wrote)
	}
	loaded, err := log.Load(t.Context(), 2, x.HeadSize())
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range []uint32{6, 100_000, pages} {
		file, offset, length, ok := loaded.Guess(page)
		if p := places[page]; !ok || file.Max != 1 || p.Offset < offset || p.Offset+int64(p.Length) > offset+length || length > 160<<10 {
			t.Errorf("page %d at %+v is guessed in %v at %d, %d bytes (%v)", page, p, file, offset, length, ok)
		}
	}
	if _, _, _, ok := loaded.Guess(5); ok {
		t.Error("a page that the head knows is guessed")
	}
	if err := loaded.Prepare(context.Background(), []uint32{6}, 1); err != nil {
		t.Fatal(err)
	}
	if _, _, _, ok := loaded.Guess(7); ok {
		t.Error("a page whose block is here is guessed")
	}
}

// TestReloadFindsReplacedFiles has another writer save a head over other files
// with the same pages, as compaction does.
func TestReloadFindsReplacedFiles(t *testing.T) {
	b := openBucket(t)
	m := newModel(t, b)
	m.commit(5000)
	m.save(history.Hot{})
	x, err := m.log.Load(t.Context(), 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(t.Context(), folder+"0000000000000001.index"); err != nil {
		t.Fatal(err)
	}
	m.check(x) // by the log
	if err := x.Reload(t.Context()); err != nil {
		t.Errorf("reload: %v", err)
	}
	m.commit(5000, 3)
	if err := x.Reload(t.Context()); !errors.Is(errors.Unavailable, err) {
		t.Errorf("reload of an index that is behind: %v", err)
	}
}
