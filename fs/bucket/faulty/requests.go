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
	i := b.take(Get, key)
	if err := i.before(ctx, Get, key); err != nil {
		return nil, bucket.Info{}, err
	}
	body, info, err := b.Bucket.Get(ctx, key)
	if err == nil && i.mangles() {
		var data []byte
		data, err = io.ReadAll(body)
		body.Close()
		body = io.NopCloser(bytes.NewReader(i.fault.Mangle(data)))
	}
	if err = i.after(err, Get, key); err != nil {
		if body != nil {
			body.Close()
		}
		return nil, bucket.Info{}, err
	}
	return body, info, nil
}

// GetRange reads a part of an object, or fails.
func (b *Bucket) GetRange(ctx context.Context, key string, offset, length int64, etag string) ([]byte, bucket.Info, error) {
	i := b.take(GetRange, key)
	if err := i.before(ctx, GetRange, key); err != nil {
		return nil, bucket.Info{}, err
	}
	data, info, err := b.Bucket.GetRange(ctx, key, offset, length, etag)
	if err = i.after(err, GetRange, key); err != nil {
		return nil, bucket.Info{}, err
	}
	if i.mangles() {
		data = i.fault.Mangle(data)
	}
	return data, info, nil
}

// Put writes an object, or fails, before or after it did.
func (b *Bucket) Put(ctx context.Context, key string, body io.ReadSeeker, opts bucket.PutOptions) (bucket.Info, error) {
	i := b.take(Put, key)
	if err := i.before(ctx, Put, key); err != nil {
		return bucket.Info{}, err
	}
	if i.mangles() {
		data, err := io.ReadAll(body)
		if err != nil {
			return bucket.Info{}, errors.E("put", key, errors.Other, err)
		}
		body = bytes.NewReader(i.fault.Mangle(data))
	}
	info, err := b.Bucket.Put(ctx, key, body, opts)
	if err = i.after(err, Put, key); err != nil {
		return bucket.Info{}, err
	}
	return info, nil
}

// List yields entries, or fails, before the first or after the last.
func (b *Bucket) List(ctx context.Context, prefix string, opts bucket.ListOptions) iter.Seq2[bucket.Entry, error] {
	return func(yield func(bucket.Entry, error) bool) {
		i := b.take(List, prefix)
		if err := i.before(ctx, List, prefix); err != nil {
			yield(bucket.Entry{}, err)
			return
		}
		for e, err := range b.Bucket.List(ctx, prefix, opts) {
			if !yield(e, err) || err != nil {
				return
			}
		}
		if err := i.after(nil, List, prefix); err != nil {
			yield(bucket.Entry{}, err)
		}
	}
}

// Copy duplicates an object, or fails, before or after it did.
func (b *Bucket) Copy(ctx context.Context, from, to string) error {
	i := b.take(Copy, to)
	if err := i.before(ctx, Copy, to); err != nil {
		return err
	}
	return i.after(b.Bucket.Copy(ctx, from, to), Copy, to)
}

// Delete removes an object, or fails, before or after it did.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	i := b.take(Delete, key)
	if err := i.before(ctx, Delete, key); err != nil {
		return err
	}
	return i.after(b.Bucket.Delete(ctx, key), Delete, key)
}
