package history

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/superfly/ltx"

	"atc/fs/bucket"
	"atc/fs/errors"
	"atc/fs/journal"
)

// This file defines the merge of consecutive LTX files into one that holds the
// newest version of each page. The first input, which is a snapshot when a
// snapshot is made, is streamed into the output; the others, which come after
// it and are usually small, are collected in a scratch file first. So memory
// holds places, not pages. Every input is read to its end and its checksum
// compared before the output is put.

// maxUnwritten is how many pages a merged file may have that no input holds;
// they become zero. More are a damaged header, not a sparse database.
const maxUnwritten = 1 << 20

// merge is one merge on its way.
type merge struct {
	log     *Log
	dir     string           // for scratch files; empty for the system's
	scratch *os.File         // the inputs after the first, one behind the other
	size    int64            // of scratch
	newest  map[uint32]Place // of pages in scratch; offsets are scratch's
	// low is the smallest size in pages that the database had in the range, as
	// far as the inputs show: what lay behind it before is no page any more.
	low   uint32
	last  Commit
	stamp string // the last input's timestamp, as Litestream reads it
	first Commit // the first input in scratch
	whole bool   // that one holds every page of its database
}

// merge puts the file of that level that replaces the inputs, which are in order
// and reach from the first one's first transaction to the last one's last without
// a gap. A snapshot begins at 1, also where its first input, which then holds
// every page, does not. It returns what the file is and where its pages are. Where the file stands
// already, from an earlier attempt or from another machine, that one is taken.
func (l *Log) merge(ctx context.Context, level int, inputs []File, dir string) (File, map[uint32]Place, error) {
	out := FileRef{Level: level, Min: inputs[0].Min, Max: inputs[len(inputs)-1].Max}
	if level == snapshotLevel {
		out.Min = 1
	}
	m := &merge{log: l, dir: dir, newest: make(map[uint32]Place), low: ^uint32(0)}
	defer m.close()
	for _, f := range inputs[1:] {
		if err := m.add(ctx, f.FileRef); err != nil {
			return File{}, nil, errors.E("compact", l.fileKey(f.FileRef), errors.Other, err)
		}
	}
	file, places, err := m.encode(ctx, inputs[0].FileRef, out)
	if err != nil {
		return File{}, nil, errors.E("compact", l.fileKey(out), errors.Other, err)
	}
	defer file.Close()
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return File{}, nil, fmt.Errorf("measure merged file: %w", err)
	}
	places, err = l.putMerged(ctx, out, m.stamp, file, places)
	return File{FileRef: out, Size: size}, places, err
}

func (m *merge) close() {
	if m.scratch != nil {
		m.scratch.Close()
	}
}

// scratchFile makes a file that is gone when it is closed.
func scratchFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "merge-*")
	if err != nil {
		return nil, fmt.Errorf("make scratch file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("make scratch file: %w", err)
	}
	return f, nil
}

// add collects an input into the scratch file.
func (m *merge) add(ctx context.Context, ref FileRef) error {
	if m.scratch == nil {
		var err error
		if m.scratch, err = scratchFile(m.dir); err != nil {
			return err
		}
	}
	body, info, err := m.log.bucket.Get(ctx, m.log.fileKey(ref))
	if err != nil {
		return err
	}
	defer body.Close()
	begin := m.size
	out := bufio.NewWriterSize(m.scratch, 64<<10)
	raw := io.TeeReader(bufio.NewReaderSize(body, 64<<10), out)
	found := make(map[uint32]Place)
	c, err := Decode(raw, info.Size, func(p Page, at Place) error {
		at.Offset += begin
		found[p.Number] = at
		return nil
	})
	if err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write scratch file: %w", err)
	}
	m.size += info.Size
	whole := uint32(len(found)) >= c.Pages-min(c.Pages, 1)
	if m.first.TXID == 0 {
		m.first, m.whole = c, whole
	}
	return m.over(ref, c, found, whole, info)
}

