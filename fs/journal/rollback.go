package journal

import (
	"bytes"
	"encoding/binary"
	"io"
)

// rollbackMagic begins the header of a rollback journal that is in force (file
// format, section 3). A commit in PERSIST mode overwrites it with zeros.
const rollbackMagic = "\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"

// RollbackHeaderSize is how many bytes of a "-journal" [RollbackActive] wants.
const RollbackHeaderSize = len(rollbackMagic)

// RollbackActive reports whether a journal that begins with b is in force, so
// that what the database holds now is not, or not yet, committed.
func RollbackActive(b []byte) bool {
	return len(b) >= RollbackHeaderSize && string(b[:RollbackHeaderSize]) == rollbackMagic
}

// RollbackEnded reports whether a journal that begins with b, as much as there is
// of RollbackHeaderLength, is of no transaction any more: it is empty, or begins
// with the zeros by which a commit in PERSIST mode ends it (pager.c,
// zeroJournalHdr). One of a transaction that has begun is neither active nor ended
// before its first sync: its magic is still to come, and what follows it is there.
func RollbackEnded(b []byte) bool {
	return len(bytes.Trim(b[:min(len(b), RollbackHeaderLength)], "\x00")) == 0
}

// RollbackHeaderLength is how many bytes of a "-journal" [RollbackEnded] wants: its
// header without what pads it to a sector.
const RollbackHeaderLength = 28

const (
	maxSector = 65536
	// unknownRecords stands for as many records as the file holds
	// (synchronous=OFF).
	unknownRecords = 0xffffffff
)

// Original is a page as it was before the transaction that a journal would roll
// back.
type Original struct {
	Page   uint32
	Offset int64 // of its bytes in the journal
}

// ReadRollback reads what a hot journal restores: the originals, and the size of
// the database in pages before the transaction (file format, section 3; playback
// as pager.c does it, which stops at the first record whose checksum is wrong).
// It reports false where nothing is in force, and where the journal belongs to a
// transaction over several databases, whose outcome its super-journal decides.
func ReadRollback(r io.ReaderAt, length int64, pageSize int) (originals []Original, pages uint32, ok bool, err error) {
	var tail [16]byte
	if length >= int64(len(tail)) {
		if _, err := r.ReadAt(tail[:], length-int64(len(tail))); err != nil && err != io.EOF {
			return nil, 0, false, err
		}
		if string(tail[8:]) == rollbackMagic {
			return nil, 0, false, nil // the name of a super-journal stands before it
		}
	}
	record := make([]byte, 4+pageSize+4)
	for at, first := int64(0), true; ; first = false {
		var h [RollbackHeaderLength]byte
		if n, err := r.ReadAt(h[:], at); err != nil && err != io.EOF {
			return nil, 0, false, err
		} else if n < len(h) || !RollbackActive(h[:]) {
			return originals, pages, !first, nil
		}
		count, nonce := binary.BigEndian.Uint32(h[8:]), binary.BigEndian.Uint32(h[12:])
		sector := int64(binary.BigEndian.Uint32(h[20:]))
		if first {
			pages = binary.BigEndian.Uint32(h[16:])
		}
		if sector < 32 || sector > maxSector || sector&(sector-1) != 0 || int(binary.BigEndian.Uint32(h[24:])) != pageSize {
			return originals, pages, !first, nil
		}
		at += sector
		if count == unknownRecords {
			count = uint32(min((length-at)/int64(len(record)), 1<<31))
		}
		for range count {
			if n, err := r.ReadAt(record, at); err != nil && err != io.EOF {
				return nil, 0, false, err
			} else if n < len(record) {
				return originals, pages, true, nil
			}
			page, data := binary.BigEndian.Uint32(record), record[4:4+pageSize]
			if page == 0 || rollbackSum(nonce, data) != binary.BigEndian.Uint32(record[4+pageSize:]) {
				return originals, pages, true, nil
			}
			if page <= pages {
				originals = append(originals, Original{page, at + 4})
			}
			at += int64(len(record))
		}
		at = (at + sector - 1) / sector * sector
	}
}

// maxSuperName bounds the name of a super-journal, which is a path.
const maxSuperName = 4096

// SuperJournal is the name of the super-journal that stands at the end of a
// journal which is length bytes long: the transaction goes over several
// databases, and is committed when that file is removed. It reports false where
// there is none (pager.c, writeSuperJournal: the name, its length, a checksum,
// and the magic once more).
func SuperJournal(r io.ReaderAt, length int64) (string, bool) {
	var tail [16]byte
	at := length - int64(len(tail))
	if at < 0 {
		return "", false
	}
	if n, _ := r.ReadAt(tail[:], at); n < len(tail) || string(tail[8:]) != rollbackMagic {
		return "", false
	}
	size := int64(binary.BigEndian.Uint32(tail[:]))
	if size == 0 || size > maxSuperName || size > at {
		return "", false
	}
	name := make([]byte, size)
	n, _ := r.ReadAt(name, at-size)
	return string(name), n == len(name)
}

// rollbackSum is the checksum of a record: the nonce and every 200th byte, from
// the end (pager.c, pager_cksum).
func rollbackSum(nonce uint32, data []byte) uint32 {
	for i := len(data) - 200; i > 0; i -= 200 {
		nonce += uint32(data[i])
	}
	return nonce
}
