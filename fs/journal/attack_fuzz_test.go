package journal

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// FuzzWAL reads what an application may have written into its log.
func FuzzWAL(f *testing.F) {
	f.Add(make([]byte, 100), make([]byte, 600))
	f.Fuzz(func(t *testing.T, header, rest []byte) {
		ParseHeader(header)
		ParseWALIndex(header)
		h, ok := ParseWALHeader(header)
		if !ok { // a header that nobody could guess
			h = WALHeader{PageSize: 512}
			h.order = binary.BigEndian
		}
		log := append(make([]byte, WALHeaderSize), rest...)
		r := NewWALReader(bytes.NewReader(log), h, 0, h.Sum)
		for {
			fr, ok, err := r.Next()
			if err != nil || !ok {
				return
			}
			if len(fr.Data) != h.PageSize || fr.Page == 0 {
				t.Fatalf("frame %d of page %d has %d bytes", fr.Number, fr.Page, len(fr.Data))
			}
		}
	})
}
