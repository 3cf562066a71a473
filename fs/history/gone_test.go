package history

import (
	"context"
	"iter"
	"sync"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/errors"
)

// between calls do once, after the first listing or before the first range read.
type between struct {
	bucket.Bucket
	mu           sync.Mutex
	listed, read func()
}

func (b *between) once(do *func()) {
	b.mu.Lock() // who comes second finds it done
	defer b.mu.Unlock()
	if f := *do; f != nil {
		*do = nil
		f()
	}
}

func (b *between) List(ctx context.Context, prefix string, opts bucket.ListOptions) iter.Seq2[bucket.Entry, error] {
	return func(yield func(bucket.Entry, error) bool) {
		defer b.once(&b.listed)
		for e, err := range b.Bucket.List(ctx, prefix, opts) {
			if !yield(e, err) {
				return
			}
		}
	}
}

func (b *between) GetRange(ctx context.Context, key string, offset, length int64, etag string) ([]byte, bucket.Info, error) {
	b.once(&b.read)
	return b.Bucket.GetRange(ctx, key, offset, length, etag)
}

// TestFilesGoMeanwhile has the owner delete what it has merged, just when others
// have learned of the files: what they look for is still there, elsewhere.
func TestFilesGoMeanwhile(t *testing.T) {
	// All points in time fall on ends of windows, which stay.
	begin := func(t *testing.T) (s *story, at *between, log *Log, merge func()) {
		s = newStory(t, 3)
		s.commit(40, false)
		for range 12 {
			s.step(10 * time.Minute)
			s.any()
		}
		s.step(2 * time.Hour)
		at = &between{Bucket: s.store}
		return s, at, NewLog(at, testFolder), func() {
			p := testPolicy(t)
			for range 2 {
				if _, _, err := round(t.Context(), s.log, s.index, p, s.now); err != nil {
					t.Error(err)
				}
				s.step(2 * time.Hour)
			}
			if n := s.store.count(0); n != 2 {
				t.Errorf("%d files of level 0", n)
			}
		}
	}
	const last = 13
	for _, c := range []struct {
		name string
		do   func(t *testing.T, s *story, at *between, log *Log, merge func())
	}{
		{"find", func(t *testing.T, s *story, at *between, log *Log, merge func()) {
			at.listed = merge
			if p, err := log.Find(t.Context(), s.states[5].time); err != nil || p.TXID != 5 {
				t.Errorf("%+v %v", p, err)
			}
		}},
		{"write", func(t *testing.T, s *story, at *between, log *Log, merge func()) {
			x, err := log.LoadAt(t.Context(), last)
			if err != nil {
				t.Fatal(err)
			}
			at.read = merge
			if err := s.holds(log, x, last); err != nil {
				t.Error(err)
			}
		}},
		{"copy", func(t *testing.T, s *story, at *between, log *Log, merge func()) {
			at.listed = merge
			if err := log.CopyTo(t.Context(), "copy", 5, nil); err != nil {
				t.Fatal(err)
			}
			to := NewLog(s.store, "copy")
			x, err := to.Load(t.Context(), 0, 0)
			if err == nil {
				err = s.holds(to, x, 5)
			}
			if err != nil {
				t.Error(err)
			}
		}},
		{"always", func(t *testing.T, s *story, at *between, log *Log, _ func()) {
			var lose func()
			lose = func() {
				for key := range s.store.objects {
					delete(s.store.objects, key)
				}
				at.listed = lose
			}
			at.listed = lose
			_, err := log.Find(t.Context(), s.states[5].time)
			if !errors.Is(errors.NotExist, err) { // there is nothing any more
				t.Error(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, at, log, merge := begin(t)
			c.do(t, s, at, log, merge)
		})
	}
}

// TestIndexObjectAlone loads a history whose head was never written: whoever
// goes on has to know when and by whom the last commit was made.
func TestIndexObjectAlone(t *testing.T) {
	s := newStory(t, 2)
	s.commit(30, false)
	for range 5 {
		s.any()
	}
	if err := s.log.saveBase(t.Context(), s.index); err != nil {
		t.Fatal(err)
	}
	x, err := s.log.Load(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if want := s.last().time.Truncate(time.Millisecond); x.Epoch() != 1 || !x.Time().Equal(want) {
		t.Errorf("the last commit is of epoch %d at %v, want 1 and %v", x.Epoch(), x.Time(), want)
	}
	if next := x.NextTime(s.last().time.Add(-time.Hour)); !next.After(s.last().time.Truncate(time.Millisecond)) {
		t.Errorf("the next commit would be at %v, before the last one", next)
	}
}
