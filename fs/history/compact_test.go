package history

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/bucket/faulty"
	"atc/fs/errors"
)

// testPolicy is the default on a scale that tests can walk through.
func testPolicy(t *testing.T) Policy {
	p := DefaultPolicy()
	p.Keep1, p.Keep2 = 6*time.Hour, 3*24*time.Hour
	p.SnapshotEvery, p.SnapshotFiles = 8*time.Hour, 20
	p.Every = 1
	p.Dir = t.TempDir()
	return p
}

// round is what an owner does now and then.
func round(ctx context.Context, log *Log, x *Index, p Policy, now time.Time) (Compaction, Retention, error) {
	c, err := log.Compact(ctx, x, p, now)
	if err != nil {
		return c, Retention{}, err
	}
	at, err := log.SaveIndex(ctx, x)
	if err != nil {
		return c, Retention{}, err
	}
	r, err := log.Retain(ctx, x, []TXID{at}, p)
	return c, r, err
}

// TestCompactionKeepsEveryPromise walks through random histories of some days.
func TestCompactionKeepsEveryPromise(t *testing.T) {
	seed := rand.Uint64()
	for n := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed+n), func(t *testing.T) {
			s, p := newStory(t, seed+n), testPolicy(t)
			steps := []time.Duration{time.Millisecond, time.Second, 40 * time.Second, 3 * time.Minute, 20 * time.Minute, 2 * time.Hour, 9 * time.Hour}
			var snapshots, deleted int
			for i := range 250 {
				if s.random.IntN(60) == 0 {
					s.states[0].pageSize = 512 << s.random.IntN(3)
				}
				s.any()
				s.step(steps[s.random.IntN(len(steps))])
				switch s.random.IntN(12) {
				case 0, 1:
					c, r, err := round(t.Context(), s.log, s.index, p, s.now)
					if err != nil {
						t.Fatal(err)
					}
					if deleted += r.Files; c.Snapshot != 0 {
						snapshots++
					}
				case 2: // another session
					x, err := s.log.Load(t.Context(), 0, 0)
					if err != nil {
						t.Fatal(err)
					}
					s.index = x
				}
				if i%25 == 24 {
					s.check(fmt.Sprint("step ", i), s.log, s.index, p)
				}
			}
			if s.check("the end", s.log, s.index, p); snapshots == 0 || deleted < 50 {
				t.Errorf("%d snapshots were made, %d files deleted", snapshots, deleted)
			}
			// After all retention, what is left is a snapshot and the end.
			for range 3 {
				s.step(p.Keep2 + p.Window2)
				s.any()
				if _, _, err := round(t.Context(), s.log, s.index, p, s.now.Add(p.Window2)); err != nil {
					t.Fatal(err)
				}
			}
			s.check("much later", s.log, s.index, p)
			if n := []int{s.store.count(0), s.store.count(1), s.store.count(2), s.store.count(9)}; n[0] > 4 || n[0] == 0 || n[1] > 6 || n[2] > 40 || n[3] > 3 {
				t.Errorf("much later there are %v files on levels 0, 1, 2, 9", n)
			}
		})
	}
}

// eventful builds a history in which the next round has something of everything
// to do: windows, hours, a snapshot, and files that have expired.
func eventful(t *testing.T, p Policy) *story {
	s := newStory(t, 42)
	s.commit(9, false)
	work := func(hours, commits int) {
		for range hours {
			for range commits {
				s.any()
				s.step(time.Hour / time.Duration(commits))
			}
		}
	}
	work(3, 4)
	if _, _, err := round(t.Context(), s.log, s.index, p, s.now); err != nil {
		t.Fatal(err)
	}
	s.step(5 * time.Hour)
	work(2, 6)
	if _, err := s.log.Compact(t.Context(), s.index, p, s.now); err != nil {
		t.Fatal(err)
	}
	s.step(7 * time.Hour)
	work(2, 5)
	s.any()
	s.any()
	return s
}