// over puts the pages of an input over what was collected before it.
func (m *merge) over(ref FileRef, c Commit, found map[uint32]Place, whole bool, info bucket.Info) error {
	if err := isFile(c, ref); err != nil {
		return err
	}
	if m.last.TXID != 0 && c.PageSize != m.last.PageSize {
		if !whole {
			return sizeChanged(c, m.last.PageSize)
		}
		clear(m.newest)
		m.low = 0
	}
	m.low = min(m.low, c.Pages)
	for page := range m.newest {
		if page > c.Pages {
			delete(m.newest, page)
		}
	}
	maps.Copy(m.newest, found)
	m.last = c
	m.stamp = stampOf(c, info)
	return nil
}

// isFile refuses a file that holds other transactions than its name says, or a
// size that no database has.
func isFile(c Commit, ref FileRef) error {
	if c.Pages == ^uint32(0) {
		return errors.E("read LTX", ref.name(), errors.Corrupt, fmt.Errorf("a database of %d pages", c.Pages))
	}
	if c.First != ref.Min || c.TXID != ref.Max {
		return errors.E("read LTX", ref.name(), errors.Corrupt, fmt.Errorf("it contains transactions %s to %s", c.First, c.TXID))
	}
	return nil
}

func sizeChanged(c Commit, before int) error {
	return errors.E("read LTX", c.TXID.String(), errors.Corrupt,
		fmt.Errorf("it changes the page size from %d to %d without all pages", before, c.PageSize))
}

func neverWritten(c Commit) error {
	return errors.E("merge", c.TXID.String(), errors.Corrupt, fmt.Errorf("more than %d of its %d pages were never written", maxUnwritten, c.Pages))
}

// stampOf is the timestamp that the output inherits: the input's own where it
// has one that agrees with its header, which is precise to a millisecond only.
func stampOf(c Commit, info bucket.Info) string {
	if t, err := time.Parse(time.RFC3339Nano, info.Meta[timestampKey]); err == nil && t.UnixMilli() == c.Time.UnixMilli() {
		return t.UTC().Format(time.RFC3339Nano)
	}
	return c.Time.UTC().Format(time.RFC3339Nano)
}

// encode streams the first input and what was collected into a scratch file.
func (m *merge) encode(ctx context.Context, base, out FileRef) (*os.File, map[uint32]Place, error) {
	body, info, err := m.log.bucket.Get(ctx, m.log.fileKey(base))
	if err != nil {
		return nil, nil, err
	}
	defer body.Close()
	header, raw, err := ltx.PeekHeader(bufio.NewReaderSize(body, 64<<10))
	if err == nil {
		err = header.Validate()
	}
	if err != nil {
		return nil, nil, errors.E("decode LTX", "header", errors.Corrupt, err)
	}
	b := Commit{PageSize: int(header.PageSize), Pages: header.Commit, First: header.MinTXID, TXID: header.MaxTXID, Time: time.UnixMilli(header.Timestamp), Epoch: header.NodeID}
	if err := isFile(b, base); err != nil {
		return nil, nil, err
	}
	if m.last.TXID == 0 {
		m.last, m.stamp = b, stampOf(b, info)
	}
	keep := min(m.low, b.Pages) // the pages of base that survive
	if m.first.TXID != 0 && b.PageSize != m.first.PageSize {
		if !m.whole {
			return nil, nil, sizeChanged(m.first, b.PageSize)
		}
		keep, m.low = 0, 0
	}
	m.low = min(m.low, b.Pages)
	if base.Min == 1 {
		m.low = 0 // nothing before
	}
	known := int64(max(keep, m.low))
	for page := range m.newest {
		if page > max(keep, m.low) {
			known++
		}
	}
	if int64(m.last.Pages) > known+maxUnwritten {
		return nil, nil, neverWritten(m.last)
	}
	file, err := scratchFile(m.dir)
	if err != nil {
		return nil, nil, err
	}
	c := m.last
	c.First, c.TXID = out.Min, out.Max
	places, err := Encode(file, c, m.pages(raw, info.Size, keep))
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	return file, places, nil
}

