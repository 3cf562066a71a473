package instance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"atc/sandbox"
)

// This file decides when a process that was started can be given requests.

const (
	firstPoll   = 5 * time.Millisecond
	maxPoll     = 100 * time.Millisecond
	probeAnswer = 5 * time.Second // for one HTTP answer
)

// healthy returns when the process answers: nil, or why it will not.
func healthy(ctx context.Context, process *sandbox.Process, path string) error {
	wait := firstPoll
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last error
	for {
		select {
		case <-timer.C:
		case <-process.Done():
			return errors.New("ended before it answered")
		case <-ctx.Done():
			if last == nil {
				return ctx.Err()
			}
			return fmt.Errorf("%w; the last attempt: %w", ctx.Err(), last)
		}
		if last = probe(ctx, process, path); last == nil {
			return nil
		}
		timer.Reset(wait)
		wait = min(wait*3/2, maxPoll)
	}
}

// probe tries once.
func probe(ctx context.Context, process *sandbox.Process, path string) error {
	ctx, cancel := context.WithTimeout(ctx, probeAnswer)
	defer cancel()
	conn, err := process.Dial(ctx)
	if err != nil || path == "" {
		if conn != nil {
			conn.Close()
		}
		return err
	}
	transport := &http.Transport{
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		DisableKeepAlives: true,
	}
	defer conn.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, nil)
	if err != nil {
		return err
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode >= http.StatusInternalServerError {
		return fmt.Errorf("%s answers %s", path, res.Status)
	}
	return nil
}
