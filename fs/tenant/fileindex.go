package tenant

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"time"

	"atc/fs/bucket"
	"atc/fs/errors"
)

// This file defines the index of plain files in the bucket. It is one small
// object, the head, which every change replaces under a condition, and a base
// that it names: what stood there when the changes became too many for the head.
// A base is never changed, so that a change of one file writes that file and a
// head of a few KiB, however many files there are.

// FileIndex says which plain files a tenant has.
type FileIndex struct {
	// Epoch makes the first write of a new owner change the head's version, so
	// that the owner before can write it no more.
	Epoch   uint64
	Entries []FileEntry // what is there, in the order of the paths
	// Trash is what is there no more and whose contents may still be stored. What
	// was removed at Since or later comes back if the tenant is removed and
	// undeleted; the rest is to be deleted. Since is zero where nothing comes back.
	Trash []FileEntry
	Since time.Time

	base *fileBase // nil where the head has everything
	old  []oldBase
	etag string // of the head
}

// fileBase is a base as it is in the bucket.
type fileBase struct {
	name           string
	size           int // bytes
	entries, trash []FileEntry
}

// oldBase is a base that was replaced and that somebody may still read.
type oldBase struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"` // when it was replaced
}

// Next returns an index that can be saved in place of x, with the same trash and
// no entries yet.
func (x *FileIndex) Next(epoch uint64) *FileIndex {
	return &FileIndex{Epoch: epoch, Trash: x.Trash, Since: x.Since, base: x.base, old: slices.Clone(x.old), etag: x.etag}
}

// Base is the name of the base that x stands on, to be loaded beside the head.
func (x *FileIndex) Base() string {
	if x.base == nil {
		return ""
	}
	return x.base.name
}

// Find returns the entry of a path, or nil.
func (x *FileIndex) Find(path string) *FileEntry {
	if i, ok := slices.BinarySearchFunc(x.Entries, path, comparePath); ok {
		return &x.Entries[i]
	}
	return nil
}

// ComesBack reports whether something in the trash does, if the tenant is removed
// and undeleted.
func (x *FileIndex) ComesBack(e FileEntry) bool {
	return !x.Since.IsZero() && !e.Removed.IsZero() && !e.Removed.Before(x.Since)
}

// Same reports whether x and y say the same.
func (x *FileIndex) Same(y *FileIndex) bool {
	return x.Epoch == y.Epoch && x.Since.Equal(y.Since) &&
		slices.EqualFunc(x.Entries, y.Entries, FileEntry.same) && slices.EqualFunc(x.Trash, y.Trash, FileEntry.same)
}

const (
	// maxFileIndex bounds each of the index's objects, in bytes, at writing and at
	// reading: about a million files.
	maxFileIndex = 256 << 20
	// smallIndex is how many bytes an index may have to stand in the head alone.
	smallIndex = 8 << 10
	// baseGrace is how long a base stays that was replaced: whoever has read the
	// head before gets it meanwhile, and reads the head again after.
	baseGrace = time.Minute
)

// Load reads the index; an empty one where there is none.
func (f *Files) Load(ctx context.Context) (*FileIndex, error) { return f.LoadWith(ctx, "") }

// LoadWith is Load for who has heard which base the index stands on: it is read
// beside the head. Where that is wrong it costs one request more.
func (f *Files) LoadWith(ctx context.Context, guess string) (*FileIndex, error) {
	guessed := func() (*fileBase, error) { return nil, nil }
	if guess != "" {
		ctx, cancel := context.WithCancel(ctx)
		var (
			base *fileBase
			err  error
			done = make(chan struct{})
		)
		go func() {
			defer close(done)
			base, err = f.loadBase(ctx, guess)
		}()
		guessed = func() (*fileBase, error) { <-done; return base, err }
		defer func() { cancel(); <-done }()
	}
	for last := ""; ; {
		head, etag, err := f.loadHead(ctx)
		if errors.Is(errors.NotExist, err) {
			return &FileIndex{}, nil
		}
		if err != nil {
			return nil, err
		}
		var base *fileBase
		switch head.Base {
		case "":
		case guess:
			base, err = guessed()
		default:
			base, err = f.loadBase(ctx, head.Base)
		}
		if errors.Is(errors.NotExist, err) {
			if etag == last {
				return nil, errors.E("load file index", f.tenant, errors.Corrupt, fmt.Errorf("what it stands on is gone: %w", err))
			}
			last = etag // replaced meanwhile, so there is another head by now
			continue
		}
		if err != nil {
			return nil, err
		}
		x, err := resolve(head, base)
		if err != nil {
			return nil, errors.E("load file index", f.tenant, errors.Corrupt, err)
		}
		x.etag = etag
		return x, nil
	}
}

func (f *Files) loadHead(ctx context.Context) (head fileHead, etag string, err error) {
	b, info, err := f.read(ctx, "index.json")
	if err != nil {
		return fileHead{}, "", err
	}
	if head, err = parseFileHead(b); err != nil {
		return fileHead{}, "", errors.E("load file index", f.tenant, errors.Corrupt, err)
	}
	return head, info.ETag, nil
}

