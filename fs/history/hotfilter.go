package history

// This file defines the filter of hot pages: each byte minus the one a stride
// before it, as PNG's Sub filter does with pixels. The cells of an interior page
// have mostly one width, and at that distance stands the same byte of the
// neighbour's pointer and key. It is lossless for any bytes.

// maxStride is the widest cell that is looked for: pointer, length and a
// rowid or a short key, twice so that the cell pointers' two bytes fit too.
const maxStride = 32

// filter writes the differences of src at a stride to dst; stride 0 copies.
func filter(dst, src []byte, stride int) {
	if stride == 0 {
		copy(dst, src)
		return
	}
	n := copy(dst, src[:min(stride, len(src))])
	for i := n; i < len(src); i++ {
		dst[i] = src[i] - src[i-stride]
	}
}

// unfilter undoes filter in place.
func unfilter(b []byte, stride int) {
	if stride == 0 {
		return
	}
	for i := stride; i < len(b); i++ {
		b[i] += b[i-stride]
	}
}

// bestStride tries the strides on a part of the page, where its cells are, and
// returns the one that leaves the most bytes like the one before them, which is
// what a compressor then finds cheap.
func bestStride(page []byte) int {
	const sample = 1024
	src := page[max(0, len(page)-sample):]
	best, most := 0, 0
	for stride := 1; stride <= maxStride && stride < len(src); stride++ {
		same := 0
		for i, b := range src[stride:] {
			if b == src[i] {
				same++
			}
		}
		if same > most {
			best, most = stride, same
		}
	}
	if most < len(src)/8 {
		return 0 // no rows
	}
	return best
}
