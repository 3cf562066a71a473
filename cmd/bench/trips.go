package main

import (
	"cmp"
	"context"
	"io"
	"slices"
	"sync"
	"time"

	"atc/fs/bucket"
)

// This file counts round trips: of all requests to the store, the longest
// sequence in which each began after the one before had its answer.

// timed is a bucket that remembers when its requests began and ended.
type timed struct {
	bucket.Bucket
	mu    sync.Mutex // protects spans
	spans []span
}

type span struct{ began, ended time.Time }

func (b *timed) note(began time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spans = append(b.spans, span{began, time.Now()})
}

// Get counts up to where the body begins.
func (b *timed) Get(ctx context.Context, key string) (io.ReadCloser, bucket.Info, error) {
	defer b.note(time.Now())
	return b.Bucket.Get(ctx, key)
}

func (b *timed) GetRange(ctx context.Context, key string, offset, length int64, etag string) ([]byte, bucket.Info, error) {
	defer b.note(time.Now())
	return b.Bucket.GetRange(ctx, key, offset, length, etag)
}

func (b *timed) Put(ctx context.Context, key string, body io.ReadSeeker, opts bucket.PutOptions) (bucket.Info, error) {
	defer b.note(time.Now())
	return b.Bucket.Put(ctx, key, body, opts)
}

// trips is the length of the longest sequence since a moment. Requests that
// nobody waited for are in it if they fit.
func (b *timed) trips(since time.Time) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	slices.SortFunc(b.spans, func(x, y span) int { return cmp.Compare(x.ended.UnixNano(), y.ended.UnixNano()) })
	for _, s := range b.spans {
		if s.began.After(since) {
			n, since = n+1, s.ended
		}
	}
	return n
}
