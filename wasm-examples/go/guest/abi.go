//go:build wasip1

package guest

import "unsafe"

// The imports of atc_v1, and the one way to read a text of unknown length.

//go:wasmimport atc_v1 request
func hostRequest(ptr unsafe.Pointer, capacity uint32) int32

//go:wasmimport atc_v1 decide
func hostDecide(ptr unsafe.Pointer, length uint32)

//go:wasmimport atc_v1 tenant
func hostTenant(ptr unsafe.Pointer, length uint32, out unsafe.Pointer, capacity uint32) int32

//go:wasmimport atc_v1 machines
func hostMachines(ptr unsafe.Pointer, capacity uint32) int32

//go:wasmimport atc_v1 config
func hostConfig(ptr unsafe.Pointer, capacity uint32) int32

//go:wasmimport atc_v1 log
func hostLog(level int32, ptr unsafe.Pointer, length uint32)

// read calls f, which fills a buffer or says how large it must be, until the
// text fits. It returns the buffer, perhaps a larger one, and the length of the
// text in it, or f's negative answer.
func read(buffer []byte, f func(ptr unsafe.Pointer, capacity uint32) int32) ([]byte, int) {
	for {
		n := int(f(unsafe.Pointer(unsafe.SliceData(buffer)), uint32(len(buffer))))
		if n <= len(buffer) {
			return buffer, n
		}
		buffer = make([]byte, n)
	}
}

// Levels of [Log].
const (
	Debug = iota
	Info
	Warn
	Error
)

// Log writes one line to the operator's log. A request may log 16 lines of at
// most 1,024 bytes; what is more is cut.
func Log(level int, message string) {
	hostLog(int32(level), unsafe.Pointer(unsafe.StringData(message)), uint32(len(message)))
}
