package history

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"atc/fs/errors"
	"atc/fs/journal"
)

// This file reads a head. What it reads may be anything: every count is bounded
// by the bytes that are there, and every place by what a place can be.

// decodeHead takes an index out of a head. A hot pack that is damaged is left
// out, since nothing needs it.
func (l *Log) decodeHead(key string, b []byte) (*Index, error) {
	corrupt := func(err error) (*Index, error) {
		return nil, errors.E("read head", key, errors.Corrupt, err)
	}
	if len(b) < headHeaderSize || string(b[:8]) != headMagic {
		return corrupt(fmt.Errorf("no head"))
	}
	tables, pack := binary.LittleEndian.Uint32(b[56:]), binary.LittleEndian.Uint32(b[60:])
	if int64(len(b)) != headHeaderSize+int64(tables)+int64(pack) {
		return corrupt(io.ErrUnexpectedEOF)
	}
	body := b[headHeaderSize:][:tables]
	if headSum(b, body) != binary.LittleEndian.Uint64(b[72:]) {
		return corrupt(fmt.Errorf("checksum"))
	}
	x := NewIndex()
	x.pageSize = int(binary.LittleEndian.Uint32(b[8:]))
	x.pages = binary.LittleEndian.Uint32(b[12:])
	x.txid = TXID(binary.LittleEndian.Uint64(b[16:]))
	if at := int64(binary.LittleEndian.Uint64(b[24:])); at != 0 {
		x.time = time.Unix(0, at)
	}
	x.epoch = binary.LittleEndian.Uint64(b[64:])
	if !journal.ValidPageSize(x.pageSize) {
		return corrupt(fmt.Errorf("pages of %d bytes", x.pageSize))
	}
	if at := TXID(binary.LittleEndian.Uint64(b[32:])); at != 0 {
		o := newIndexObject(l.bucket, l.indexKey(at))
		o.txid = at
		o.pages = binary.LittleEndian.Uint32(b[40:])
		o.salt = binary.LittleEndian.Uint32(b[48:])
		o.files = int(binary.LittleEndian.Uint32(b[52:]))
		x.base, x.baseLimit = o, binary.LittleEndian.Uint32(b[44:])
		if x.baseLimit > o.pages || x.baseLimit > x.pages || at > x.txid {
			return corrupt(fmt.Errorf("its base at %s has %d pages, of which %d count", at, o.pages, x.baseLimit))
		}
	}
	r := &tableReader{b: body}
	r.files(x)
	r.overlay(x)
	r.groups(x)
	r.interior(x)
	if r.err == nil && len(r.b) > 0 {
		r.fail("%d bytes too many", len(r.b))
	}
	if r.err != nil {
		return corrupt(r.err)
	}
	x.saved = savedHead{txid: x.txid, size: int64(len(b))}
	x.hot.read(x.txid, x.pageSize, x.pages, b[headHeaderSize+int64(tables):])
	x.log = l
	return x, nil
}

// tableReader reads varints until the first that is wrong; after it everything
// is 0.
type tableReader struct {
	b   []byte
	err error
}

func (r *tableReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
		r.b = nil
	}
}

func (r *tableReader) u() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail("a number is cut")
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *tableReader) s() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail("a number is cut")
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *tableReader) hash() uint64 {
	if len(r.b) < 8 {
		r.fail("a hash is cut")
		return 0
	}
	v := binary.LittleEndian.Uint64(r.b)
	r.b = r.b[8:]
	return v
}

// count reads how many entries follow, each of which takes so many bytes at
// least.
func (r *tableReader) count(least int) int {
	n := r.u()
	if n > uint64(len(r.b)/least) {
		r.fail("%d entries in %d bytes", n, len(r.b))
		return 0
	}
	return int(n)
}

// page reads a page that follows another in a list of ascending ones.
func (r *tableReader) page(before, pages uint32) uint32 {
	step := r.u()
	if step == 0 || step > uint64(pages-min(before, pages)) {
		r.fail("%d pages after %d of %d", step, before, pages)
		return 0
	}
	return before + uint32(step)
}

func (r *tableReader) files(x *Index) {
	const levels = 9
	n := r.count(3)
	x.files = make([]FileRef, 0, n)
	var last TXID
	for range n {
		level := r.u()
		first := last + TXID(r.s())
		length := r.u()
		last = first + TXID(length)
		if r.err == nil && (level > levels || first == 0 || last < first || last > x.txid) {
			r.fail("a file %s-%s of level %d", first, last, level)
		}
		x.files = append(x.files, FileRef{int(level), first, last})
	}
	if x.base != nil && x.base.files > len(x.files) {
		r.fail("%d files, but %d of the base", len(x.files), x.base.files)
	}
}

func (r *tableReader) overlay(x *Index) {
	n := r.count(12)
	ends := make([]int64, len(x.files))
	before := uint32(0)
	for range n {
		page := r.page(before, x.pages)
		file, length := r.u(), r.u()
		if r.err != nil || file >= uint64(len(ends)) {
			r.fail("page %d is in file %d of %d", page, file, len(ends))
			return
		}
		at := Place{Offset: ends[file] + r.s(), Length: uint32(length), Hash: r.hash()}
		if length == 0 || uint64(at.Length) != length || !at.sound(x.pageSize) {
			r.fail("page %d is at %+v", page, at)
			return
		}
		x.overlay[page] = slot{uint32(file), at}
		before, ends[file] = page, at.Offset+int64(at.Length)
	}
}

func (r *tableReader) groups(x *Index) {
	n := r.count(1)
	if n == 0 || r.err != nil {
		return
	}
	per := GroupPages(x.pageSize)
	if x.base == nil || n != int((uint64(x.base.pages)+uint64(per)-1)/uint64(per)) {
		r.fail("%d groups", n)
		return
	}
	most := uint64(per)*2*(2*uint64(x.pageSize)+1024) + groupSlack
	groups := make([]group, n)
	var last group
	for i := range groups {
		length := r.u()
		if length == 0 {
			continue
		}
		file, offset := int64(last.file)+r.s(), last.offset+int64(last.length)+r.s()
		if length > most || file < 0 || file >= int64(x.base.files) || !(Place{Offset: offset}).sound(x.pageSize) {
			r.fail("group %d of %d bytes at %d in file %d", i, length, offset, file)
			return
		}
		last = group{uint32(file), offset, uint32(length)}
		groups[i] = last
	}
	x.base.groups = groups
}

func (r *tableReader) interior(x *Index) {
	n := r.count(1)
	before := uint32(0)
	for range min(n, maxInterior) {
		if before = r.page(before, x.pages); r.err != nil {
			return
		}
		x.interior[before] = struct{}{}
	}
}
