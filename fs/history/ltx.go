package history

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/pierrec/lz4/v4"
	"github.com/superfly/ltx"

	"atc/fs/errors"
	"atc/fs/journal"
)

// This file writes and reads LTX, the file format of one shipped transaction.
// The encoding is superfly/ltx's; what is added here is the place and the hash
// of every page, which LTX does not carry, and distrust of what is read.

// TXID numbers the shipped transactions of one database, contiguous from 1.
type TXID = ltx.TXID

// Commit describes one LTX file.
type Commit struct {
	PageSize int
	Pages    uint32 // size of the database after it, in pages
	First    TXID   // the first transaction in it; 0 for TXID itself
	TXID     TXID   // the last
	Time     time.Time
	Epoch    uint64 // of the writer's ownership; stored as LTX's node ID
}

// Page is one page of a commit. Data is only valid during the iteration step.
type Page struct {
	Number uint32
	Data   []byte
}

// Place is where a page's bytes lie inside one LTX file.
type Place struct {
	Offset int64  // of the page's frame
	Length uint32 // of the frame: page header and compressed page
	Hash   uint64 // xxhash64 of the page, uncompressed
	// Interior says that the page looks like an interior page of a b-tree. It is
	// known to who encoded or decoded the page, not to an index.
	Interior bool
}

// placeOf is the place of a page whose frame lies at [begin, end).
func placeOf(p Page, begin, end int64) Place {
	return Place{
		Offset: begin, Length: uint32(end - begin), Hash: xxhash.Sum64(p.Data),
		Interior: journal.Interior(p.Number, p.Data),
	}
}

// Encode writes a commit as an LTX file. Pages come in ascending order; at TXID
// 1 they are all pages of the database but the lock page. It returns the place
// of each.
func Encode(w io.Writer, c Commit, pages iter.Seq2[Page, error]) (map[uint32]Place, error) {
	out := bufio.NewWriterSize(w, 64<<10)
	enc, err := ltx.NewEncoder(out)
	if err != nil {
		return nil, fmt.Errorf("encode LTX: %w", err)
	}
	// NoChecksum, because a rolling checksum of the whole database would cost a
	// read of every page's old content; Litestream 0.5 writes none either.
	first := c.First
	if first == 0 {
		first = c.TXID
	}
	err = enc.EncodeHeader(ltx.Header{
		Version: ltx.Version, Flags: ltx.HeaderFlagNoChecksum,
		PageSize: uint32(c.PageSize), Commit: c.Pages,
		MinTXID: first, MaxTXID: c.TXID,
		Timestamp: c.Time.UnixMilli(), NodeID: c.Epoch,
	})
	if err != nil {
		return nil, fmt.Errorf("encode LTX header of %s: %w", c.TXID, err)
	}
	places := make(map[uint32]Place)
	for p, err := range pages {
		if err != nil {
			return nil, err
		}
		begin := enc.N()
		if err := enc.EncodePage(ltx.PageHeader{Pgno: p.Number}, p.Data); err != nil {
			return nil, fmt.Errorf("encode page %d of %s: %w", p.Number, c.TXID, err)
		}
		places[p.Number] = placeOf(p, begin, enc.N())
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("end LTX file %s: %w", c.TXID, err)
	}
	return places, out.Flush()
}

