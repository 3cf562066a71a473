package tenant

import (
	"context"
	"crypto/rand"
	"io"
	"time"

	"atc/fs/bucket"
	"atc/fs/errors"
)

// This file defines a tenant's plain files in the bucket: each stored whole
// under an ID that is never used again. Which path has which content says the
// index, see fileindex.go.

// FileKind is what a path in the index is.
type FileKind string

const (
	Regular   FileKind = "file"
	Directory FileKind = "dir"
	Symlink   FileKind = "symlink"
)

// FileEntry is one path below the tenant's folder.
type FileEntry struct {
	Path     string    `json:"path"`
	Kind     FileKind  `json:"kind"`
	Mode     uint32    `json:"mode"` // permission bits
	Size     int64     `json:"size,omitempty"`
	Modified time.Time `json:"modified,omitzero"`
	Content  string    `json:"content,omitempty"` // ID of the object; empty for an empty file
	Target   string    `json:"target,omitempty"`  // of a symlink
	Removed  time.Time `json:"removed,omitzero"`  // of what is in the trash
}

// same reports whether e and o say the same.
func (e FileEntry) same(o FileEntry) bool {
	times := e.Modified.Equal(o.Modified) && e.Removed.Equal(o.Removed)
	e.Modified, e.Removed = o.Modified, o.Removed
	return times && e == o
}

// Files reads and writes one tenant's plain files.
type Files struct {
	bucket bucket.Bucket
	tenant string
	now    func() time.Time
	loose  []string // bases of indexes that were not saved
}

// NewFiles returns the files of a tenant. Reading may be done concurrently,
// saving the index by one at a time.
func NewFiles(b bucket.Bucket, tenant string) *Files {
	return &Files{bucket: b, tenant: tenant, now: time.Now}
}

func (f *Files) key(name string) string { return prefix(f.tenant) + "files/" + name }

// Put stores a file's content and returns its ID.
func (f *Files) Put(ctx context.Context, content io.ReadSeeker) (string, error) {
	id := rand.Text()
	_, err := f.bucket.Put(ctx, f.key(id), content, bucket.PutOptions{IfNoneMatch: true})
	return id, err
}

// Fetch writes a content to w.
func (f *Files) Fetch(ctx context.Context, id string, w io.Writer) error {
	body, info, err := f.bucket.Get(ctx, f.key(id))
	if err != nil {
		return err
	}
	defer body.Close()
	n, err := io.Copy(w, body)
	if err == nil && n != info.Size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return errors.E("fetch file", f.key(id), errors.Unavailable, err)
	}
	return nil
}

// Delete removes a content that no index names any more.
func (f *Files) Delete(ctx context.Context, id string) error {
	return f.bucket.Delete(ctx, f.key(id))
}
