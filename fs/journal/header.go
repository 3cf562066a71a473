// Package journal reads SQLite's file formats: the database header, the
// write-ahead log, its index in shared memory, and the rollback journal.
//
// It reads bytes and knows nothing else: no paths beyond the naming of
// sidecars, no locks, no storage. All multi-byte integers in these files are
// big-endian, save for the WAL index, which is in the byte order of the machine.
// Sources: https://www.sqlite.org/fileformat2.html, walformat.html, and wal.c.
//
// Limitations: of a super-journal the name is read and nothing else.
package journal

import (
	"encoding/binary"
	"strings"
)

// Magic is how every database file begins (file format, section 1.3).
const Magic = "SQLite format 3\x00"

// HeaderSize is the length of the database header in bytes (section 1.3).
const HeaderSize = 100

// Header is what atc needs of a database header.
type Header struct {
	PageSize      int    // bytes, a power of two from 512 to 65536 (offset 16)
	WAL           bool   // read and write version 2 (offsets 18 and 19)
	ChangeCounter uint32 // (offset 24)
	Pages         uint32 // size in pages, if ValidFor equals ChangeCounter (offset 28)
	ValidFor      uint32 // the change counter that Pages belongs to (offset 92)
}

// ParseHeader reads a database header. It reports false for anything that does
// not begin a SQLite database.
func ParseHeader(b []byte) (Header, bool) {
	if len(b) < HeaderSize || string(b[:len(Magic)]) != Magic {
		return Header{}, false
	}
	h := Header{
		PageSize:      int(binary.BigEndian.Uint16(b[16:])),
		WAL:           b[18] == 2 && b[19] == 2,
		ChangeCounter: binary.BigEndian.Uint32(b[24:]),
		Pages:         binary.BigEndian.Uint32(b[28:]),
		ValidFor:      binary.BigEndian.Uint32(b[92:]),
	}
	if h.PageSize == 1 { // 65536 does not fit into two bytes
		h.PageSize = 65536
	}
	return h, ValidPageSize(h.PageSize)
}

// ValidPageSize reports whether SQLite has pages of n bytes.
func ValidPageSize(n int) bool {
	return n >= 512 && n <= 65536 && n&(n-1) == 0
}

// LockPage is the page that holds the lock bytes at 1 GiB and never any data
// (section 1.4); no backup and no LTX file contains it.
func LockPage(pageSize int) uint32 { return uint32(0x40000000/pageSize) + 1 }

// Sidecar is the role of a file beside a database.
type Sidecar uint8

const (
	None     Sidecar = iota
	WAL              // "-wal", the write-ahead log
	SHM              // "-shm", the WAL's index in shared memory
	Rollback         // "-journal", the rollback journal
)

var suffixes = map[Sidecar]string{WAL: "-wal", SHM: "-shm", Rollback: "-journal"}

// Suffix is what the role appends to the database's name.
func (s Sidecar) Suffix() string { return suffixes[s] }

// superMark stands before the nine digits that end a super-journal's name
// (vdbeaux.c, vdbeCommit).
const superMark = "-mj"

// MayBeSuperJournal reports whether a file is called as SQLite calls
// super-journals.
func MayBeSuperJournal(name string) bool {
	at := len(name) - len(superMark) - 9
	return at > 0 && strings.HasPrefix(name[at:], superMark)
}

// SplitSidecar takes a name apart into that of the database and the role of the
// file beside it; for any other name the role is None.
func SplitSidecar(name string) (string, Sidecar) {
	for role, suffix := range suffixes {
		if base, ok := strings.CutSuffix(name, suffix); ok && base != "" {
			return base, role
		}
	}
	return name, None
}
