package database

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"os"
	"slices"
)

// This file defines which pages of the local file are there. The map is kept in
// a file of its own that is written along with each change, so that a restart
// of the process, however it ended, neither fetches a page twice nor takes a
// hole for a page.

// presence is the set of pages that the local file holds. Pages behind limit
// were never in the bucket and count as present. The caller locks.
type presence struct {
	file    *os.File
	limit   uint32
	words   []uint64 // bit p-1 is page p
	missing uint32
}

const presenceHeader = 8

// openPresence reads the map in path. A file that is not there or not whole
// means that nothing is present of limit pages.
func openPresence(path string, limit uint32) (*presence, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open presence map: %w", err)
	}
	p := &presence{file: f}
	b, err := io.ReadAll(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("read presence map: %w", err)
	}
	if len(b) >= presenceHeader {
		kept := binary.LittleEndian.Uint64(b)
		if words := b[presenceHeader:]; kept <= 1<<32-2 && uint64(len(words)) == (kept+63)/64*8 {
			p.limit = uint32(kept)
			for ; len(words) > 0; words = words[8:] {
				p.words = append(p.words, binary.LittleEndian.Uint64(words))
			}
			p.count()
			return p, nil
		}
	}
	if err := p.reset(limit); err != nil {
		f.Close()
		return nil, err
	}
	return p, nil
}

// reset makes the pages 1..limit missing.
func (p *presence) reset(limit uint32) error {
	p.limit = limit
	p.words = make([]uint64, (uint64(limit)+63)/64)
	p.count()
	if err := p.file.Truncate(0); err != nil {
		return fmt.Errorf("reset presence map: %w", err)
	}
	if err := p.file.Truncate(presenceHeader + int64(len(p.words))*8); err != nil {
		return fmt.Errorf("reset presence map: %w", err)
	}
	return p.writeLimit()
}

func (p *presence) writeLimit() error {
	var b [presenceHeader]byte
	binary.LittleEndian.PutUint64(b[:], uint64(p.limit))
	if _, err := p.file.WriteAt(b[:], 0); err != nil {
		return fmt.Errorf("write presence map: %w", err)
	}
	return nil
}

func (p *presence) count() {
	set := 0
	for _, w := range p.words {
		set += bits.OnesCount64(w)
	}
	p.missing = p.limit - uint32(set)
}

func (p *presence) has(page uint32) bool {
	return page > p.limit || p.words[(page-1)/64]>>((page-1)%64)&1 != 0
}

// add notes the pages first..last as present: in the file and then in memory, so
// that what cannot be written down is not believed either.
func (p *presence) add(first, last uint32) error {
	last = min(last, p.limit)
	if p.missing == 0 || first > last {
		return nil
	}
	from, to := (first-1)/64, (last-1)/64
	words := slices.Clone(p.words[from : to+1])
	added := uint32(0)
	for page := first; page <= last; page++ {
		if !p.has(page) {
			words[(page-1)/64-from] |= 1 << ((page - 1) % 64)
			added++
		}
	}
	if added == 0 {
		return nil
	}
	b := make([]byte, 0, 8*len(words))
	for _, w := range words {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	if _, err := p.file.WriteAt(b, presenceHeader+int64(from)*8); err != nil {
		return fmt.Errorf("write presence map: %w", err)
	}
	copy(p.words[from:], words)
	p.missing -= added
	return nil
}

// addEach is add for pages all over the file, with one write.
func (p *presence) addEach(pages []uint32) error {
	words := slices.Clone(p.words)
	added := uint32(0)
	for _, page := range pages {
		if word, bit := &words[(page-1)/64], uint64(1)<<((page-1)%64); *word&bit == 0 {
			*word |= bit
			added++
		}
	}
	b := make([]byte, 0, 8*len(words))
	for _, w := range words {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	if _, err := p.file.WriteAt(b, presenceHeader); err != nil {
		return fmt.Errorf("write presence map: %w", err)
	}
	p.words = words
	p.missing -= added
	return nil
}

// cut forgets the pages behind n for good: should the database grow again, they
// are new ones.
func (p *presence) cut(n uint32) error {
	if n >= p.limit {
		return nil
	}
	return p.add(n+1, p.limit)
}

func (p *presence) close() error { return p.file.Close() }