func (f *Files) loadBase(ctx context.Context, name string) (*fileBase, error) {
	b, _, err := f.read(ctx, name)
	if err != nil {
		return nil, err
	}
	head, err := parseFileHead(b)
	if err == nil && (head.Base != "" || len(head.Gone)+len(head.Emptied) > 0) {
		err = fmt.Errorf("%s is no base", name)
	}
	if err != nil {
		return nil, errors.E("load file index", f.tenant, errors.Corrupt, err)
	}
	return &fileBase{name, len(b), head.Entries, head.Trash}, nil
}

func (f *Files) read(ctx context.Context, name string) ([]byte, bucket.Info, error) {
	body, info, err := f.bucket.Get(ctx, f.key(name))
	if err != nil {
		return nil, info, err
	}
	defer body.Close()
	b, err := io.ReadAll(io.LimitReader(body, maxFileIndex+1))
	if err != nil {
		return nil, info, errors.E("load file index", f.tenant, errors.Unavailable, err)
	}
	return b, info, nil
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
	if !slices.IsSortedFunc(x.Entries, byPath) {
		x.Entries = slices.Clone(x.Entries)
		slices.SortFunc(x.Entries, byPath)
	}
	if !slices.IsSortedFunc(x.Trash, byTrashKey) {
		x.Trash = slices.Clone(x.Trash)
		slices.SortFunc(x.Trash, byTrashKey)
	}
	err := f.rebase(ctx, x)
	if err != nil {
		return err
	}
	for range tries {
		if err = f.put(ctx, x); err == nil {
			return f.dropBases(ctx, x)
		}
		if !errors.Is(errors.Condition, err) {
			return err
		}
		there, etag, loadErr := f.loadHead(ctx)
		if loadErr != nil && !errors.Is(errors.NotExist, loadErr) {
			return loadErr
		}
		if there.Epoch > x.Epoch {
			return errors.E("save file index", f.tenant, errors.Fenced, err)
		}
		x.etag = etag
	}
	return err
}

// put writes the head of x if the version that x has is still there.
func (f *Files) put(ctx context.Context, x *FileIndex) error {
	b, err := encodeFileHead(x.head())
	if err != nil {
		return errors.E("write file index", f.tenant, errors.Other, err)
	}
	info, err := f.bucket.Put(ctx, f.key("index.json"), bytes.NewReader(b), bucket.PutOptions{IfNoneMatch: x.etag == "", IfMatch: x.etag})
	if err == nil {
		x.etag = info.ETag
	}
	return err
}

// rebase puts x on another base where its head would be too large.
func (f *Files) rebase(ctx context.Context, x *FileIndex) error {
	b, err := encodeFileHead(x.head())
	if err == nil && len(b) <= x.headLimit() {
		return nil
	}
	b, err = encodeFileHead(fileHead{Entries: x.Entries, Trash: x.Trash})
	if err != nil {
		return errors.E("write file index", f.tenant, errors.Other, err)
	}
	var base *fileBase
	if len(b) > smallIndex {
		base = &fileBase{"base-" + rand.Text(), len(b), x.Entries, x.Trash}
		f.loose = append(f.loose, base.name) // until a head names it
		if _, err := f.bucket.Put(ctx, f.key(base.name), bytes.NewReader(b), bucket.PutOptions{IfNoneMatch: true}); err != nil {
			return err
		}
	}
	if x.base != nil {
		x.old = append(x.old, oldBase{x.base.name, f.now().UTC()})
	}
	x.base = base
	return nil
}

// headLimit is how many bytes the head of x may have. Of n bytes of base and
// changes of e bytes each, a limit of sqrt(2en) uploads least for a change: half
// of the limit with each head, and the base once the limit is reached.
func (x *FileIndex) headLimit() int {
	const change = 32 // a change has more, but a small head is read by every machine that looks
	if x.base == nil {
		return smallIndex
	}
	return max(smallIndex/2, sqrt(2*change*x.base.size))
}

func sqrt(n int) int {
	r := 0
	for bit := 1 << 20; bit > 0; bit >>= 1 {
		if (r+bit)*(r+bit) <= n {
			r += bit
		}
	}
	return r
}

// dropBases deletes the bases that no saved head needs any more.
func (f *Files) dropBases(ctx context.Context, x *FileIndex) error {
	now := f.now()
	var drop []string
	x.old = slices.DeleteFunc(x.old, func(o oldBase) bool {
		past := now.Sub(o.At) > baseGrace
		if past {
			drop = append(drop, o.Name)
		}
		return past
	})
	for _, name := range f.loose {
		if name != x.Base() && !slices.ContainsFunc(x.old, func(o oldBase) bool { return o.Name == name }) {
			drop = append(drop, name)
		}
	}
	f.loose = nil
	for _, name := range drop {
		if err := f.bucket.Delete(ctx, f.key(name)); err != nil {
			f.loose = append(f.loose, name) // with the next head
		}
	}
	return nil
}