// pages yields the output's pages in order: the newest of each, and zero for
// those by which the database grew without anybody having written them.
func (m *merge) pages(base io.Reader, size int64, keep uint32) iter.Seq2[Page, error] {
	return func(yield func(Page, error) bool) {
		numbers := slices.Sorted(maps.Keys(m.newest))
		s := &sequence{merge: m, numbers: numbers, yield: yield, lock: journal.LockPage(m.last.PageSize)}
		_, err := Decode(base, size, func(p Page, _ Place) error {
			if p.Number <= s.seen {
				return errors.E("decode LTX", fmt.Sprintf("page %d", p.Number), errors.Corrupt, fmt.Errorf("it comes after page %d", s.seen))
			}
			s.seen = p.Number
			if p.Number > keep {
				return nil
			}
			if err := s.until(p.Number); err != nil {
				return err
			}
			if _, newer := m.newest[p.Number]; newer {
				return nil
			}
			return s.put(p)
		})
		if err == nil {
			err = s.until(m.last.Pages + 1)
		}
		if err != nil && err != errStopped {
			yield(Page{}, err)
		}
	}
}

var errStopped = fmt.Errorf("the reader of pages has stopped")

// sequence is how far the output's pages have come.
type sequence struct {
	*merge
	numbers []uint32 // collected pages that are not out yet
	yield   func(Page, error) bool
	lock    uint32
	seen    uint32 // the last page of base
	out     uint32 // the last page that was put, or passed over
	zeros   int
	data    []byte
}

// until puts what comes before page end.
func (s *sequence) until(end uint32) error {
	for len(s.numbers) > 0 && s.numbers[0] < end {
		page := s.numbers[0]
		s.numbers = s.numbers[1:]
		if err := s.fill(page); err != nil {
			return err
		}
		place := s.newest[page]
		frame := make([]byte, place.Length)
		if _, err := s.scratch.ReadAt(frame, place.Offset); err != nil {
			return fmt.Errorf("read scratch file: %w", err)
		}
		data, err := DecodeFrame(frame, page, s.last.PageSize, place)
		if err != nil {
			return err
		}
		if err := s.put(Page{page, data}); err != nil {
			return err
		}
	}
	return s.fill(end)
}

// fill puts zero for pages before end that an older file must not provide.
func (s *sequence) fill(end uint32) error {
	for page := max(s.out, s.low) + 1; page < end; page++ {
		if page == s.lock {
			continue
		}
		if s.zeros++; s.zeros > maxUnwritten {
			return neverWritten(s.last)
		}
		if s.data == nil {
			s.data = make([]byte, s.last.PageSize)
		}
		if err := s.put(Page{page, s.data}); err != nil {
			return err
		}
	}
	return nil
}

func (s *sequence) put(p Page) error {
	if !s.yield(p, nil) {
		return errStopped
	}
	s.out = p.Number
	return nil
}

// putMerged puts an output, unless it is there already. One that is there and
// sound is what counts: an index may name places in it.
func (l *Log) putMerged(ctx context.Context, ref FileRef, stamp string, file *os.File, places map[uint32]Place) (map[uint32]Place, error) {
	key := l.fileKey(ref)
	opts := bucket.PutOptions{IfNoneMatch: true, Meta: map[string]string{timestampKey: stamp}}
	for {
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return nil, fmt.Errorf("rewind merged file: %w", err)
		}
		_, err := l.bucket.Put(ctx, key, file, opts)
		if err == nil {
			return places, nil
		}
		if !errors.Is(errors.Condition, err) || !opts.IfNoneMatch {
			return nil, err
		}
		_, theirs, err := l.decode(ctx, ref)
		switch {
		case err == nil && samePages(theirs, places):
			return theirs, nil
		case err == nil:
			return nil, errors.E("compact", key, errors.Corrupt, fmt.Errorf("another file of this name has other pages"))
		case !errors.Is(errors.Corrupt, err):
			return nil, err
		}
		opts.IfNoneMatch = false // it is damaged: write it again
	}
}

// samePages reports whether two files hold the same pages.
func samePages(a, b map[uint32]Place) bool {
	return maps.EqualFunc(a, b, func(a, b Place) bool { return a.Hash == b.Hash })
}
