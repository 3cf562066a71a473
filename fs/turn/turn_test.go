package turn_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"atc/fs/turn"
)

func TestTurn(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	mine := turn.New()
	if err := mine.Take(ended); err != nil {
		t.Errorf("it is free: %v", err)
	}
	if mine.Try() {
		t.Error("two have it")
	}
	if err := mine.Take(ended); err != context.Canceled {
		t.Errorf("giving up: %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := mine.Take(short); err != context.DeadlineExceeded {
		t.Errorf("giving up after a time: %v", err)
	}
	mine.Pass()
	if !mine.Try() {
		t.Error("nobody has it, and it cannot be had")
	}
}

// TestHammerTurn has many take turns at a counter without any other lock, some
// of which give up.
func TestHammerTurn(t *testing.T) {
	mine, counter, taken := turn.New(), 0, make(chan int, 100)
	var wg sync.WaitGroup
	for i := range cap(taken) {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*50*time.Microsecond)
			defer cancel()
			n := 0
			for range 50 {
				if mine.Take(ctx) == nil {
					counter++
					n++
					mine.Pass()
				}
			}
			taken <- n
		})
	}
	wg.Wait()
	close(taken)
	sum := 0
	for n := range taken {
		sum += n
	}
	if counter != sum || sum == 0 {
		t.Errorf("%d turns were taken, %d counted", sum, counter)
	}
}
