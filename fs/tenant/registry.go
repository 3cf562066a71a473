package tenant

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"atc/fs/bucket"
	"atc/fs/errors"
	"atc/fs/tenant/tenantid"
)

// This file defines the registry: the records of all tenants in one bucket, as
// one run of atc reads and writes them.

// Registry reads and writes records on behalf of one session of a machine. Its
// methods may be called concurrently.
type Registry struct {
	bucket  bucket.Bucket
	lease   *Lease
	watcher *Watcher
	now     func() time.Time

	mu    sync.Mutex         // protects tried
	tried map[string]attempt // acquisitions whose outcome is unknown, by tenant
}

// attempt is a write that would make us the owner.
type attempt struct {
	epoch  uint64
	before Record // what stood before the first of several attempts
}

// NewRegistry returns the registry of b for the session whose lease it is. What
// needs the lease checks it, so b is no [Leased] one. Lease and watcher may be
// nil for who only lists, loads and creates.
func NewRegistry(b bucket.Bucket, lease *Lease, watcher *Watcher, now func() time.Time) *Registry {
	return &Registry{bucket: b, lease: lease, watcher: watcher, now: now, tried: make(map[string]attempt)}
}

// ours reports whether a record names this session.
func (r *Registry) ours(o *Owner) bool {
	return o != nil && o.Machine == r.lease.Machine() && o.Session == r.lease.Session()
}

// check returns nil while the lease is valid.
func (r *Registry) check() error {
	if r.lease == nil {
		return errors.E("check lease", "", errors.Invalid, fmt.Errorf("this registry has none"))
	}
	return r.lease.Check()
}

// Held is a record together with the version that was read or written last.
// It is not safe for concurrent use.
type Held struct {
	Record
	etag string
	term uint64 // of the lease in which it was known to be ours
}

