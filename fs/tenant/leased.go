package tenant

import (
	"context"
	"io"

	"atc/fs/bucket"
	"atc/fs/errors"
)

// This file defines the bucket through which a session writes what belongs to
// its tenants: an upload may start only within a confirmed lease. It keeps a
// machine that was paused or cut off from sending what others have to refuse.

// Leased returns b, whose Put, Copy and Delete fail as [Lease.Check] does while
// the lease is not valid. Reads always pass.
func Leased(b bucket.Bucket, l *Lease) bucket.Bucket { return leased{b, l} }

type leased struct {
	bucket.Bucket
	lease *Lease
}

var _ bucket.Bucket = leased{}

func (b leased) allow(op, key string) error {
	if err := b.lease.Check(); err != nil {
		return errors.E(op, key, errors.Other, err)
	}
	return nil
}

func (b leased) Put(ctx context.Context, key string, body io.ReadSeeker, opts bucket.PutOptions) (bucket.Info, error) {
	if err := b.allow("put", key); err != nil {
		return bucket.Info{}, err
	}
	return b.Bucket.Put(ctx, key, body, opts)
}

func (b leased) Copy(ctx context.Context, from, to string) error {
	if err := b.allow("copy", to); err != nil {
		return err
	}
	return b.Bucket.Copy(ctx, from, to)
}

func (b leased) Delete(ctx context.Context, key string) error {
	if err := b.allow("delete", key); err != nil {
		return err
	}
	return b.Bucket.Delete(ctx, key)
}
