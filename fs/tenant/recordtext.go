package tenant

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"atc/fs/errors"
)

// This file defines how a record stands in the bucket, and what of the bytes
// there is believed.

// maxRecord bounds a record's object, in bytes, at writing and at reading.
const maxRecord = 16 << 20

// encodeRecord fails with NoSpace for a record that could not be read again.
func encodeRecord(r Record) ([]byte, error) {
	stored := r
	stored.Databases = make(map[string]*Database, len(r.Databases))
	for path, d := range r.Databases {
		stored.Databases[pathText(path)] = d
	}
	stored.Removed = slices.Clone(r.Removed)
	for i := range stored.Removed {
		stored.Removed[i].Path = pathText(stored.Removed[i].Path)
	}
	b, err := json.MarshalIndent(stored, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode record of %s: %w", r.Tenant, err)
	}
	if len(b) > maxRecord {
		return nil, errors.E("write record", r.Tenant, errors.NoSpace,
			fmt.Errorf("with %d databases and %d removed ones it would have %d bytes, of at most %d; spread the databases over several tenants, or forget removed ones",
				len(r.Databases), len(r.Removed), len(b), maxRecord))
	}
	return b, nil
}

// parseRecord is the opposite of encodeRecord for the tenant's ID.
func parseRecord(b []byte, id string) (Record, error) {
	var r Record
	if len(b) > maxRecord {
		return r, fmt.Errorf("the record has more than %d bytes", maxRecord)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return Record{}, err
	}
	if r.Tenant != id {
		return Record{}, fmt.Errorf("the record is that of %.80q", r.Tenant)
	}
	if r.Epoch > math.MaxInt64 {
		return Record{}, fmt.Errorf("nobody can count an epoch of %d up", r.Epoch)
	}
	databases := make(map[string]*Database, len(r.Databases))
	for text, d := range r.Databases {
		path, ok := parsePathText(text)
		if !ok || d == nil || !soundPath(path) || !soundFolder(d.Folder) || d.Head < 0 {
			return Record{}, fmt.Errorf("database %q in folder %+v", text, d)
		}
		databases[path] = d
	}
	r.Databases = databases
	for i, removed := range r.Removed {
		path, ok := parsePathText(removed.Path)
		if !ok || !soundPath(path) || !soundFolder(removed.Folder) {
			return Record{}, fmt.Errorf("removed database %q in folder %q", removed.Path, removed.Folder)
		}
		r.Removed[i].Path = path
	}
	return r, nil
}

// clone returns a record that can be changed without changing r.
func (r Record) clone() Record {
	databases := make(map[string]*Database, len(r.Databases))
	for path, d := range r.Databases {
		copied := *d
		databases[path] = &copied
	}
	r.Databases = databases
	r.Removed = slices.Clip(r.Removed) // appending to it copies
	return r
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
