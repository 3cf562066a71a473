package tenant

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"atc/fs/errors"
)

// This file defines how the index of plain files stands in the bucket, and what
// of the bytes there is believed.

// fileHead is the object tenants/<id>/files/index.json: what differs from its
// base, or everything where it has none. A base has the same form, and neither a
// base of its own nor anything that is gone.
type fileHead struct {
	Epoch   uint64      `json:"epoch"`
	Base    string      `json:"base,omitempty"`
	Entries []FileEntry `json:"entries"`
	Gone    []string    `json:"gone,omitempty"` // paths that the base has
	Since   time.Time   `json:"since,omitzero"`
	Trash   []FileEntry `json:"trash,omitempty"`
	Emptied []string    `json:"emptied,omitempty"` // keys of trash that the base has
	Old     []oldBase   `json:"old,omitempty"`
}

func byPath(a, b FileEntry) int                { return strings.Compare(a.Path, b.Path) }
func comparePath(e FileEntry, path string) int { return strings.Compare(e.Path, path) }
func byTrashKey(a, b FileEntry) int            { return strings.Compare(trashKey(a), trashKey(b)) }
func pathKey(e FileEntry) string               { return e.Path }

// trashKey names what is in the trash: a path may be there several times, a
// content only once.
func trashKey(e FileEntry) string {
	if e.Content != "" {
		return e.Content
	}
	return "/" + e.Path
}

// head is what differs between x and its base.
func (x *FileIndex) head() fileHead {
	h := fileHead{Epoch: x.Epoch, Base: x.Base(), Entries: x.Entries, Trash: x.Trash, Since: x.Since.UTC(), Old: x.old}
	if x.Since.IsZero() {
		h.Since = time.Time{}
	}
	if x.base != nil {
		h.Entries, h.Gone = difference(x.base.entries, x.Entries, pathKey)
		h.Trash, h.Emptied = difference(x.base.trash, x.Trash, trashKey)
	}
	return h
}

// resolve is the opposite of head.
func resolve(h fileHead, base *fileBase) (*FileIndex, error) {
	x := &FileIndex{Epoch: h.Epoch, Entries: h.Entries, Trash: h.Trash, Since: h.Since, base: base, old: h.Old}
	if base != nil {
		x.Entries = patched(base.entries, h.Entries, h.Gone, pathKey)
		x.Trash = patched(base.trash, h.Trash, h.Emptied, trashKey)
	} else if len(h.Gone)+len(h.Emptied) > 0 {
		return nil, fmt.Errorf("%d paths are gone from no base", len(h.Gone)+len(h.Emptied))
	}
	return x, nil
}

// difference is what makes now of base. Both are in the order of their keys.
func difference(base, now []FileEntry, key func(FileEntry) string) (changed []FileEntry, gone []string) {
	for len(base) > 0 || len(now) > 0 {
		order := 0
		switch {
		case len(base) == 0:
			order = 1
		case len(now) == 0:
			order = -1
		default:
			order = strings.Compare(key(base[0]), key(now[0]))
		}
		switch {
		case order < 0:
			gone, base = append(gone, key(base[0])), base[1:]
		case order > 0:
			changed, now = append(changed, now[0]), now[1:]
		default:
			if !base[0].same(now[0]) {
				changed = append(changed, now[0])
			}
			base, now = base[1:], now[1:]
		}
	}
	return changed, gone
}

// patched is the opposite of difference.
func patched(base, changed []FileEntry, gone []string, key func(FileEntry) string) []FileEntry {
	without := make(map[string]bool, len(gone)+len(changed))
	for _, k := range gone {
		without[k] = true
	}
	for _, e := range changed {
		without[key(e)] = true
	}
	all := make([]FileEntry, 0, len(base)+len(changed))
	for _, e := range base {
		if !without[key(e)] {
			all = append(all, e)
		}
	}
	all = append(all, changed...)
	slices.SortFunc(all, func(a, b FileEntry) int { return strings.Compare(key(a), key(b)) })
	return all
}

// parseFileHead is the opposite of encodeFileHead. Entries and trash come in the
// order of their keys.
func parseFileHead(b []byte) (fileHead, error) {
	var h fileHead
	if len(b) > maxFileIndex {
		return h, fmt.Errorf("the index has more than %d bytes", maxFileIndex)
	}
	if err := json.Unmarshal(b, &h); err != nil {
		return fileHead{}, err
	}
	for _, list := range []struct {
		entries []FileEntry
		key     func(FileEntry) string
	}{{h.Entries, pathKey}, {h.Trash, trashKey}} {
		for i := range list.entries {
			e := &list.entries[i]
			path, ok := parsePathText(e.Path)
			target, targetOK := parsePathText(e.Target)
			e.Path, e.Target = path, target
			if !ok || !targetOK || !soundPath(e.Path) || e.Content != "" && !soundFolder(e.Content) || e.Size < 0 {
				return fileHead{}, fmt.Errorf("path %q, content %q, %d bytes", e.Path, e.Content, e.Size)
			}
		}
		slices.SortStableFunc(list.entries, func(a, b FileEntry) int { return strings.Compare(list.key(a), list.key(b)) })
		for i := 1; i < len(list.entries); i++ {
			if k := list.key(list.entries[i]); k == list.key(list.entries[i-1]) {
				return fileHead{}, fmt.Errorf("%q is there twice", k)
			}
		}
	}
	for _, keys := range [][]string{h.Gone, h.Emptied} {
		for i, text := range keys {
			key, ok := parsePathText(text)
			if !ok {
				return fileHead{}, fmt.Errorf("gone: %q", text)
			}
			keys[i] = key
		}
	}
	if h.Base != "" && !soundFolder(h.Base) {
		return fileHead{}, fmt.Errorf("base %q", h.Base)
	}
	for _, o := range h.Old {
		// Who owns the tenant deletes them.
		if !soundFolder(o.Name) || !strings.HasPrefix(o.Name, "base-") || o.Name == h.Base {
			return fileHead{}, fmt.Errorf("replaced base %q", o.Name)
		}
	}
	return h, nil
}

// encodeFileHead fails with NoSpace for an index that could not be read again.
func encodeFileHead(h fileHead) ([]byte, error) {
	for _, list := range []*[]FileEntry{&h.Entries, &h.Trash} {
		*list = slices.Clone(*list)
		for i := range *list {
			e := &(*list)[i]
			e.Path, e.Target = pathText(e.Path), pathText(e.Target)
		}
	}
	for _, keys := range []*[]string{&h.Gone, &h.Emptied} {
		*keys = slices.Clone(*keys)
		for i := range *keys {
			(*keys)[i] = pathText((*keys)[i])
		}
	}
	b, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	if len(b) > maxFileIndex {
		return nil, errors.E("encode file index", "", errors.NoSpace,
			fmt.Errorf("%d files need %d bytes, of at most %d; keep some of them local, or spread them over several tenants", len(h.Entries), len(b), maxFileIndex))
	}
	return b, nil
}
