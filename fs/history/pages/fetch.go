package pages

import (
	"context"
	"slices"
	"sync"

	"atc/fs/errors"
	"atc/fs/history"
)

// This file defines how pages are fetched: those whose places lie together in
// one LTX file by one range read.

const (
	// gap is how many bytes nobody wants are read rather than asking twice.
	gap = 16 << 10
	// parallel is how many requests one fetch has under way.
	parallel = 4
)

// place is a page and where it is.
type place struct {
	page uint32
	history.Entry
}

// run is a range of one LTX file.
type run struct {
	file       history.FileRef
	begin, end int64
	places     []place
}

// fetch gets the wanted pages, of which page must come: what the others meet is
// for their readers to find out. Where they were not asked for in sequence only
// the range with page is read.
func (f *File) fetch(ctx context.Context, page uint32, wanted []uint32) (map[uint32][]byte, error) {
	got := make(map[uint32][]byte, len(wanted))
	var places []place
	for _, p := range wanted {
		e, ok, err := f.index.Lookup(ctx, p)
		switch {
		case err != nil && p == page:
			return got, err
		case err != nil:
		case !ok: // no file holds it, as the lock page: it reads as zeros
			got[p] = make([]byte, f.pageSize)
		default:
			places = append(places, place{p, e})
		}
	}
	runs := runsOf(places)
	if len(wanted) <= max(f.options.First/f.pageSize, 1) {
		runs = slices.DeleteFunc(runs, func(r run) bool { return !r.has(page) })
	}
	var (
		mu   sync.Mutex // protects got and failed
		work sync.WaitGroup
		slot = make(chan struct{}, parallel)
		fail error
	)
	for _, r := range runs {
		slot <- struct{}{}
		work.Go(func() {
			defer func() { <-slot }()
			frames, err := f.log.ReadPages(ctx, r.file, r.begin, r.end-r.begin)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				if r.has(page) {
					fail = err
				}
				return
			}
			for _, at := range r.places {
				data, err := f.decode(frames, r.begin, at)
				if err == nil {
					got[at.page] = data
				} else if at.page == page {
					fail = err
				}
			}
		})
	}
	work.Wait()
	return got, fail
}

// refetch is fetch where a file was merged into another one since, and deleted.
func (f *File) refetch(ctx context.Context, page uint32, wanted []uint32) (map[uint32][]byte, error) {
	f.rebuilding.Lock()
	defer f.rebuilding.Unlock()
	got, err := f.fetch(ctx, page, wanted) // somebody else may have found them meanwhile
	if errors.Is(errors.NotExist, err) {
		if err = f.log.Rebuild(ctx, f.index); err == nil {
			got, err = f.fetch(ctx, page, wanted)
		}
	}
	return got, err
}

// decode takes one page out of the bytes of a run.
func (f *File) decode(frames []byte, begin int64, at place) ([]byte, error) {
	from := at.Offset - begin
	to := min(from+int64(at.Length), int64(len(frames))) // a file that was cut is for DecodeFrame to refuse
	data, err := history.DecodeFrame(frames[min(from, to):to], at.page, f.pageSize, at.Place)
	if err != nil {
		return nil, err
	}
	if at.page == 1 && len(data) > 19 {
		for _, n := range []int{18, 19} {
			if data[n] == 2 {
				data[n] = 1
			}
		}
	}
	return data, nil
}

func (r run) has(page uint32) bool {
	return slices.ContainsFunc(r.places, func(at place) bool { return at.page == page })
}

// runsOf orders places by file and offset, and joins those that are close.
func runsOf(places []place) []run {
	slices.SortFunc(places, func(a, b place) int {
		if c := compare(a.File, b.File); c != 0 {
			return c
		}
		return int(min(max(a.Offset-b.Offset, -1), 1))
	})
	var runs []run
	for _, at := range places {
		end := at.Offset + int64(at.Length)
		if n := len(runs) - 1; n >= 0 && runs[n].file == at.File && at.Offset-runs[n].end <= gap {
			runs[n].end = max(runs[n].end, end)
			runs[n].places = append(runs[n].places, at)
			continue
		}
		runs = append(runs, run{at.File, at.Offset, end, []place{at}})
	}
	return runs
}

func compare(a, b history.FileRef) int {
	switch {
	case a == b:
		return 0
	case a.Max < b.Max, a.Max == b.Max && a.Min < b.Min, a.Max == b.Max && a.Min == b.Min && a.Level < b.Level:
		return -1
	}
	return 1
}
