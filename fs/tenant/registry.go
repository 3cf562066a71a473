package tenant

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"atc/fs/bucket"
	"atc/fs/errors"
	"atc/fs/tenant/tenantid"
)

// This file defines the registry: the records of all tenants in one bucket, as
// one run of atc reads and writes them.

// maxRecord bounds how large a record that is read may be.
const maxRecord = 16 << 20

// Registry reads and writes records on behalf of one session of a machine. Its
// methods may be called concurrently.
type Registry struct {
	bucket bucket.Bucket
	owner  Owner
	now    func() time.Time
}

// NewRegistry returns the registry of b for a machine and its session.
func NewRegistry(b bucket.Bucket, machine, session string, now func() time.Time) *Registry {
	return &Registry{bucket: b, owner: Owner{Machine: machine, Session: session}, now: now}
}

// Held is a record together with the version that was read or written last.
type Held struct {
	Record
	etag string
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
	b, err := io.ReadAll(io.LimitReader(body, maxRecord))
	if err != nil {
		return nil, errors.E("load tenant", id, errors.Unavailable, err)
	}
	h := &Held{etag: info.ETag}
	if err := json.Unmarshal(b, &h.Record); err != nil {
		return nil, errors.E("load tenant", id, errors.Corrupt, err)
	}
	if h.Tenant != id {
		return nil, errors.E("load tenant", id, errors.Corrupt, fmt.Errorf("the record is that of %q", h.Tenant))
	}
	databases := make(map[string]*Database, len(h.Databases))
	for text, d := range h.Databases {
		path, ok := parsePathText(text)
		if !ok || d == nil || !soundPath(path) || !soundFolder(d.Folder) {
			return nil, errors.E("load tenant", id, errors.Corrupt, fmt.Errorf("database %q in folder %+v", text, d))
		}
		databases[path] = d
	}
	h.Databases = databases
	for i, removed := range h.Removed {
		h.Removed[i].Path, _ = parsePathText(removed.Path) // only for people and undoing: it is checked there
	}
	return h, nil
}

// soundPath reports whether a path from the bucket stays inside the tenant's
// folder.
func soundPath(path string) bool {
	if path == "" || len(path) > 4096 || strings.ContainsRune(path, 0) {
		return false
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." || len(segment) > 255 {
			return false
		}
	}
	return true
}

func soundFolder(folder string) bool {
	return soundPath(folder) && !strings.Contains(folder, "/")
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

// Acquire makes this session the owner of a tenant. It returns the record as it
// is then, and the one before, from which the caller learns how it was left.
func (r *Registry) Acquire(ctx context.Context, id string) (held *Held, before Record, err error) {
	const tries = 8
	for range tries {
		h, err := r.Load(ctx, id)
		if err != nil {
			return nil, Record{}, err
		}
		before = h.Record
		next := h.Record
		next.Epoch++
		owner := r.owner
		owner.Since = r.now()
		next.Owner, next.Released = &owner, time.Time{}
		err = r.put(ctx, h, next)
		if err == nil {
			return h, before, nil
		}
		if !errors.Is(errors.Condition, err) {
			return nil, Record{}, errors.E("acquire tenant", id, errors.Other, err)
		}
	}
	return nil, Record{}, errors.E("acquire tenant", id, errors.Busy, fmt.Errorf("its record kept changing"))
}

// Update writes what change makes of the record. It fails with Fenced when
// another session has taken the tenant. Change may be called again, on what an
// earlier attempt wrote whose answer was lost.
func (r *Registry) Update(ctx context.Context, h *Held, change func(*Record)) error {
	const tries = 2
	var err error
	for range tries {
		next := h.Record
		next.Databases = make(map[string]*Database, len(h.Databases))
		for path, d := range h.Databases {
			copied := *d
			next.Databases[path] = &copied
		}
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
			return errors.E("update tenant", h.Tenant, errors.Fenced, err)
		}
		*h = *there
	}
	if err != nil {
		return errors.E("update tenant", h.Tenant, errors.Other, err)
	}
	return nil
}

// put writes next in place of the version that h has. That the object has
// exactly our bytes after a conflict means that an earlier answer was lost.
func (r *Registry) put(ctx context.Context, h *Held, next Record) error {
	stored := next
	stored.Databases = make(map[string]*Database, len(next.Databases))
	for path, d := range next.Databases {
		stored.Databases[pathText(path)] = d
	}
	stored.Removed = slices.Clone(next.Removed)
	for i := range stored.Removed {
		stored.Removed[i].Path = pathText(stored.Removed[i].Path)
	}
	b, err := json.MarshalIndent(stored, "", "  ")
	if err != nil {
		return fmt.Errorf("encode record of %s: %w", next.Tenant, err)
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
	b, err := io.ReadAll(io.LimitReader(body, maxRecord))
	if err != nil {
		return "", false, errors.E("get", key, errors.Unavailable, err)
	}
	return info.ETag, bytes.Equal(b, want), nil
}
