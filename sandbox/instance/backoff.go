package instance

import "time"

// This file decides how long a tenant's application is left alone after it
// crashed.

const (
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 10 * time.Second
	healthyTime  = time.Minute // running this long makes earlier crashes forgotten
)

// crashes is the memory of crashes without a healthy minute between them.
type crashes struct {
	inARow int
	at     time.Time // of the last one
	last   error
}

// add counts a crash of an instance that had been ready for a while (0 when it
// never was).
func (c *crashes) add(now time.Time, readyFor time.Duration, err error) {
	if readyFor >= healthyTime {
		c.inARow = 0
	}
	c.inARow++
	c.at, c.last = now, err
}

// remaining is how long no start may be tried yet.
func (c *crashes) remaining(now time.Time) time.Duration {
	if c.inARow == 0 {
		return 0
	}
	wait := maxBackoff
	if n := c.inARow - 1; n < 16 {
		wait = min(firstBackoff<<n, maxBackoff)
	}
	return max(0, wait-now.Sub(c.at))
}
