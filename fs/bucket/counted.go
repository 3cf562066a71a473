package bucket

import (
	"context"
	"io"
	"iter"
	"sync/atomic"

	"atc/fs/errors"
)

// Counting what a store is asked for. A wrapper instead of counters inside the
// stores, because the same request counts for the process, for a tenant and for
// a database, each of which wraps the one above.

// Counters add up requests. The zero value is ready; all methods may be called
// concurrently.
type Counters struct {
	get, put, list, copied, deleted, failed, in, out atomic.Int64
}

// Counts are a reading of Counters. A request is a call of the contract: what
// the store repeats after a failure is not counted again. A listing counts once
// for each thousand entries begun, which is a request on S3.
type Counts struct {
	Get      int64 `json:"get"` // whole and range reads
	Put      int64 `json:"put"`
	List     int64 `json:"list"`
	Copy     int64 `json:"copy"`
	Delete   int64 `json:"delete"`
	Failed   int64 `json:"failed"`    // of these, without an answer; NotExist and Condition are answers
	BytesIn  int64 `json:"bytes_in"`  // of objects read
	BytesOut int64 `json:"bytes_out"` // of objects written
}

// Requests is the number of requests of every kind.
func (c Counts) Requests() int64 { return c.Get + c.Put + c.List + c.Copy + c.Delete }

// Sub returns what was counted since an earlier reading.
func (c Counts) Sub(earlier Counts) Counts {
	return Counts{
		Get:      c.Get - earlier.Get,
		Put:      c.Put - earlier.Put,
		List:     c.List - earlier.List,
		Copy:     c.Copy - earlier.Copy,
		Delete:   c.Delete - earlier.Delete,
		Failed:   c.Failed - earlier.Failed,
		BytesIn:  c.BytesIn - earlier.BytesIn,
		BytesOut: c.BytesOut - earlier.BytesOut,
	}
}

// Snapshot reads the counters, each by itself: while requests run, they may not
// add up.
func (c *Counters) Snapshot() Counts {
	return Counts{
		Get:      c.get.Load(),
		Put:      c.put.Load(),
		List:     c.list.Load(),
		Copy:     c.copied.Load(),
		Delete:   c.deleted.Load(),
		Failed:   c.failed.Load(),
		BytesIn:  c.in.Load(),
		BytesOut: c.out.Load(),
	}
}

// outcome counts a failure and passes it on.
func (c *Counters) outcome(err error) error {
	if err != nil && !errors.Is(errors.NotExist, err) && !errors.Is(errors.Condition, err) {
		c.failed.Add(1)
	}
	return err
}

// Count returns b with its requests added to c. It may be wrapped again.
func Count(b Bucket, c *Counters) Bucket { return &counted{b, c} }

type counted struct {
	Bucket
	c *Counters
}

func (b *counted) Get(ctx context.Context, key string) (io.ReadCloser, Info, error) {
	b.c.get.Add(1)
	body, info, err := b.Bucket.Get(ctx, key)
	if err != nil {
		return nil, info, b.c.outcome(err)
	}
	return &countedBody{body, b.c, false}, info, nil
}

// countedBody counts the bytes that were read, and one failure.
type countedBody struct {
	io.ReadCloser
	c      *Counters
	failed bool
}

func (r *countedBody) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.c.in.Add(int64(n))
	if err != nil && err != io.EOF && !r.failed {
		r.failed = true
		r.c.outcome(err)
	}
	return n, err
}

func (b *counted) GetRange(ctx context.Context, key string, offset, length int64, etag string) ([]byte, Info, error) {
	b.c.get.Add(1)
	data, info, err := b.Bucket.GetRange(ctx, key, offset, length, etag)
	b.c.in.Add(int64(len(data)))
	return data, info, b.c.outcome(err)
}

func (b *counted) Put(ctx context.Context, key string, body io.ReadSeeker, opts PutOptions) (Info, error) {
	b.c.put.Add(1)
	info, err := b.Bucket.Put(ctx, key, body, opts)
	if err == nil {
		b.c.out.Add(info.Size)
	}
	return info, b.c.outcome(err)
}

func (b *counted) List(ctx context.Context, prefix string, opts ListOptions) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		b.c.list.Add(1)
		n := 0
		for e, err := range b.Bucket.List(ctx, prefix, opts) {
			if n++; n > listPage {
				b.c.list.Add(1)
				n = 1
			}
			if !yield(e, b.c.outcome(err)) {
				return
			}
		}
	}
}

func (b *counted) Copy(ctx context.Context, from, to string) error {
	b.c.copied.Add(1)
	return b.c.outcome(b.Bucket.Copy(ctx, from, to))
}

func (b *counted) Delete(ctx context.Context, key string) error {
	b.c.deleted.Add(1)
	return b.c.outcome(b.Bucket.Delete(ctx, key))
}
