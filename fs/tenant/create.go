package tenant

import (
	"context"
	"crypto/rand"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"atc/fs/errors"
)

// This file defines the tenants that come into being complete: as a copy, from
// files, or back from removal. Their record is written last, so that nobody sees
// half of one.

// NewFolder returns a folder for the history of a database at the path: its file
// name, so that a person finds it in the bucket, and an ID that no other has.
func NewFolder(p string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '.', r == '-', r == '_':
			return r
		}
		return '_'
	}, path.Base(p))
	clean = strings.TrimLeft(clean[:min(len(clean), 100)], ".")
	return clean + "-" + strings.ToLower(rand.Text()[:16])
}

// LoadAny is Load for a tenant that may have been removed.
func (r *Registry) LoadAny(ctx context.Context, id string) (*Held, error) { return r.load(ctx, id) }

// CreateWith makes a tenant that has databases at once. It fails with Exist for
// one that is there. A tenant that was removed begins anew, with a higher epoch.
func (r *Registry) CreateWith(ctx context.Context, id string, databases map[string]*Database) error {
	h, err := r.load(ctx, id)
	switch {
	case errors.Is(errors.NotExist, err):
		h = &Held{}
	case err != nil:
		return err
	case h.Deleted.IsZero():
		return errors.E("create tenant", id, errors.Exist, nil)
	}
	now := r.now()
	next := Record{Tenant: id, Created: now, Released: now, Epoch: h.Epoch + 1, Removed: h.Removed, Databases: databases}
	if err := r.put(ctx, h, next); err != nil {
		if errors.Is(errors.Condition, err) {
			return errors.E("create tenant", id, errors.Exist, err)
		}
		return errors.E("create tenant", id, errors.Other, err)
	}
	return nil
}

// Undelete brings a removed tenant back, as change makes its record, in the next
// epoch. It fails with Exist for a tenant that is there, also if it came into
// being since it was loaded.
func (r *Registry) Undelete(ctx context.Context, h *Held, change func(*Record)) error {
	if h.Deleted.IsZero() {
		return errors.E("undelete tenant", h.Tenant, errors.Exist, fmt.Errorf("it was not removed"))
	}
	next := h.clone()
	next.Deleted, next.Emptied, next.Epoch, next.Owner, next.Released = time.Time{}, time.Time{}, h.Epoch+1, nil, r.now()
	change(&next)
	if err := r.put(ctx, h, next); err != nil {
		if errors.Is(errors.Condition, err) {
			err = errors.E("write record", h.Tenant, errors.Exist, fmt.Errorf("it is there again: %w", err))
		}
		return errors.E("undelete tenant", h.Tenant, errors.Other, err)
	}
	return nil
}

// unload takes what an undelete that was interrupted has put into the file index
// of a removed tenant out again, before the tenant begins anew.
func (r *Registry) unload(ctx context.Context, id string, epoch uint64) error {
	files := NewFiles(r.bucket, id)
	x, err := files.Load(ctx)
	if err != nil || len(x.Entries) == 0 {
		return err
	}
	next := x.Next(max(epoch, x.Epoch))
	next.Since, next.Trash = time.Time{}, slices.Clone(x.Trash)
	for _, e := range x.Entries {
		if e.Content != "" {
			next.Trash = append(next.Trash, e)
		}
	}
	return files.Save(ctx, next)
}

// Release lets go of a tenant whose databases all stand where change makes the
// record say.
func (r *Registry) Release(ctx context.Context, h *Held, change func(*Record)) error {
	return r.Update(ctx, h, func(next *Record) {
		change(next)
		next.Owner, next.Released = nil, r.now()
	})
}

// SoundPath reports whether a path from the bucket stays inside the tenant's
// folder.
func SoundPath(path string) bool { return soundPath(path) }

// SoundFolder reports whether a name from the bucket can be a database's folder.
func SoundFolder(folder string) bool { return soundFolder(folder) }

// ContentKey is the object that holds a plain file's content.
func ContentKey(id, content string) string { return prefix(id) + "files/" + content }
