package database

import (
	"fmt"
	"io"
	"os"
	"time"
)

// This file defines the spool: the pages that were captured and not shipped
// yet, on disk, so that a bucket that is away costs no memory.

// spool collects the newest version of each captured page. It is a scratch
// file without a name: after a restart the pages are found again by comparing
// the database with the bucket. The caller locks.
type spool struct {
	file  *os.File
	size  int64            // of the file
	at    map[uint32]int64 // page → offset of its newest committed version
	pages uint32           // size of the database after the last commit; 0 before the first
	low   uint32           // the smallest that the database was since the last shipped commit
	since time.Time        // when the first of its commits was captured
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
	return &spool{file: f, at: make(map[uint32]int64), low: low}, nil
}

// write appends a page and returns where; it counts only once committed.
func (s *spool) write(data []byte) (int64, error) {
	off := s.size
	if _, err := s.file.WriteAt(data, off); err != nil {
		return 0, fmt.Errorf("write spool: %w", err)
	}
	s.size += int64(len(data))
	return off, nil
}

// commit makes pages that were written part of the database, which has then
// the given size in pages.
func (s *spool) commit(pages map[uint32]int64, size uint32) {
	if size < s.low {
		s.low = size
	}
	for page, off := range pages {
		s.at[page] = off
	}
	if size < s.pages {
		for page := range s.at {
			if page > size {
				delete(s.at, page)
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