// List yields the IDs of all tenants that have anything in the bucket, removed
// ones included, in order.
func (r *Registry) List(ctx context.Context) ([]string, error) {
	var ids []string
	for e, err := range r.bucket.List(ctx, "tenants/", bucket.ListOptions{Delimiter: true}) {
		if err != nil {
			return nil, err
		}
		id := strings.TrimSuffix(strings.TrimPrefix(e.Key, "tenants/"), "/")
		if tenantid.Check(id) == nil {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// Load reads a tenant's record. It fails with Invalid for what is no ID, and
// with NotExist for a tenant that is not there or was removed.
func (r *Registry) Load(ctx context.Context, id string) (*Held, error) {
	h, err := r.load(ctx, id)
	if err == nil && !h.Deleted.IsZero() {
		return nil, errors.E("load tenant", id, errors.NotExist, fmt.Errorf("it was removed at %s", h.Deleted.Format(time.RFC3339)))
	}
	return h, err
}

func (r *Registry) load(ctx context.Context, id string) (*Held, error) {
	if err := tenantid.Check(id); err != nil {
		return nil, err
	}
	body, info, err := r.bucket.Get(ctx, recordKey(id))
	if err != nil {
		return nil, errors.E("load tenant", id, errors.Other, err)
	}
	defer body.Close()
	b, err := io.ReadAll(io.LimitReader(body, maxRecord+1))
	if err != nil {
		return nil, errors.E("load tenant", id, errors.Unavailable, err)
	}
	record, err := parseRecord(b, id)
	if err != nil {
		return nil, errors.E("load tenant", id, errors.Corrupt, err)
	}
	return &Held{Record: record, etag: info.ETag}, nil
}

// Create makes a tenant without databases. It fails with Exist for one that is
// there. A tenant that was removed begins anew, with a higher epoch.
func (r *Registry) Create(ctx context.Context, id string) error {
	h, err := r.load(ctx, id)
	switch {
	case errors.Is(errors.NotExist, err):
		h = &Held{}
	case err != nil:
		return err
	case h.Deleted.IsZero():
		return errors.E("create tenant", id, errors.Exist, nil)
	}
	next := Record{Tenant: id, Created: r.now(), Epoch: h.Epoch + 1, Removed: h.Removed}
	if err := r.put(ctx, h, next); err != nil {
		if errors.Is(errors.Condition, err) {
			return errors.E("create tenant", id, errors.Exist, err)
		}
		return errors.E("create tenant", id, errors.Other, err)
	}
	return nil
}

// Acquire makes this session the owner of a tenant, within a valid lease. It
// returns the record as it is then, and the one before, from which the caller
// learns how it was left; before the first of them, if earlier calls have failed
// without an answer. Loaded, if not nil, is the record as just read, which
// saves reading it; it stays as it is. About, which may be nil, is called with the
// record that is about to be replaced, before each attempt to do so: whatever has
// to be known should the answer be lost is noted then. Acquire fails with Busy while
// another session that is alive owns the tenant. After an Unavailable the outcome is
// unknown: acquire again, or the tenant may stay ours without being served.
func (r *Registry) Acquire(ctx context.Context, id string, loaded *Held, about func(Record) error) (held *Held, before Record, err error) {
	const tries = 8
	h := loaded
	for range tries {
		if h == nil {
			if h, err = r.Load(ctx, id); err != nil {
				return nil, Record{}, err
			}
		}
		if err := r.check(); err != nil {
			return nil, Record{}, errors.E("acquire tenant", id, errors.Other, err)
		}
		term := r.lease.Term()
		if err := r.free(ctx, h); err != nil {
			return nil, Record{}, errors.E("acquire tenant", id, errors.Other, err)
		}
		if about != nil {
			if err := about(h.Record); err != nil {
				return nil, Record{}, errors.E("acquire tenant", id, errors.Other, err)
			}
		}
		// All that may have taken long.
		if err := r.check(); err != nil {
			return nil, Record{}, errors.E("acquire tenant", id, errors.Other, err)
		}
		before = h.Record
		last := r.attempted(id)
		if last.epoch == h.Epoch && r.ours(h.Owner) {
			before = last.before // an earlier call wrote that, and nobody has served since
		}
		next := h.clone()
		next.Epoch++
		r.attempt(id, attempt{next.Epoch, before})
		next.Owner = &Owner{Machine: r.lease.Machine(), Session: r.lease.Session(), Since: r.now()}
		next.Released = time.Time{}
		taken := &Held{Record: h.Record, etag: h.etag, term: term}
		err = r.put(ctx, taken, next)
		if err == nil {
			r.attempt(id, attempt{})
			return taken, before, nil
		}
		if !errors.Is(errors.Condition, err) {
			return nil, Record{}, errors.E("acquire tenant", id, errors.Other, err)
		}
		r.attempt(id, last) // this one certainly did not take place
		h = nil
	}
	return nil, Record{}, errors.E("acquire tenant", id, errors.Busy, fmt.Errorf("its record kept changing"))
}

// attempted is the last acquisition of a tenant whose outcome is unknown; the
// zero one if there is none.
func (r *Registry) attempted(id string) attempt {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tried[id]
}

// attempt notes an acquisition; the zero one stands for none.
func (r *Registry) attempt(id string, a attempt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.epoch == 0 {
		delete(r.tried, id)
		return
	}
	r.tried[id] = a
}

// free fails with Busy when a session that is not ours owns h and is alive.
func (r *Registry) free(ctx context.Context, h *Held) error {
	if h.Owner == nil || r.ours(h.Owner) {
		return nil
	}
	v, err := r.watcher.Judge(ctx, *h.Owner)
	if err != nil || v.Dead {
		return err
	}
	return errors.E("take over", h.Tenant, errors.Busy,
		fmt.Errorf("machine %.128q owns it in epoch %d since %s and %s", h.Owner.Machine, h.Epoch, h.Owner.Since.UTC().Format(time.RFC3339), v.Why))
}

// Check returns nil while the tenant may be served: the lease is valid and did
// not lapse since Acquire or Mine. It asks no bucket. After a lapse it fails with
// Unavailable until Mine has succeeded.
func (r *Registry) Check(h *Held) error {
	err := r.check()
	if err == nil && r.lease.Term() != h.term {
		err = errors.E("check owner of tenant", h.Tenant, errors.Unavailable,
			fmt.Errorf("the lease lapsed, and its record was not looked at since"))
	}
	return err
}

// Mine returns nil if the tenant is still ours in h's epoch, which is to be
// asked after a lapse of the lease, before anything is served again. It fails
// with Fenced if it is not, and with Unavailable if the lease lapsed again
// meanwhile. It writes the record: somebody who found us dead may have a write
// of it on its way, which a mere look would let pass later.
func (r *Registry) Mine(ctx context.Context, h *Held) error {
	if !r.ours(h.Owner) {
		return errors.E("check owner of tenant", h.Tenant, errors.Fenced, fmt.Errorf("it was not ours"))
	}
	term := r.lease.Term()
	err := r.Update(ctx, h, func(next *Record) {
		next.Owner = &Owner{Machine: r.lease.Machine(), Session: r.lease.Session(), Since: r.now()} // other bytes, another version
	})
	switch {
	case errors.Is(errors.NotExist, err):
		return errors.E("check owner of tenant", h.Tenant, errors.Fenced, err)
	case err != nil:
		return err
	}
	h.term = term
	return r.Check(h)
}

// Update writes what change makes of the record. It fails with Fenced when
// another session has taken the tenant, and as [Lease.Check] does without a
// valid lease. Change may be called again, on h as it was.
func (r *Registry) Update(ctx context.Context, h *Held, change func(*Record)) error {
	const tries = 2
	var err error
	for range tries {
		if err := r.check(); err != nil {
			return errors.E("update tenant", h.Tenant, errors.Other, err)
		}
		next := h.clone()
		change(&next)
		err = r.put(ctx, h, next)
		if !errors.Is(errors.Condition, err) {
			break
		}
		there, loadErr := r.load(ctx, h.Tenant)
		if loadErr != nil {
			return errors.E("update tenant", h.Tenant, errors.Other, loadErr)
		}
		// Nobody but us writes a record of our epoch: a new owner counts it up.
		if there.Epoch != h.Epoch {
			return errors.E("update tenant", h.Tenant, errors.Fenced,
				fmt.Errorf("its record is in epoch %d, not %d: %w", there.Epoch, h.Epoch, err))
		}
		// What stands there is an attempt of ours whose answer was lost: its version
		// is replaced, but what it said is not so, since it was told to have failed.
		h.etag = there.etag
	}
	if err != nil {
		return errors.E("update tenant", h.Tenant, errors.Other, err)
	}
	return nil
}

// put writes next in place of the version that h has. That the object has
// exactly our bytes after a conflict means that an earlier answer was lost.
func (r *Registry) put(ctx context.Context, h *Held, next Record) error {
	b, err := encodeRecord(next)
	if err != nil {
		return err
	}
	key := recordKey(next.Tenant)
	info, err := r.bucket.Put(ctx, key, bytes.NewReader(b), bucket.PutOptions{IfNoneMatch: h.etag == "", IfMatch: h.etag})
	if errors.Is(errors.Condition, err) {
		etag, same, getErr := r.holds(ctx, key, b)
		if getErr != nil {
			return getErr
		}
		if !same {
			return err
		}
		info.ETag, err = etag, nil
	}
	if err != nil {
		return err
	}
	h.Record, h.etag = next, info.ETag
	return nil
}

func (r *Registry) holds(ctx context.Context, key string, want []byte) (etag string, same bool, err error) {
	body, info, err := r.bucket.Get(ctx, key)
	if err != nil {
		return "", false, err
	}
	defer body.Close()
	b, err := io.ReadAll(io.LimitReader(body, maxRecord+1))
	if err != nil {
		return "", false, errors.E("get", key, errors.Unavailable, err)
	}
	return info.ETag, bytes.Equal(b, want), nil
}
