package faulty

import (
	"bytes"
	"context"
	"io"
	"iter"

	"atc/fs/bucket"
	"atc/fs/errors"
)

// The requests, each on its way through the fault that takes it. They are apart
// from faulty.go, which a test's author reads, because they are all alike.

// Get opens an object, or fails.
func (b *Bucket) Get(ctx context.Context, key string) (io.ReadCloser, bucket.Info, error) {
	f := b.take(Get, key)
	if err := f.before(ctx, Get, key); err != nil {
		return nil, bucket.Info{}, err
	}
	body, info, err := b.Bucket.Get(ctx, key)
	if err == nil && f.mangles() {
		var data []byte
		data, err = io.ReadAll(body)
		body.Close()
		body = io.NopCloser(bytes.NewReader(f.Mangle(data)))
	}
	if err = f.after(err, Get, key); err != nil {
		if body != nil {
			body.Close()
		}
		return nil, bucket.Info{}, err
	}
	if n, ok := f.cuts(info.Size); ok {
		body = &cutBody{body, n, key}
	}
	return body, info, nil
}

// cutBody is a body whose connection breaks.
type cutBody struct {
	io.ReadCloser
	left int64 // bytes until then
	key  string
}

func (c *cutBody) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, injected(errors.Unavailable, Get, c.key)
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// GetRange reads a part of an object, or fails.
func (b *Bucket) GetRange(ctx context.Context, key string, offset, length int64, etag string) ([]byte, bucket.Info, error) {
	f := b.take(GetRange, key)
	if err := f.before(ctx, GetRange, key); err != nil {
		return nil, bucket.Info{}, err
	}
	data, info, err := b.Bucket.GetRange(ctx, key, offset, length, etag)
	if err = f.after(err, GetRange, key); err != nil {
		return nil, bucket.Info{}, err
	}
	if _, ok := f.cuts(int64(len(data))); ok { // half an answer is none
		return nil, bucket.Info{}, injected(errors.Unavailable, GetRange, key)
	}
	if f.mangles() {
		data = f.Mangle(data)
	}
	return data, info, nil
}

// Put writes an object, or fails, before or after it did.
func (b *Bucket) Put(ctx context.Context, key string, body io.ReadSeeker, opts bucket.PutOptions) (bucket.Info, error) {
	f := b.take(Put, key)
	if err := f.before(ctx, Put, key); err != nil {
		return bucket.Info{}, err
	}
	if f.mangles() || f != nil && f.Late > 0 {
		data, err := io.ReadAll(body)
		if err != nil {
			return bucket.Info{}, errors.E("put", key, errors.Other, err)
		}
		if f.mangles() {
			data = f.Mangle(data)
		}
		body = bytes.NewReader(data)
	}
	if b.postpone(ctx, f, func(ctx context.Context) { _, _ = b.Bucket.Put(ctx, key, body, opts) }) {
		return bucket.Info{}, injected(errors.Unavailable, Put, key)
	}
	info, err := b.Bucket.Put(ctx, key, body, opts)
	if err = f.after(err, Put, key); err != nil {
		return bucket.Info{}, err
	}
	return info, nil
}

// List yields entries, or fails, before the first or after the last.
func (b *Bucket) List(ctx context.Context, prefix string, opts bucket.ListOptions) iter.Seq2[bucket.Entry, error] {
	return func(yield func(bucket.Entry, error) bool) {
		f := b.take(List, prefix)
		if err := f.before(ctx, List, prefix); err != nil {
			yield(bucket.Entry{}, err)
			return
		}
		for e, err := range b.Bucket.List(ctx, prefix, opts) {
			if !yield(e, err) || err != nil {
				return
			}
		}
		if err := f.after(nil, List, prefix); err != nil {
			yield(bucket.Entry{}, err)
		}
	}
}

// Copy duplicates an object, or fails, before or after it did.
func (b *Bucket) Copy(ctx context.Context, from, to string) error {
	f := b.take(Copy, to)
	if err := f.before(ctx, Copy, to); err != nil {
		return err
	}
	if b.postpone(ctx, f, func(ctx context.Context) { _ = b.Bucket.Copy(ctx, from, to) }) {
		return injected(errors.Unavailable, Copy, to)
	}
	return f.after(b.Bucket.Copy(ctx, from, to), Copy, to)
}

// Delete removes an object, or fails, before or after it did.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	f := b.take(Delete, key)
	if err := f.before(ctx, Delete, key); err != nil {
		return err
	}
	if b.postpone(ctx, f, func(ctx context.Context) { _ = b.Bucket.Delete(ctx, key) }) {
		return injected(errors.Unavailable, Delete, key)
	}
	return f.after(b.Bucket.Delete(ctx, key), Delete, key)
}
