package history

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/bucket/faulty"
	"atc/fs/errors"
)

// TestFind asks for times before, at, between and behind the commits, before
// and after files were merged.
func TestFind(t *testing.T) {
	p := testPolicy(t)
	s := newStory(t, 9)
	s.commit(4, false)
	for range 60 {
		s.any()
		s.step(time.Duration(s.random.IntN(150)) * time.Second)
	}
	find := func(what string) {
		t.Helper()
		first, last, err := s.log.Range(t.Context())
		if err != nil || first.TXID != 1 || last.TXID != 61 || !last.Time.Equal(s.last().time.Truncate(time.Millisecond)) {
			t.Fatalf("%s: range %+v %+v %v", what, first, last, err)
		}
		found, err := s.log.list(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for n := 1; n < len(s.states); n++ {
			for _, d := range []time.Duration{-time.Millisecond, 0, time.Millisecond, time.Hour} {
				at := s.states[n].time.Add(d)
				var want TXID
				for _, f := range restorable(found.files) {
					if !s.states[f.Max].time.After(at) {
						want = f.Max
					}
				}
				got, err := s.log.Find(t.Context(), at)
				if got.TXID != want || (err == nil) != (want != 0) {
					t.Fatalf("%s: at %v: %+v %v, want %d", what, at, got, err, want)
				}
			}
		}
		_, err = s.log.Find(t.Context(), s.states[1].time.Add(-time.Second))
		if !errors.Is(errors.NotExist, err) || !strings.Contains(err.Error(), stamp(last.Time)) {
			t.Errorf("%s: before everything: %v", what, err)
		}
	}
	find("plain")
	s.step(3 * time.Hour)
	if _, err := s.log.Compact(t.Context(), s.index, p, s.now); err != nil {
		t.Fatal(err)
	}
	find("merged")
	if _, _, err := round(t.Context(), s.log, s.index, p, s.now); err != nil {
		t.Fatal(err)
	}
	find("pruned")
	if _, _, err := NewLog(s.store, "tenants/nobody/db/x").Range(t.Context()); !errors.Is(errors.NotExist, err) {
		t.Errorf("of nothing: %v", err)
	}
}

// TestLoadAtReadsNoSnapshot counts the bytes that going back in time costs.
func TestLoadAtReadsNoSnapshot(t *testing.T) {
	p := testPolicy(t)
	s := newStory(t, 4)
	s.states[0].pageSize = 4096
	s.random = rand.New(rand.NewPCG(1, 1))
	s.commit(1000, false)
	for range 5 {
		s.step(10 * time.Hour)
		for n := range 250 {
			s.commit(1000, false, 1, 1+s.random.IntN(1000), 1+4*n, 2+4*n, 3+4*n, 4+4*n)
		}
		s.step(time.Hour)
		if _, _, err := round(t.Context(), s.log, s.index, p, s.now); err != nil {
			t.Fatal(err)
		}
	}
	if s.store.count(snapshotLevel) == 0 {
		t.Fatal("there is no snapshot")
	}
	s.commit(1000, false, 5)
	var count bucket.Counters
	log := NewLog(bucket.Count(s.store, &count), testFolder)
	last := TXID(len(s.states) - 1)
	x, err := log.LoadAt(t.Context(), last)
	if err != nil {
		t.Fatal(err)
	}
	got := count.Snapshot()
	found, _ := log.list(t.Context())
	plan, _ := Plan(found.files, last)
	var all int64
	for _, f := range plan {
		all += f.Size
	}
	t.Logf("read %d of %d bytes in %d requests", got.BytesIn, all, got.Get)
	if got.BytesIn > all-plan[0].Size+firstRead+1000 {
		t.Errorf("read %d bytes of a plan of %d with a snapshot of %d", got.BytesIn, all, plan[0].Size)
	}
	if err := s.holds(log, x, last); err != nil {
		t.Error(err)
	}
	// A base that names anything else, or is damaged, is not believed.
	if _, err := s.log.SaveIndex(t.Context(), x); err != nil {
		t.Fatal(err)
	}
	wrong := s.store.objects[s.log.indexKey(last)]
	for what, data := range map[string][]byte{
		"another's": wrong.data, "damaged": faulty.Flip(20)(wrong.data), "empty": nil,
	} {
		wrong.data = data
		s.store.objects[s.log.indexKey(plan[0].Max)] = wrong
		x, err := s.log.LoadAt(t.Context(), last)
		if err == nil {
			err = s.holds(s.log, x, last)
		}
		if err != nil {
			t.Errorf("with a base that is %s: %v", what, err)
		}
	}
}

// TestRebuildFindsWhatWasMerged has an index in use whose files go.
func TestRebuildFindsWhatWasMerged(t *testing.T) {
	p := testPolicy(t)
	s := newStory(t, 5)
	s.commit(30, false)
	for range 30 {
		s.any()
		s.step(5 * time.Minute)
	}
	other, err := s.log.Load(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.step(2 * time.Hour)
	for range 2 {
		if _, _, err := round(t.Context(), s.log, s.index, p, s.now); err != nil {
			t.Fatal(err)
		}
		s.step(2 * time.Hour)
	}
	last := other.TXID()
	used, err := other.inUse(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	gone := 0
	for ref := range used {
		if _, ok := s.store.objects[s.log.fileKey(ref)]; !ok {
			gone++
		}
	}
	if gone == 0 {
		t.Fatalf("all of %v are still there", used)
	}
	if err := s.log.Rebuild(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if err := s.holds(s.log, other, last); err != nil {
		t.Error(err)
	}
}

// TestWriteTo looks at what a copy costs, leaves out, and does when it fails.
func TestWriteTo(t *testing.T) {
	s := newStory(t, 6)
	s.states[0].pageSize = 4096
	s.commit(2000, false)
	s.commit(2003, true, 7, 900) // pages 2001 and 2002 are holes
	var count bucket.Counters
	log := NewLog(bucket.Count(s.store, &count), testFolder)
	var reported []uint32
	var out buffer
	err := log.WriteTo(t.Context(), s.index, &out, func(done, total uint32) {
		if total != 2003 {
			t.Errorf("%d of %d", done, total)
		}
		reported = append(reported, done)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := count.Snapshot(); got.Get > 4 || reported[len(reported)-1] != 2003 {
		t.Errorf("%d requests; progress %v", got.Get, reported)
	}
	if err := s.holds(log, s.index, 2); err != nil {
		t.Error(err)
	}
	// Zero pages are not written.
	zeros := newStory(t, 1)
	zeros.put(state{pageSize: 512, pages: [][]byte{make([]byte, 512), make([]byte, 512)}, time: zeros.now}, map[int]bool{1: true, 2: true})
	var w countingWriter
	if err := zeros.log.WriteTo(t.Context(), zeros.index, &w, nil); err != nil || w.writes != 1 {
		t.Errorf("%d writes of a database of zeros: %v", w.writes, err)
	}
	// A damaged page is named, a canceled copy ends.
	key := testFolder + "/0000/" + s.log.fileKey(FileRef{Min: 1, Max: 1})[len(testFolder)+6:]
	whole := s.store.objects[key]
	bad := whole
	at, _, err := s.index.Lookup(t.Context(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	bad.data = faulty.Flip(int(at.Offset) + 20)(whole.data) // inside the page's number, size or content
	s.store.objects[key] = bad
	if err := s.log.WriteTo(t.Context(), s.index, &buffer{}, nil); !errors.Is(errors.Corrupt, err) {
		t.Errorf("with a damaged page: %v", err)
	}
	bad.data = whole.data[:1000]
	s.store.objects[key] = bad
	if err := s.log.WriteTo(t.Context(), s.index, &buffer{}, nil); !errors.Is(errors.Corrupt, err) {
		t.Errorf("with a file that is cut: %v", err)
	}
	s.store.objects[key] = whole
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.log.WriteTo(ctx, s.index, &buffer{}, nil); !errors.Is(errors.Canceled, err) {
		t.Errorf("canceled: %v", err)
	}
	if err := s.log.WriteTo(t.Context(), s.index, failingWriter{}, nil); err == nil {
		t.Error("a writer that fails was not noticed")
	}
}

type countingWriter struct{ writes int }

func (w *countingWriter) WriteAt(p []byte, _ int64) (int, error) { w.writes++; return len(p), nil }

type failingWriter struct{}

func (failingWriter) WriteAt([]byte, int64) (int, error) { return 0, fmt.Errorf("full") }
