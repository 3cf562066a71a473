package history

import (
	"context"
	"fmt"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/bucket/faulty"
	"atc/fs/errors"
)

const forkFolder = "tenants/new/db/main"

// TestCopyTo copies a history up to each of its positions, and goes on writing
// the copy.
func TestCopyTo(t *testing.T) {
	p := testPolicy(t)
	s := eventful(t, p)
	if _, _, err := round(t.Context(), s.log, s.index, p, s.now); err != nil {
		t.Fatal(err)
	}
	found, err := s.log.list(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	restored := make(map[TXID]bool)
	for _, f := range restorable(found.files) {
		restored[f.Max] = true
	}
	for upTo := TXID(0); int(upTo) < len(s.states); upTo++ {
		store := s.store.clone()
		var count bucket.Counters
		log := NewLog(bucket.Count(store, &count), testFolder)
		total := 0
		err := log.CopyTo(t.Context(), forkFolder, upTo, func(_, n int) { total = n })
		if upTo != 0 && !restored[upTo] {
			if !errors.Is(errors.NotExist, err) {
				t.Errorf("up to %d: %v", upTo, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("up to %d: %v", upTo, err)
		}
		if c := count.Snapshot(); c.Copy != int64(total) || c.Put+c.Get > 1 || c.BytesIn > firstRead {
			t.Errorf("up to %d: %d objects cost %+v", upTo, total, c)
		}
		end := upTo
		if end == 0 {
			end = TXID(len(s.states) - 1)
		}
		fork := NewLog(store, forkFolder)
		x, err := fork.Load(t.Context(), 0, 0)
		if err == nil {
			err = s.holds(fork, x, end)
		}
		if err != nil {
			t.Fatalf("up to %d: %v", upTo, err)
		}
		// The copy lives on by itself.
		for key := range store.objects {
			if key[:len(testFolder)] == testFolder {
				delete(store.objects, key)
			}
		}
		after := &story{t: t, random: s.random, store: store, log: fork, index: x, now: s.now.Add(24 * time.Hour), states: append(s.states[:0:0], s.states[:end+1]...)}
		for range 3 {
			after.any()
			after.step(time.Hour)
			if _, _, err := round(t.Context(), fork, x, p, after.now); err != nil {
				t.Fatalf("up to %d: %v", upTo, err)
			}
		}
		short := p
		short.Keep1, short.Keep2 = 3*time.Hour, 3*time.Hour // what was before is another history's promise
		after.check(fmt.Sprint("fork at ", end), fork, x, short)
	}
}

// TestCopyInterrupted ends a copy at each request, and then does it again.
func TestCopyInterrupted(t *testing.T) {
	s := newStory(t, 2)
	s.commit(8, false)
	for range 6 {
		s.any()
	}
	if _, err := s.log.SaveIndex(t.Context(), s.index); err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		store := s.store.clone()
		b := faulty.Wrap(store)
		if n > 0 {
			b.Inject(faulty.Fault{Times: n, Latency: 1})
		}
		b.Inject(faulty.Fault{Before: errors.Unavailable})
		err := NewLog(b, testFolder).CopyTo(t.Context(), forkFolder, 6, nil)
		again := NewLog(store, testFolder).CopyTo(t.Context(), forkFolder, 6, nil)
		if again != nil {
			t.Fatalf("after %d requests: %v", n, again)
		}
		fork := NewLog(store, forkFolder)
		x, e := fork.Load(t.Context(), 0, 0)
		if e == nil {
			e = s.holds(fork, x, 6)
		}
		if e != nil {
			t.Fatalf("after %d requests: %v", n, e)
		}
		if err == nil {
			if n < 6 {
				t.Errorf("a copy of 6 objects took %d requests", n)
			}
			break
		}
	}
	if err := s.log.CopyTo(t.Context(), forkFolder, 3, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.log.CopyTo(t.Context(), forkFolder, 2, nil); !errors.Is(errors.Exist, err) {
		t.Errorf("onto another history: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.log.CopyTo(ctx, "tenants/third/db/main", 3, nil); !errors.Is(errors.Canceled, err) {
		t.Errorf("canceled: %v", err)
	}
}
