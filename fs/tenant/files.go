package tenant

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"atc/fs/bucket"
	"atc/fs/errors"
)

// This file defines a tenant's plain files in the bucket: each stored whole
// under an ID that is never used again, and one index that says which path has
// which content.

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
}

// FileIndex is the object tenants/<id>/files/index.json. The epoch is part of
// it, so that the first write of a new owner changes its version and the owner
// before can write it no more.
type FileIndex struct {
	Epoch   uint64      `json:"epoch"`
	Entries []FileEntry `json:"entries"`
	etag    string
}

// Next returns an empty index that can be saved in place of x.
func (x *FileIndex) Next(epoch uint64) *FileIndex {
	return &FileIndex{Epoch: epoch, etag: x.etag}
}

// maxFileIndex bounds the index's object, in bytes, at writing and at reading:
// about a million files.
const maxFileIndex = 256 << 20

// Files reads and writes one tenant's plain files.
type Files struct {
	bucket bucket.Bucket
	tenant string
}

// NewFiles returns the files of a tenant.
func NewFiles(b bucket.Bucket, tenant string) *Files {
	return &Files{bucket: b, tenant: tenant}
}

func (f *Files) key(name string) string { return prefix(f.tenant) + "files/" + name }

// Load reads the index; an empty one where there is none.
func (f *Files) Load(ctx context.Context) (*FileIndex, error) {
	body, info, err := f.bucket.Get(ctx, f.key("index.json"))
	if errors.Is(errors.NotExist, err) {
		return &FileIndex{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer body.Close()
	b, err := io.ReadAll(io.LimitReader(body, maxFileIndex+1))
	if err != nil {
		return nil, errors.E("load file index", f.tenant, errors.Unavailable, err)
	}
	x, err := parseFileIndex(b)
	if err != nil {
		return nil, errors.E("load file index", f.tenant, errors.Corrupt, err)
	}
	x.etag = info.ETag
	return x, nil
}

// parseFileIndex is the opposite of encodeFileIndex.
func parseFileIndex(b []byte) (*FileIndex, error) {
	x := &FileIndex{}
	if len(b) > maxFileIndex {
		return nil, fmt.Errorf("the index has more than %d bytes", maxFileIndex)
	}
	if err := json.Unmarshal(b, x); err != nil {
		return nil, err
	}
	for i := range x.Entries {
		e := &x.Entries[i]
		path, ok := parsePathText(e.Path)
		target, targetOK := parsePathText(e.Target)
		e.Path, e.Target = path, target
		if !ok || !targetOK || !soundPath(e.Path) || e.Content != "" && !soundFolder(e.Content) {
			return nil, fmt.Errorf("path %q, content %q", e.Path, e.Content)
		}
	}
	return x, nil
}

// encodeFileIndex fails with NoSpace for an index that could not be read again.
func encodeFileIndex(x *FileIndex) ([]byte, error) {
	stored := *x
	stored.Entries = slices.Clone(x.Entries)
	for i := range stored.Entries {
		e := &stored.Entries[i]
		e.Path, e.Target = pathText(e.Path), pathText(e.Target)
	}
	b, err := json.Marshal(stored)
	if err != nil {
		return nil, err
	}
	if len(b) > maxFileIndex {
		return nil, errors.E("encode file index", "", errors.NoSpace,
			fmt.Errorf("%d files need %d bytes, of at most %d; keep some of them local, or spread them over several tenants", len(x.Entries), len(b), maxFileIndex))
	}
	return b, nil
}

// Claim writes the index under a new owner's epoch, so that the owner before can
// write it no more, and returns it. What that one wrote until then is in it.
func (f *Files) Claim(ctx context.Context, x *FileIndex, epoch uint64) (*FileIndex, error) {
	const tries = 8
	var err error
	for range tries {
		claimed := x.Next(epoch)
		claimed.Entries = x.Entries
		if err = f.put(ctx, claimed); err == nil {
			return claimed, nil
		}
		if !errors.Is(errors.Condition, err) {
			return nil, err
		}
		if x, err = f.Load(ctx); err != nil {
			return nil, err
		}
	}
	return nil, errors.E("claim file index", f.tenant, errors.Busy, err)
}

// Save writes x over the version that it was loaded or saved as. It fails with
// Fenced when a later owner has written meanwhile; a version of our own epoch is
// what an earlier attempt wrote whose answer was lost.
func (f *Files) Save(ctx context.Context, x *FileIndex) error {
	const tries = 2
	var err error
	for range tries {
		if err = f.put(ctx, x); !errors.Is(errors.Condition, err) {
			return err
		}
		there, loadErr := f.Load(ctx)
		if loadErr != nil {
			return loadErr
		}
		if there.Epoch > x.Epoch {
			return errors.E("save file index", f.tenant, errors.Fenced, err)
		}
		x.etag = there.etag
	}
	return err
}

// put writes x if the version that it has is still there.
func (f *Files) put(ctx context.Context, x *FileIndex) error {
	b, err := encodeFileIndex(x)
	if err != nil {
		return errors.E("write file index", f.tenant, errors.Other, err)
	}
	info, err := f.bucket.Put(ctx, f.key("index.json"), bytes.NewReader(b), bucket.PutOptions{IfNoneMatch: x.etag == "", IfMatch: x.etag})
	if err == nil {
		x.etag = info.ETag
	}
	return err
}

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
