package journal

import (
	"bytes"
	"encoding/binary"
	"io"
)

// WALIndexSize is how many bytes at the beginning of a "-shm" file
// [ParseWALIndex] wants: two copies of the index header (wal.c, WalIndexHdr).
const WALIndexSize = 2 * walIndexHdrSize

const (
	walIndexHdrSize = 48
	walIndexVersion = 3007000
)

// WALIndex is the header of a WAL's index in shared memory. It says how far the
// log is committed: a frame behind MaxFrame may be overwritten by the next
// writer even though it carries a commit flag, because its own writer died
// before it published it.
type WALIndex struct {
	MaxFrame uint32    // the last committed frame
	Pages    uint32    // size of the database in pages
	Salt     [2]uint32 // of the log that this index belongs to
}

// ParseWALIndex reads the index header, in the machine's byte order. It reports
// false while a writer is changing it or where there is none.
func ParseWALIndex(b []byte) (WALIndex, bool) {
	if len(b) < WALIndexSize || !bytes.Equal(b[:walIndexHdrSize], b[walIndexHdrSize:WALIndexSize]) {
		return WALIndex{}, false
	}
	order := binary.NativeEndian
	if order.Uint32(b) != walIndexVersion || b[12] == 0 {
		return WALIndex{}, false
	}
	sum := Checksum{}.sum(order, b[:40])
	if sum != (Checksum{order.Uint32(b[40:]), order.Uint32(b[44:])}) {
		return WALIndex{}, false
	}
	return WALIndex{
		MaxFrame: order.Uint32(b[16:]),
		Pages:    order.Uint32(b[20:]),
		// Salts are kept as they stand in the log: big-endian (wal.c).
		Salt: [2]uint32{binary.BigEndian.Uint32(b[32:]), binary.BigEndian.Uint32(b[36:])},
	}, true
}

// Where the index keeps the page number of each frame (wal.c, "WAL-INDEX FORMAT"):
// blocks of 32 KiB begin with an array of them, and the first block with a header
// in place of the array's beginning.
const (
	walIndexBlock      = 32 << 10
	walIndexHeader     = 136
	walIndexPages      = 4096                             // in each block but the first
	walIndexPagesFirst = walIndexPages - walIndexHeader/4 // in the first
)

// ReadWALIndexPages reads which page each of the frames first..last of the log
// holds, out of its index. They are right for published frames of the generation
// that the index belongs to.
func ReadWALIndexPages(r io.ReaderAt, first, last uint32) ([]uint32, error) {
	var pages []uint32 // grows by what is there: the numbers are as hostile as the file
	var b [4 * walIndexPages]byte
	for n := first; n <= last; {
		offset, left := int64(walIndexHeader+4*(n-1)), walIndexPagesFirst-(n-1)
		if n > walIndexPagesFirst {
			k := n - walIndexPagesFirst - 1
			offset = int64(1+k/walIndexPages)*walIndexBlock + int64(4*(k%walIndexPages))
			left = walIndexPages - k%walIndexPages
		}
		count := min(left, last-n+1)
		part := b[:4*count]
		if _, err := r.ReadAt(part, offset); err != nil {
			return nil, err
		}
		for ; len(part) > 0; part = part[4:] {
			pages = append(pages, binary.NativeEndian.Uint32(part))
		}
		n += count
	}
	return pages, nil
}
