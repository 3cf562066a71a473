// Package pages reads a database of the bucket, as it was at one TXID, like a
// file: any bytes at any offset, and only the pages that hold them are fetched.
//
//	x, err := log.LoadAt(ctx, txid)
//	f := pages.New("acme/main.sqlite3", log, x, pages.Options{})
//	n, err := f.ReadAt(ctx, buffer, 0)
//
// What it shows never changes, and every page was compared with its hash. A
// reader that goes forward gets more with each request; one that jumps gets the
// pages that lie beside the wanted one in the same LTX file.
//
// The header is shown as that of a rollback-journal database (bytes 18 and 19
// are 1, file format section 1.3.3): SQLite refuses to read a database that says
// WAL where it may neither make a log nor shared memory, and a state of the past
// has no log.
//
// Limitations: the cache is the file's own, so two Files fetch twice.
package pages

import (
	"context"
	"fmt"
	"sync"

	"atc/fs/errors"
	"atc/fs/history"
)

// Options bound what a File keeps and fetches. The zero value is good.
type Options struct {
	// Cache is how many bytes of pages are kept; 8 MiB by default.
	Cache int
	// First and Most are how many bytes are fetched around a page: First where
	// readers jump, growing to Most where they go forward. 64 KiB and 1 MiB by
	// default; Most is at most half of Cache.
	First, Most int
	// Progress is called after each fetch with how many bytes of pages were
	// fetched so far, those that were fetched again included; nil for none. It
	// may be called from several goroutines at once.
	Progress func(fetched int64)
}

func (o *Options) defaults() {
	if o.Cache == 0 {
		o.Cache = 8 << 20
	}
	if o.First == 0 {
		o.First = 64 << 10
	}
	if o.Most == 0 {
		o.Most = 1 << 20
	}
	o.Most = min(o.Most, o.Cache/2)
	o.First = min(o.First, o.Most)
}

// File is a database at one TXID. Its methods may be called concurrently. It
// needs no closing.
type File struct {
	name     string
	log      *history.Log
	index    *history.Index
	pageSize int
	pages    uint32
	options  Options

	mu       sync.Mutex // protects what follows; not held during requests
	cache    cache
	fetching map[uint32]chan struct{} // pages on their way; closed when they are here or were not to be had
	next     uint32                   // where a reader that goes forward misses next
	window   int                      // pages of the next fetch
	fetched  int64                    // bytes of pages, for Options.Progress

	rebuilding sync.Mutex // held while the pages are looked for elsewhere; before mu
}

// New returns the database that x describes. The name is for errors.
func New(name string, log *history.Log, x *history.Index, o Options) *File {
	o.defaults()
	f := &File{name: name, log: log, index: x, options: o, fetching: make(map[uint32]chan struct{})}
	f.pageSize, f.pages = x.Size()
	if f.pageSize > 0 {
		f.cache.limit = max(o.Cache/f.pageSize, 4)
	}
	return f
}

// Size is the database's size in bytes.
func (f *File) Size() int64 { return int64(f.pageSize) * int64(f.pages) }

// ReadAt reads what lies at offset. It reads fewer bytes than asked for, without
// an error, only where the database ends. A page that is damaged in the bucket
// is an error of kind Corrupt that names it.
func (f *File) ReadAt(ctx context.Context, p []byte, offset int64) (int, error) {
	if offset < 0 {
		return 0, errors.E("read", f.name, errors.Invalid, fmt.Errorf("offset %d", offset))
	}
	n := 0
	for n < len(p) && offset < f.Size() {
		page := uint32(offset/int64(f.pageSize)) + 1
		data, err := f.page(ctx, page)
		if err != nil {
			return n, err
		}
		m := copy(p[n:], data[offset%int64(f.pageSize):])
		n += m
		offset += int64(m)
	}
	return n, nil
}

// page returns a page, which is not to be changed.
func (f *File) page(ctx context.Context, page uint32) ([]byte, error) {
	for {
		f.mu.Lock()
		if data := f.cache.get(page); data != nil {
			f.mu.Unlock()
			return data, nil
		}
		if done := f.fetching[page]; done != nil {
			f.mu.Unlock()
			select {
			case <-done:
				// It may be in the cache now. If it could not be had, or has
				// been evicted again, we fetch it ourselves.
				continue
			case <-ctx.Done():
				return nil, errors.E("read", f.named(page), errors.Other, ctx.Err())
			}
		}
		wanted, done := f.claim(page)
		f.mu.Unlock()
		got, err := f.fetch(ctx, page, wanted)
		if errors.Is(errors.NotExist, err) {
			got, err = f.refetch(ctx, page, wanted)
		}
		f.mu.Lock()
		for p, data := range got {
			f.cache.put(p, data)
		}
		for _, p := range wanted {
			delete(f.fetching, p)
		}
		close(done)
		f.fetched += int64(len(got)) * int64(f.pageSize)
		fetched := f.fetched
		f.mu.Unlock()
		if f.options.Progress != nil {
			f.options.Progress(fetched)
		}
		if err != nil {
			return nil, errors.E("read", f.named(page), errors.Other, err)
		}
		return got[page], nil
	}
}

func (f *File) named(page uint32) string { return fmt.Sprintf("%s page %d", f.name, page) }

// claim chooses what is fetched together with a page. File.mu is held.
func (f *File) claim(page uint32) (wanted []uint32, done chan struct{}) {
	first, most := max(f.options.First/f.pageSize, 1), max(f.options.Most/f.pageSize, 1)
	if page == f.next && page != 1 {
		f.window = min(max(f.window*2, first), most)
	} else {
		f.window = first
	}
	done = make(chan struct{})
	for p := page; p <= f.pages && p-page < uint32(f.window); p++ {
		if f.fetching[p] == nil && !f.cache.has(p) {
			wanted = append(wanted, p)
			f.fetching[p] = done
		}
	}
	f.next = page + uint32(f.window)
	return wanted, done
}
