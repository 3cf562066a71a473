package history

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"

	"atc/fs/errors"
)

// This file defines how a whole database is written out: pages that lie side by
// side in one file become one range read, several reads are on their way at
// once, and every page is checked against its hash.

const (
	writeRead     = 4 << 20  // bytes of one range read, at most
	writeGap      = 64 << 10 // bytes between two pages that are read along rather than asked for separately
	writeParallel = 4        // reads at once; each holds its bytes in memory
)

// readSpan is one range read and the pages in it.
type readSpan struct {
	file   FileRef
	offset int64
	length int64
	pages  []pageAt
}

type pageAt struct {
	number uint32
	Place
}

// WriteTo writes the database that x describes, each page to its place. What is
// zero is left out, so that w has to be empty; its last page is always written,
// so that w gets its size. x must stay at its transaction meanwhile: when it
// moves on, the result is of no use and the error Condition. Files that are
// merged meanwhile are found again, and all is written once more. progress, which
// may be nil, is called with pages, never concurrently.
func (l *Log) WriteTo(ctx context.Context, x *Index, w io.WriterAt, progress func(done, total uint32)) error {
	for attempt := 1; ; attempt++ {
		err := l.writeOnce(ctx, x, w, progress)
		if !errors.Is(errors.NotExist, err) || attempt == loadAttempts {
			return err
		}
		if err := l.Rebuild(ctx, x); err != nil {
			return err
		}
	}
}

// writeOnce is WriteTo with the places as x has them.
func (l *Log) writeOnce(ctx context.Context, x *Index, w io.WriterAt, progress func(done, total uint32)) error {
	begin := x.TXID()
	pageSize, total := x.Size()
	if total == 0 {
		return nil
	}
	spans, last, err := readSpans(ctx, x)
	if err != nil {
		return err
	}
	if !last {
		if _, err := w.WriteAt(make([]byte, pageSize), int64(total-1)*int64(pageSize)); err != nil {
			return fmt.Errorf("write page %d: %w", total, err)
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex // protects done and progress
		done uint32
		work = make(chan readSpan)
	)
	for range writeParallel {
		wg.Go(func() {
			for s := range work {
				if err := l.writeSpan(ctx, s, pageSize, total, w); err != nil {
					cancel(err)
					continue // until the sender sees it, too
				}
				mu.Lock()
				done += uint32(len(s.pages))
				if progress != nil {
					progress(done, total)
				}
				mu.Unlock()
			}
		})
	}
	for _, s := range spans {
		select {
		case work <- s:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
	}
	close(work)
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return errors.E("write database", l.folder, errors.Other, err)
	}
	if x.TXID() != begin {
		return errors.E("write database", l.folder, errors.Condition, fmt.Errorf("transaction %s was followed by others", begin))
	}
	if progress != nil && done != total {
		progress(total, total) // pages that no file holds
	}
	return nil
}

// readSpans plans the reads for all pages of x. It reports whether the last
// page of the database is among them.
func readSpans(ctx context.Context, x *Index) (spans []readSpan, last bool, err error) {
	_, total := x.Size()
	byFile := make(map[FileRef][]pageAt)
	err = x.each(ctx, func(page uint32, at Entry) error {
		byFile[at.File] = append(byFile[at.File], pageAt{page, at.Place})
		last = last || page == total
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	for file, pages := range byFile {
		slices.SortFunc(pages, func(a, b pageAt) int { return cmp.Compare(a.Offset, b.Offset) })
		for first := 0; first < len(pages); {
			begin, end, n := pages[first].Offset, pages[first].Offset, first
			for ; n < len(pages); n++ {
				p := pages[n]
				if n > first && (p.Offset-end > writeGap || p.Offset+int64(p.Length)-begin > writeRead) {
					break
				}
				end = max(end, p.Offset+int64(p.Length))
			}
			spans = append(spans, readSpan{file, begin, end - begin, pages[first:n]})
			first = n
		}
	}
	// In the order of pages, so that the copy grows from its beginning.
	slices.SortFunc(spans, func(a, b readSpan) int { return cmp.Compare(a.pages[0].number, b.pages[0].number) })
	return spans, last, nil
}

func (l *Log) writeSpan(ctx context.Context, s readSpan, pageSize int, total uint32, w io.WriterAt) error {
	b, err := l.ReadPages(ctx, s.file, s.offset, s.length)
	if err != nil {
		return err
	}
	for _, p := range s.pages {
		from := min(p.Offset-s.offset, int64(len(b)))
		frame := b[from:min(from+int64(p.Length), int64(len(b)))]
		data, err := DecodeFrame(frame, p.number, pageSize, p.Place)
		if err != nil {
			return errors.E("read page", l.fileKey(s.file), errors.Other, err)
		}
		if p.number != total && zero(data) {
			continue
		}
		if _, err := w.WriteAt(data, int64(p.number-1)*int64(pageSize)); err != nil {
			return fmt.Errorf("write page %d: %w", p.number, err)
		}
	}
	return nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
