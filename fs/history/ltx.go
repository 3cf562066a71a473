package history

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/pierrec/lz4/v4"
	"github.com/superfly/ltx"

	"atc/fs/errors"
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
		places[p.Number] = Place{Offset: begin, Length: uint32(enc.N() - begin), Hash: xxhash.Sum64(p.Data)}
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
		place := Place{Offset: begin, Length: uint32(raw.n - begin), Hash: xxhash.Sum64(data)}
		if err := fn(Page{ph.Pgno, data}, place); err != nil {
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
	corrupt := func(err error) error {
		return errors.E("decode page", fmt.Sprint(page), errors.Corrupt, err)
	}
	var h ltx.PageHeader
	if len(frame) < ltx.PageHeaderSize {
		return nil, corrupt(io.ErrUnexpectedEOF)
	}
	if err := h.UnmarshalBinary(frame); err != nil {
		return nil, corrupt(err)
	}
	if h.Pgno != page {
		return nil, corrupt(fmt.Errorf("found page %d there", h.Pgno))
	}
	data := make([]byte, pageSize)
	zr := lz4.NewReader(bytes.NewReader(frame[ltx.PageHeaderSize:]))
	if _, err := io.ReadFull(zr, data); err != nil {
		return nil, corrupt(err)
	}
	if sum := xxhash.Sum64(data); sum != place.Hash {
		return nil, corrupt(fmt.Errorf("xxhash64 is %016x, want %016x", sum, place.Hash))
	}
	return data, nil
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
