package journal

import "encoding/binary"

// This file reads the pages of a b-tree as far as it takes to know which pages
// are above others (file format, section 1.6). A cold reader wants the interior
// pages first, since every search goes through them.

const (
	interiorIndex = 0x02
	interiorTable = 0x05

	// interiorHeader is the length of an interior page's header; the right-most
	// child is its last field.
	interiorHeader = 12
)

// Interior reports whether a page looks like an interior page of a b-tree. No
// such page is missed; another one, such as a pointer map, may pass for one.
func Interior(page uint32, data []byte) bool {
	_, _, ok := interior(page, data)
	return ok
}

// Children returns the pages below an interior page in the order of their keys;
// nil for any other page. The page may be damaged: a child is any number but 0.
func Children(page uint32, data []byte) []uint32 {
	h, cells, ok := interior(page, data)
	if !ok {
		return nil
	}
	children := make([]uint32, 0, cells+1)
	add := func(b []byte) {
		if child := binary.BigEndian.Uint32(b); child != 0 {
			children = append(children, child)
		}
	}
	for i := range cells {
		at := int(binary.BigEndian.Uint16(data[h+interiorHeader+2*i:]))
		if at+4 <= len(data) {
			add(data[at:])
		}
	}
	add(data[h+8:])
	return children
}

// interior returns where the page's header begins and its number of cells.
func interior(page uint32, data []byte) (h, cells int, ok bool) {
	if page == 1 {
		h = HeaderSize
	}
	if len(data) < h+interiorHeader || data[h] != interiorIndex && data[h] != interiorTable {
		return 0, 0, false
	}
	cells = int(binary.BigEndian.Uint16(data[h+3:]))
	end := h + interiorHeader + 2*cells
	content := int(binary.BigEndian.Uint16(data[h+5:]))
	if content == 0 { // 65536 does not fit into two bytes
		content = 65536
	}
	return h, cells, end <= content && end <= len(data) && binary.BigEndian.Uint32(data[h+8:]) != 0
}