// TestKilledAtEveryRequest ends a compaction and retention at each request in
// turn, before it and after it was done but before that was known. Nothing
// promised may be lost, and the next session has to finish the work.
func TestKilledAtEveryRequest(t *testing.T) {
	p := testPolicy(t)
	s := eventful(t, p)
	start := s.store
	begin := TXID(len(s.states) - 1)
	// run is a session on a copy of the store, whose requests meet the faults.
	run := func(faults ...faulty.Fault) (*memory, *faulty.Injected, Compaction, Retention, error) {
		store := start.clone()
		b := faulty.Wrap(store)
		log := NewLog(b, testFolder)
		x, err := log.Load(t.Context(), 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		var first *faulty.Injected
		for i, f := range faults {
			if in := b.Inject(f); i == 0 {
				first = in
			}
		}
		c, r, err := round(t.Context(), log, x, p, s.now)
		return store, first, c, r, err
	}
	whole, counted, c, r, err := run(faulty.Fault{Latency: 1})
	if err != nil || c.Snapshot == 0 || r.Files == 0 {
		t.Fatalf("%+v %+v %v", c, r, err)
	}
	requests := counted.Hits()
	t.Logf("%d requests; files by level before %d %d %d %d, after %d %d %d %d", requests,
		start.count(0), start.count(1), start.count(2), start.count(9), whole.count(0), whole.count(1), whole.count(2), whole.count(9))
	for n := range requests {
		for _, kind := range []faulty.Fault{{Before: errors.Unavailable}, {After: errors.Unavailable}} {
			what := fmt.Sprintf("request %d %+v", n, kind)
			kind.Times = 1
			faults := []faulty.Fault{kind, {Before: errors.Unavailable}} // then it is dead
			if n > 0 {
				faults = append([]faulty.Fault{{Times: n, Latency: 1}}, faults...) // but lives until then
			}
			store, _, _, _, err := run(faults...)
			if err == nil {
				t.Fatalf("%s: it was not killed", what)
			}
			log := NewLog(store, testFolder)
			s.check(what, log, nil, p)
			x, err := log.Load(t.Context(), 0, 0)
			if err != nil || x.TXID() != begin {
				t.Fatalf("%s: %v", what, err)
			}
			if _, _, err := round(t.Context(), log, x, p, s.now); err != nil {
				t.Fatalf("%s, finishing: %v", what, err)
			}
			s.check(what+", finished", log, x, p)
			for level := range levels {
				if store.count(level) > whole.count(level) {
					t.Fatalf("%s: level %d has %d files, %d without the kill", what, level, store.count(level), whole.count(level))
				}
			}
		}
	}
}

// TestDamagedInputStopsCompaction damages every file in turn.
func TestDamagedInputStopsCompaction(t *testing.T) {
	p := testPolicy(t)
	s := eventful(t, p)
	keys := slices.Collect(func(yield func(string) bool) {
		for e := range s.store.List(t.Context(), testFolder+"/000", bucket.ListOptions{}) {
			if !yield(e.Key) {
				return
			}
		}
	})
	refused := 0
	for _, key := range keys {
		whole := s.store.objects[key]
		for what, damaged := range map[string][]byte{
			"flipped header": faulty.Flip(30)(whole.data), "flipped": faulty.Flip(len(whole.data) / 2)(whole.data), "flipped end": faulty.Flip(-1)(whole.data),
			"cut": whole.data[:len(whole.data)-5], "cut page": whole.data[:len(whole.data)/2], "empty": nil, "cut trailer": whole.data[:len(whole.data)-17],
		} {
			store := s.store.clone()
			log := NewLog(store, testFolder)
			x, err := log.Load(t.Context(), 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			bad := whole
			bad.data = damaged
			store.objects[key] = bad
			before := store.clone()
			_, err = log.Compact(t.Context(), x, p, s.now)
			if err != nil {
				refused++
				if !errors.Is(errors.Corrupt, err) {
					t.Errorf("%s of %s: %v", what, key, err)
				}
			}
			for k, o := range before.objects {
				if now, ok := store.objects[k]; !ok || !bytes.Equal(now.data, o.data) && strings.HasSuffix(k, ".ltx") {
					t.Errorf("%s of %s: %s has changed or gone", what, key, k)
				}
			}
			if err := s.holds(log, x, x.TXID()); err != nil && !errors.Is(errors.Corrupt, err) {
				t.Errorf("%s of %s: the index in use: %v", what, key, err)
			}
		}
	}
	if refused < 50 {
		t.Errorf("only %d of %d damages were noticed", refused, 7*len(keys))
	}
	if left, _ := os.ReadDir(p.Dir); len(left) != 0 {
		t.Errorf("%d scratch files are left", len(left))
	}
}

// TestFormerOwnerCompactsLate has two indexes of one history, of which one
// knows less, compact by turns: files overlap, and nothing is lost.
func TestFormerOwnerCompactsLate(t *testing.T) {
	p := testPolicy(t)
	for n := range 12 {
		s := newStory(t, uint64(n))
		s.commit(5, false)
		var stale *Index
		var staleList *memory
		for i := range 60 {
			s.any()
			s.step(time.Duration(s.random.IntN(200)) * time.Second)
			if i == 20+n%20 {
				var err error
				if stale, err = s.log.Load(t.Context(), 0, 0); err != nil {
					t.Fatal(err)
				}
				staleList = s.store.clone()
			}
			if i%17 == 16 {
				if _, _, err := round(t.Context(), s.log, s.index, p, s.now); err != nil {
					t.Fatal(err)
				}
			}
		}
		// It sees the bucket as it was, and its clock is an hour ahead.
		late := NewLog(&staleView{s.store, staleList}, testFolder)
		c, err := late.Compact(t.Context(), stale, p, s.now.Add(time.Hour))
		if err != nil && !errors.Is(errors.NotExist, err) { // its inputs may be gone
			t.Fatal(err)
		}
		t.Logf("%d: late it put %d files: %v", n, len(c.Outputs), err)
		s.check(fmt.Sprint("late, ", n), s.log, s.index, p)
		for range 3 {
			s.any()
			s.step(time.Hour)
			if _, _, err := round(t.Context(), s.log, s.index, p, s.now); err != nil {
				t.Fatal(err)
			}
			s.check(fmt.Sprint("after it, ", n), s.log, s.index, p)
		}
	}
}

// staleView reads one state of a bucket and writes to another.
type staleView struct {
	*memory
	then *memory
}

func (v *staleView) List(ctx context.Context, prefix string, opts bucket.ListOptions) iter.Seq2[bucket.Entry, error] {
	return v.then.List(ctx, prefix, opts)
}

// TestShrinkInsideWindow grows back over pages that must not come back.
func TestShrinkInsideWindow(t *testing.T) {
	p := testPolicy(t)
	s := newStory(t, 1)
	s.commit(20, false)
	s.commit(20, false, 2)
	s.commit(20, false, 3, 15, 18)
	s.commit(6, false, 2)
	s.commit(16, true, 4) // pages 7 to 15 were never written since
	s.commit(18, true, 5)
	s.step(3 * time.Hour)
	s.any()
	s.step(time.Second)
	if _, _, err := round(t.Context(), s.log, s.index, p, s.now); err != nil {
		t.Fatal(err)
	}
	s.check("merged", s.log, s.index, p)
	if s.store.count(2) != 1 {
		t.Errorf("%d files on level 2", s.store.count(2))
	}
	// The merged file alone, over the snapshot, gives the same.
	for key := range s.store.objects {
		if strings.Contains(key, "/0000/") && !strings.Contains(key, "1-0000000000000001.ltx") && !strings.Contains(key, "7-0000000000000007.ltx") {
			delete(s.store.objects, key)
		}
	}
	x, err := s.log.LoadAt(t.Context(), 6)
	if err == nil {
		err = s.holds(s.log, x, 6)
	}
	if err != nil {
		t.Error(err)
	}
}

// TestIndexLeftBehind has an index that still names what was merged: its files
// stay, the next compaction repoints it, and only then they go. Another one,
// which is older, catches up over files that are gone.
func TestIndexLeftBehind(t *testing.T) {
	p := testPolicy(t)
	p.Window2 = 24 * time.Hour // or the next level would repoint it
	s := newStory(t, 8)
	s.commit(30, false)
	for range 12 {
		s.any()
		s.step(time.Minute)
	}
	older, err := s.log.Load(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.any()
	behind, err := s.log.Load(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.step(10 * time.Minute)
	s.any()
	s.step(time.Second)
	c, err := s.log.Compact(t.Context(), s.index, p, s.now)
	if err != nil || len(c.Outputs) != 3 {
		t.Fatalf("%+v %v", c, err)
	}
	for _, f := range c.Outputs {
		if f.Min == 1 || f.Max == s.index.TXID() {
			t.Errorf("%+v was made of transaction 1, or of a window that lasts", f)
		}
	}
	s.step(2 * time.Hour)
	at, err := s.log.SaveIndex(t.Context(), behind)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.log.Retain(t.Context(), behind, []TXID{at}, p); err != nil {
		t.Fatal(err)
	}
	if err := s.holds(s.log, behind, behind.TXID()); err != nil {
		t.Fatalf("after retention: %v", err)
	}
	if err := s.log.CatchUp(t.Context(), behind); err != nil {
		t.Fatal(err)
	}
	if _, _, err := round(t.Context(), s.log, behind, p, s.now); err != nil {
		t.Fatal(err)
	}
	if err := s.holds(s.log, behind, behind.TXID()); err != nil {
		t.Fatalf("repointed: %v", err)
	}
	s.step(2 * time.Hour)
	if _, err := s.log.Retain(t.Context(), behind, []TXID{behind.TXID()}, p); err != nil {
		t.Fatal(err)
	}
	if n := s.store.count(0); n != 2 { // transaction 1 and the last
		t.Errorf("%d files are left on level 0", n)
	}
	if err := s.log.CatchUp(t.Context(), older); err != nil {
		t.Fatal(err)
	}
	if err := s.log.Rebuild(t.Context(), older); err != nil {
		t.Fatal(err)
	}
	if err := s.holds(s.log, older, behind.TXID()); err != nil {
		t.Errorf("caught up: %v", err)
	}
	// A copy of an index that moves on is none.
	err = s.log.WriteTo(t.Context(), behind, &buffer{}, func(uint32, uint32) {
		if behind.TXID() == TXID(len(s.states)-1) {
			s.index = behind
			s.any()
		}
	})
	if !errors.Is(errors.Condition, err) {
		t.Errorf("a copy of an index that moved on: %v", err)
	}
}

// TestCompactionCosts counts requests: nothing to do, and an hour at one file a
// second.
func TestCompactionCosts(t *testing.T) {
	p := testPolicy(t)
	p.Every, p.Keep1, p.Keep2 = 64, 24*time.Hour, 30*24*time.Hour
	s := newStory(t, 3)
	s.commit(50, false)
	var count bucket.Counters
	log := NewLog(bucket.Count(s.store, &count), testFolder)
	done := Compaction{At: 1}
	calls := 0
	for range 3600 {
		s.commit(50, false, 1, 1+s.random.IntN(50), 1+s.random.IntN(50))
		s.step(time.Second)
		if !done.Due(p, s.index.TXID(), s.now) {
			continue
		}
		calls++
		var err error
		if done, err = log.Compact(t.Context(), s.index, p, s.now); err != nil {
			t.Fatal(err)
		}
		if len(done.Outputs) > 0 {
			at, err := log.SaveIndex(t.Context(), s.index)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := log.Retain(t.Context(), s.index, []TXID{at}, p); err != nil {
				t.Fatal(err)
			}
		}
	}
	hour := count.Snapshot()
	t.Logf("an hour at one file a second, %d calls: %+v", calls, hour)
	if hour.List > 150 || hour.Put > 60 || hour.Get > 3600+1200 {
		t.Errorf("an hour costs %+v", hour)
	}
	if _, err := log.Compact(t.Context(), s.index, p, s.now); err != nil {
		t.Fatal(err)
	}
	before := count.Snapshot()
	if _, err := log.Compact(t.Context(), s.index, p, s.now); err != nil {
		t.Fatal(err)
	}
	after := count.Snapshot()
	t.Logf("nothing to do: before %+v after %+v", before, after)
	if after.Get-before.Get > 1 || after.Put != before.Put || after.List-before.List > 5 {
		t.Errorf("nothing to do costs %+v after %+v", after, before)
	}
	if done.Due(p, s.index.TXID(), done.Next.Add(-time.Second)) {
		t.Error("due although no window was closed since")
	}
}
