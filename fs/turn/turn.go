// Package turn is a lock that one can stop waiting for: whoever has it may be
// waiting for the bucket, and who wants it may have less time than that takes.
//
//	if err := t.Take(ctx); err != nil {
//		return err
//	}
//	defer t.Pass()
package turn

import "context"

// Turn is held by one at a time. Its methods may be called concurrently.
type Turn chan struct{}

// New returns a Turn that nobody has.
func New() Turn { return make(Turn, 1) }

// Take waits for the turn, and fails with the context's error when ctx ends
// first. A turn that is free is taken whatever ctx says.
func (t Turn) Take(ctx context.Context) error {
	if t.Try() {
		return nil
	}
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Try takes the turn if it is free, and reports whether it was.
func (t Turn) Try() bool {
	select {
	case t <- struct{}{}:
		return true
	default:
		return false
	}
}

// Pass gives the turn to the next.
func (t Turn) Pass() { <-t }
