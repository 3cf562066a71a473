package journal

import (
	"encoding/binary"
	"io"
)

// Sizes of the WAL's structures in bytes (file format, sections 4.1 and 4.2).
const (
	WALHeaderSize   = 32
	FrameHeaderSize = 24
)

const (
	walMagicLE = 0x377f0682 // checksums over little-endian words
	walMagicBE = 0x377f0683
	walVersion = 3007000
)

// Checksum is the running checksum of a WAL: two words (section 4.3).
type Checksum [2]uint32

// sum continues c over b, whose length is a multiple of 8.
func (c Checksum) sum(order binary.ByteOrder, b []byte) Checksum {
	s0, s1 := c[0], c[1]
	if order == binary.ByteOrder(binary.LittleEndian) {
		// What every WAL written on a little-endian machine uses; the concrete
		// type lets the compiler load whole words.
		for ; len(b) >= 8; b = b[8:] {
			s0 += binary.LittleEndian.Uint32(b) + s1
			s1 += binary.LittleEndian.Uint32(b[4:]) + s0
		}
		return Checksum{s0, s1}
	}
	for ; len(b) >= 8; b = b[8:] {
		s0 += order.Uint32(b) + s1
		s1 += order.Uint32(b[4:]) + s0
	}
	return Checksum{s0, s1}
}

// WALHeader begins a WAL file. Its salts change each time the log restarts.
type WALHeader struct {
	PageSize int
	Sequence uint32 // 0 in a log that never restarted
	Salt     [2]uint32
	Sum      Checksum // where the chain of frame checksums begins
	order    binary.ByteOrder
}

// ParseWALHeader reads the first 32 bytes of a WAL. It reports false where they
// are no WAL header, as in a log that was never written or is being restarted.
func ParseWALHeader(b []byte) (WALHeader, bool) {
	if len(b) < WALHeaderSize {
		return WALHeader{}, false
	}
	h := WALHeader{
		PageSize: int(binary.BigEndian.Uint32(b[8:])),
		Sequence: binary.BigEndian.Uint32(b[12:]),
		Salt:     [2]uint32{binary.BigEndian.Uint32(b[16:]), binary.BigEndian.Uint32(b[20:])},
		Sum:      Checksum{binary.BigEndian.Uint32(b[24:]), binary.BigEndian.Uint32(b[28:])},
	}
	switch binary.BigEndian.Uint32(b) {
	case walMagicLE:
		h.order = binary.LittleEndian
	case walMagicBE:
		h.order = binary.BigEndian
	default:
		return WALHeader{}, false
	}
	if binary.BigEndian.Uint32(b[4:]) != walVersion || !ValidPageSize(h.PageSize) {
		return WALHeader{}, false
	}
	return h, Checksum{}.sum(h.order, b[:24]) == h.Sum
}

// FrameOffset is where frame n (from 1) begins in the file.
func (h WALHeader) FrameOffset(n uint32) int64 {
	return WALHeaderSize + int64(n-1)*int64(FrameHeaderSize+h.PageSize)
}

// Frame is one page in a WAL.
type Frame struct {
	Number uint32 // of the frame, from 1
	Page   uint32 // page number
	Commit uint32 // size of the database in pages after the transaction that this frame ends; else 0
	Data   []byte // the page; valid until the next call of Next
	Sum    Checksum
}

// WALReader walks through the valid frames of a log: those that carry the
// header's salts and continue its checksum chain (section 4.2). It may read a
// log that is being appended to, since a frame that is not whole fails its
// checksum.
type WALReader struct {
	r     io.ReaderAt
	h     WALHeader
	frame Frame
	buf   []byte // frames read ahead
	have  []byte // the part of buf not yet returned
	next  int64  // offset of what follows buf
}

const (
	// readAhead is how many bytes of a log are read at once.
	readAhead = 256 << 10
	// fewFrames is how many frames are read first, then twice as many each time:
	// behind the last commit that was seen there are mostly few.
	fewFrames = 4
)

// NewWALReader starts behind frame after, whose checksum is sum: 0 and h.Sum for
// the log's beginning.
func NewWALReader(r io.ReaderAt, h WALHeader, after uint32, sum Checksum) *WALReader {
	return &WALReader{
		r: r, h: h,
		frame: Frame{Number: after, Sum: sum},
		next:  h.FrameOffset(after + 1),
	}
}

// Next returns the next valid frame. It reports false at the log's valid end; an
// error is one of reading.
func (w *WALReader) Next() (Frame, bool, error) {
	size := FrameHeaderSize + w.h.PageSize
	if len(w.have) < size {
		if err := w.fill(size); err != nil {
			return Frame{}, false, err
		}
		if len(w.have) < size {
			return Frame{}, false, nil
		}
	}
	b := w.have[:size]
	if [2]uint32{binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])} != w.h.Salt {
		return Frame{}, false, nil
	}
	sum := w.frame.Sum.sum(w.h.order, b[:8]).sum(w.h.order, b[FrameHeaderSize:])
	if sum != frameSum(b) {
		return Frame{}, false, nil
	}
	page := binary.BigEndian.Uint32(b)
	if page == 0 {
		return Frame{}, false, nil
	}
	w.frame = Frame{
		Number: w.frame.Number + 1,
		Page:   page,
		Commit: binary.BigEndian.Uint32(b[4:]),
		Data:   b[FrameHeaderSize:],
		Sum:    sum,
	}
	w.have = w.have[size:]
	return w.frame, true, nil
}

// fill reads ahead so that at least one frame of size bytes is there, if the
// file has it.
func (w *WALReader) fill(size int) error {
	buf := w.buf
	if n := min(max(2*len(buf)/size, fewFrames), max(readAhead/size, 1)); n*size > len(buf) {
		buf = make([]byte, n*size)
	}
	kept := copy(buf, w.have)
	w.buf = buf
	n, err := w.r.ReadAt(w.buf[kept:], w.next)
	w.have, w.next = w.buf[:kept+n], w.next+int64(n)
	if err == io.EOF {
		return nil
	}
	return err
}

// ReadFrameHeader reads what frame n says of itself, without its page and without
// checking the chain: for frames that the log's index has published, which their
// writer did after they were whole. It reports false where the file has no such
// frame of this generation.
func ReadFrameHeader(r io.ReaderAt, h WALHeader, n uint32) (Frame, bool, error) {
	var b [FrameHeaderSize]byte
	if _, err := r.ReadAt(b[:], h.FrameOffset(n)); err == io.EOF {
		return Frame{}, false, nil
	} else if err != nil {
		return Frame{}, false, err
	}
	f, ok := ParseFrame(b[:], h, n)
	return f, ok, nil
}

// ParseFrame is ReadFrameHeader of bytes that begin with frame n; what follows the
// header is the frame's Data.
func ParseFrame(b []byte, h WALHeader, n uint32) (Frame, bool) {
	if len(b) < FrameHeaderSize {
		return Frame{}, false
	}
	f := Frame{
		Number: n, Page: binary.BigEndian.Uint32(b), Commit: binary.BigEndian.Uint32(b[4:]), Sum: frameSum(b),
		Data: b[FrameHeaderSize:],
	}
	same := [2]uint32{binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])} == h.Salt
	return f, same && f.Page != 0
}

func frameSum(b []byte) Checksum {
	return Checksum{binary.BigEndian.Uint32(b[16:]), binary.BigEndian.Uint32(b[20:])}
}