// Decode reads a whole LTX file of the given size, checks its checksum, and
// calls fn with each page and its place. A file that is damaged in any way is
// an error of kind Corrupt; fn may have been called before that shows.
func Decode(r io.Reader, size int64, fn func(Page, Place) error) (Commit, error) {
	corrupt := func(what string, err error) error {
		return errors.E("decode LTX", what, errors.Corrupt, err)
	}
	raw := &countingReader{r: io.LimitReader(r, size)}
	dec := ltx.NewDecoder(raw)
	if err := dec.DecodeHeader(); err != nil {
		return Commit{}, corrupt("header", err)
	}
	h := dec.Header()
	c := Commit{
		PageSize: int(h.PageSize), Pages: h.Commit,
		First: h.MinTXID, TXID: h.MaxTXID, Time: time.UnixMilli(h.Timestamp), Epoch: h.NodeID,
	}
	data := make([]byte, h.PageSize)
	for {
		begin := raw.n
		var ph ltx.PageHeader
		if err := dec.DecodePage(&ph, data); err == io.EOF {
			if raw.n-begin != ltx.PageHeaderSize {
				return c, corrupt("page", io.ErrUnexpectedEOF)
			}
			break
		} else if err != nil {
			return c, corrupt("page", err)
		}
		if ph.Pgno > h.Commit {
			return c, corrupt(fmt.Sprintf("page %d", ph.Pgno), fmt.Errorf("the database has %d pages", h.Commit))
		}
		p := Page{ph.Pgno, data}
		if err := fn(p, placeOf(p, begin, raw.n)); err != nil {
			return c, err
		}
	}
	// The decoder slices what remains without looking at its length and panics
	// on a file that is cut inside its trailer.
	rest, err := io.ReadAll(raw)
	if err != nil {
		return c, err
	}
	if len(rest) < ltx.TrailerSize {
		return c, corrupt("trailer", io.ErrUnexpectedEOF)
	}
	raw.r = bytes.NewReader(rest)
	if err := dec.Close(); err != nil {
		return c, corrupt("trailer", err)
	}
	return c, nil
}

// DecodeFrame takes one page out of the bytes that its place names. What does
// not have the place's hash is an error of kind Corrupt.
func DecodeFrame(frame []byte, page uint32, pageSize int, place Place) ([]byte, error) {
	return AppendFrame(make([]byte, 0, pageSize), frame, page, pageSize, place)
}

// AppendFrame is DecodeFrame for many pages: it appends the page to dst. With an
// error dst is as it was.
func AppendFrame(dst, frame []byte, page uint32, pageSize int, place Place) ([]byte, error) {
	corrupt := func(err error) ([]byte, error) {
		return dst, errors.E("decode page", fmt.Sprint(page), errors.Corrupt, err)
	}
	var h ltx.PageHeader
	if len(frame) < ltx.PageHeaderSize {
		return corrupt(io.ErrUnexpectedEOF)
	}
	if err := h.UnmarshalBinary(frame); err != nil {
		return corrupt(err)
	}
	if h.Pgno != page {
		return corrupt(fmt.Errorf("found page %d there", h.Pgno))
	}
	long := slices.Grow(dst, pageSize)[:len(dst)+pageSize]
	data := long[len(dst):]
	if packed := frame[ltx.PageHeaderSize:]; !unpackBlock(data, packed) {
		if _, err := io.ReadFull(lz4.NewReader(bytes.NewReader(packed)), data); err != nil {
			return corrupt(err)
		}
	}
	if sum := xxhash.Sum64(data); sum != place.Hash {
		return corrupt(fmt.Errorf("xxhash64 is %016x, want %016x", sum, place.Hash))
	}
	return long, nil
}

// unpackBlock unpacks an LZ4 frame of one block, as a page is packed, without the
// buffers that a reader of any frame has: that is most of what a page costs. It
// checks no checksum, since the page has a better one, and reports false for any
// other frame (LZ4 frame format 1.6: magic, FLG, BD, HC, blocks).
func unpackBlock(page, b []byte) bool {
	const (
		magic       = 0x184D2204
		header      = 7
		versionMask = 0xc0
		version     = 0x40
		sizeOrDict  = 0x08 | 0x01 // a content size or a dictionary follow
		stored      = 1 << 31     // the block is not compressed
	)
	if len(b) < header+4 || binary.LittleEndian.Uint32(b) != magic || b[4]&versionMask != version || b[4]&sizeOrDict != 0 {
		return false
	}
	size := binary.LittleEndian.Uint32(b[header:])
	block := b[header+4:]
	if n := size &^ stored; uint64(n) > uint64(len(block)) {
		return false
	} else {
		block = block[:n]
	}
	if size&stored != 0 {
		return len(block) == len(page) && copy(page, block) == len(page)
	}
	n, err := lz4.UncompressBlock(block, page)
	return err == nil && n == len(page)
}

// countingReader knows how many bytes of a file were consumed, which the
// decoder itself only counts uncompressed.
type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
