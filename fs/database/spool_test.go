package database

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestSpoolKeepsTheNewest writes, commits, gives up and shrinks at random, beside
// a model: every page reads as it was committed last, and the file is never
// larger than what was there at most.
func TestSpoolKeepsTheNewest(t *testing.T) {
	const size = 64
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		s, err := newSpool(t.TempDir(), 0)
		if err != nil {
			t.Fatal(err)
		}
		want, most := map[uint32]byte{}, 0
		for step := range 300 {
			taken, open := map[uint32]int64{}, map[uint32]int64{}
			values := map[uint32]byte{}
			for range r.IntN(20) {
				page, value := 1+r.Uint32N(30), byte(r.Uint32())
				if err := s.replace(open, page, bytes.Repeat([]byte{value}, size)); err != nil {
					t.Fatal(err)
				}
				values[page] = value
				most = max(most, len(s.at)+len(taken)+len(open)+1) // a version goes when the next one is there
				if r.IntN(3) == 0 {                                // a transaction ends
					s.merge(taken, open)
				}
			}
			s.merge(taken, open)
			if r.IntN(3) == 0 {
				s.discard()
				continue
			}
			pages := 1 + r.Uint32N(30)
			for page := range taken {
				if page > pages {
					delete(taken, page)
				}
			}
			s.commit(taken, pages)
			for page, value := range values {
				want[page] = value
			}
			for page := range want {
				if page > pages {
					delete(want, page)
				}
			}
			data := make([]byte, size)
			for page, value := range want {
				if ok, err := s.read(page, data); !ok || err != nil || !bytes.Equal(data, bytes.Repeat([]byte{value}, size)) {
					t.Fatalf("seed %d, step %d: page %d is %v (%v, %v), want %d", seed, step, page, data[0], ok, err, value)
				}
			}
			if len(s.at) != len(want) {
				t.Fatalf("seed %d, step %d: %d pages, want %d", seed, step, len(s.at), len(want))
			}
		}
		if s.size > int64(most*size) {
			t.Errorf("seed %d: the file has %d pages, of which %d were wanted at most", seed, s.size/size, most)
		}
		s.close()
	}
}
