package database

import (
	"fmt"
	"io"
	"os"
	"time"
)

// This file defines the spool: the pages that were captured and not shipped
// yet, on disk, so that a bucket that is away costs little memory.

// spool collects the newest version of each captured page. It is a scratch
// file without a name: after a restart the pages are found again by comparing
// the database with the bucket. A version that is not wanted any more gives its
// place to the next one, so that the file is no larger than what was captured at
// most, however often the pages are overwritten while the bucket is away. The
// caller locks.
type spool struct {
	file  *os.File
	size  int64            // of the file
	at    map[uint32]int64 // page → offset of its newest committed version
	pages uint32           // size of the database after the last commit; 0 before the first
	low   uint32           // the smallest that the database was since the last shipped commit
	since time.Time        // when the first of its commits was captured

	slot int                // bytes of each version; all are of one size
	free []int64            // offsets that nobody wants
	open map[int64]struct{} // offsets of versions that are not committed
}

func newSpool(dir string, low uint32) (*spool, error) {
	f, err := os.CreateTemp(dir, "spool-*")
	if err != nil {
		return nil, fmt.Errorf("make spool: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("make spool: %w", err)
	}
	return &spool{file: f, at: make(map[uint32]int64), open: make(map[int64]struct{}), low: low}, nil
}

// write keeps a page and returns where; it counts only once committed.
func (s *spool) write(data []byte) (int64, error) {
	if s.slot != len(data) {
		if len(s.at) > 0 {
			return 0, fmt.Errorf("write spool: %d bytes where pages have %d", len(data), s.slot)
		}
		s.slot, s.size, s.free = len(data), 0, nil
		clear(s.open)
	}
	off, last := s.size, len(s.free)-1
	if last >= 0 {
		off = s.free[last]
	}
	if _, err := s.file.WriteAt(data, off); err != nil {
		return 0, fmt.Errorf("write spool: %w", err)
	}
	if last >= 0 {
		s.free = s.free[:last]
	} else {
		s.size += int64(len(data))
	}
	s.open[off] = struct{}{}
	return off, nil
}

// replace writes a version of a page in place of the one in versions, which was
// not committed.
func (s *spool) replace(versions map[uint32]int64, page uint32, data []byte) error {
	off, err := s.write(data)
	if err != nil {
		return err
	}
	if old, ok := versions[page]; ok {
		s.drop(old)
	}
	versions[page] = off
	return nil
}

// merge moves versions over older ones of the same pages, which were not committed
// either.
func (s *spool) merge(into, versions map[uint32]int64) {
	for page, off := range versions {
		if old, ok := into[page]; ok {
			s.drop(old)
		}
		into[page] = off
	}
	clear(versions)
}

// drop gives up a version that was not committed.
func (s *spool) drop(off int64) {
	if _, ok := s.open[off]; ok {
		delete(s.open, off)
		s.free = append(s.free, off)
	}
}

// discard gives up all versions that were not committed.
func (s *spool) discard() {
	for off := range s.open {
		s.free = append(s.free, off)
	}
	clear(s.open)
}

// commit makes pages that were written part of the database, which has then
// the given size in pages. What else was written is given up.
func (s *spool) commit(pages map[uint32]int64, size uint32) {
	if size < s.low {
		s.low = size
	}
	for page, off := range pages {
		if old, ok := s.at[page]; ok {
			s.free = append(s.free, old)
		}
		delete(s.open, off)
		s.at[page] = off
	}
	s.discard()
	if size < s.pages {
		for page, off := range s.at {
			if page > size {
				delete(s.at, page)
				s.free = append(s.free, off)
			}
		}
	}
	s.pages = size
}

// read reads a committed page into data. It reports false where the spool has
// no version of it.
func (s *spool) read(page uint32, data []byte) (bool, error) {
	off, ok := s.at[page]
	if !ok {
		return false, nil
	}
	if _, err := s.file.ReadAt(data, off); err != nil && err != io.EOF {
		return false, fmt.Errorf("read spool: %w", err)
	}
	return true, nil
}

func (s *spool) empty() bool { return s.pages == 0 }

func (s *spool) close() error { return s.file.Close() }
