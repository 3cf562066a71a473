package history

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc64"
	"io"
	"time"

	"github.com/pierrec/lz4/v4"
	"github.com/superfly/ltx"

	"atc/fs/errors"
)

// This file reads LTX files as Litestream has written them since 0.5.16: each page
// is an LZ4 block with its length in front, where it was an LZ4 frame before.
// Litestream before 0.5.16 refuses such a file, and a bucket is to be readable by
// every 0.5, so what is adopted is written anew with frames.

// BlocksPrefix is how many bytes of a file tell how its pages are packed.
const BlocksPrefix = ltx.HeaderSize + ltx.PageHeaderSize

// flagSize is the page header's flag of a page that is packed as a block
// (superfly/ltx 0.5.2, PageHeaderFlagSize).
const flagSize = 1

// HasBlocks reports whether the file that begins with the given bytes has pages
// packed as blocks. Fewer bytes than BlocksPrefix are no such file.
func HasBlocks(begin []byte) bool {
	if len(begin) < BlocksPrefix {
		return false
	}
	var h ltx.PageHeader
	return h.UnmarshalBinary(begin[ltx.HeaderSize:]) == nil && h.Pgno != 0 && h.Flags == flagSize
}

// Reframe writes a file whose pages are packed as blocks with pages packed as
// frames, and checks it on the way: what is damaged is an error of kind Corrupt,
// and what was written until then is of no use.
func Reframe(w io.Writer, r io.Reader) (Commit, error) {
	b := &blockReader{r: bufio.NewReader(r), hash: crc64.New(crc64.MakeTable(crc64.ISO))}
	if err := b.readHeader(); err != nil {
		return Commit{}, corruptBlocks("header", err)
	}
	h := b.header
	c := Commit{
		PageSize: int(h.PageSize), Pages: h.Commit,
		First: h.MinTXID, TXID: h.MaxTXID, Time: time.UnixMilli(h.Timestamp), Epoch: h.NodeID,
	}
	_, err := Encode(w, c, b.pages)
	return c, err
}

func corruptBlocks(what string, err error) error {
	return errors.E("decode LTX", what, errors.Corrupt, err)
}

// blockReader reads one file; hash is what its trailer has the value of: header,
// page headers, lengths, unpacked pages, index and the trailer's beginning.
type blockReader struct {
	r      *bufio.Reader
	hash   hash.Hash64
	header ltx.Header
}

// read reads n bytes that are hashed.
func (b *blockReader) read(n int) ([]byte, error) {
	p := make([]byte, n)
	if _, err := io.ReadFull(b.r, p); err != nil {
		return nil, err
	}
	b.hash.Write(p)
	return p, nil
}

func (b *blockReader) readHeader() error {
	p, err := b.read(ltx.HeaderSize)
	if err == nil {
		err = b.header.UnmarshalBinary(p)
	}
	if err == nil {
		err = b.header.Validate()
	}
	return err
}

// pages yields the file's pages, and fails at its end where the checksum is not
// that of what was read.
func (b *blockReader) pages(yield func(Page, error) bool) {
	data := make([]byte, b.header.PageSize)
	for {
		number, err := b.readPage(data)
		if err != nil {
			yield(Page{}, corruptBlocks("page", err))
			return
		}
		if number == 0 {
			break
		}
		if !yield(Page{number, data}, nil) {
			return
		}
	}
	if err := b.readEnd(); err != nil {
		yield(Page{}, corruptBlocks("trailer", err))
	}
}

// readPage reads the next page into data; 0 is behind the last.
func (b *blockReader) readPage(data []byte) (uint32, error) {
	p, err := b.read(ltx.PageHeaderSize)
	if err != nil {
		return 0, err
	}
	var h ltx.PageHeader
	if err := h.UnmarshalBinary(p); err != nil || h.IsZero() {
		return 0, err
	}
	if h.Pgno > b.header.Commit || h.Flags != flagSize {
		return 0, fmt.Errorf("number %d of %d with flags %#x", h.Pgno, b.header.Commit, h.Flags)
	}
	if p, err = b.read(4); err != nil {
		return 0, err
	}
	length := int(binary.BigEndian.Uint32(p))
	if most := lz4.CompressBlockBound(len(data)); length > most {
		return 0, fmt.Errorf("%d is packed into %d bytes, which are at most %d", h.Pgno, length, most)
	}
	packed := make([]byte, length)
	if _, err := io.ReadFull(b.r, packed); err != nil {
		return 0, err
	}
	if n, err := lz4.UncompressBlock(packed, data); err != nil || n != len(data) {
		return 0, fmt.Errorf("%d is unpacked to %d bytes: %w", h.Pgno, n, err)
	}
	b.hash.Write(data)
	return h.Pgno, nil
}

// readEnd reads index and trailer. The index says what the pages have said.
func (b *blockReader) readEnd() error {
	const entry = 3 * binary.MaxVarintLen64 // number, offset and length of a page
	most := int64(b.header.Commit)*entry + 2*ltx.TrailerSize + entry
	rest, err := io.ReadAll(io.LimitReader(b.r, most+1))
	if err != nil {
		return err
	}
	if len(rest) < ltx.TrailerSize || int64(len(rest)) > most {
		return io.ErrUnexpectedEOF
	}
	b.hash.Write(rest[:len(rest)-ltx.ChecksumSize])
	var t ltx.Trailer
	if err := t.UnmarshalBinary(rest[len(rest)-ltx.TrailerSize:]); err != nil {
		return err
	}
	if sum := ltx.ChecksumFlag | ltx.Checksum(b.hash.Sum64()); sum != t.FileChecksum {
		return ltx.ErrChecksumMismatch
	}
	return nil
}
