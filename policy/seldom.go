package policy

import (
	"sync"
	"time"
)

// seldom lets something be logged once a second, however often it happens. It
// is safe for concurrent use.
type seldom struct {
	mu   sync.Mutex
	last time.Time // guarded by mu
	kept int       // guarded by mu: how often it has happened unsaid
}

// tell reports whether it is to be said now, and how often it was not.
func (s *seldom) tell() (unsaid int, now bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.last.IsZero() && time.Since(s.last) < time.Second {
		s.kept++
		return 0, false
	}
	unsaid, s.kept, s.last = s.kept, 0, time.Now()
	return unsaid, true
}
