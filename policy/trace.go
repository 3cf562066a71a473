package policy

import (
	"fmt"
	"strings"

	"github.com/tetratelabs/wazero/api"
)

// What a guest asked for and answered, in words for its author. It is off, and
// costs a comparison, unless Options.Trace is set.

// traced begins to watch one call of a function of the ABI; what it returns says
// how it ended. A call that traps is told of too.
func (in *instance) traced(function string, mem api.Memory, stack []uint64) func() {
	var arguments [4]uint64
	copy(arguments[:], stack)
	return func() {
		a := make([]uint32, len(arguments))
		for i, v := range arguments {
			a[i] = uint32(v)
		}
		text := func(ptr, length uint32) string {
			b, ok := mem.Read(ptr, min(length, MaxText))
			if !ok {
				return fmt.Sprintf("(%d bytes at %d, outside of the memory)", length, ptr)
			}
			return fmt.Sprintf("%q", b)
		}
		read := func(call string, ptr, capacity uint32) string {
			switch n := int32(stack[0]); {
			case n == noTenant:
				return call + " -> -1, no such tenant"
			case n < 0:
				return call + " -> -2, nobody can tell"
			case uint32(n) > capacity:
				return fmt.Sprintf("%s -> %d, more than the buffer of %d", call, n, capacity)
			case n == 0:
				return call + " -> 0, nothing"
			default:
				b, _ := mem.Read(ptr, uint32(n))
				return fmt.Sprintf("%s -> %d\n%s", call, n, indented(string(b)))
			}
		}
		var said string
		switch function {
		case "decide":
			b, ok := mem.Read(a[0], min(a[1], MaxText))
			if said = fmt.Sprintf("decide(%s)", text(a[0], a[1])); ok {
				said = "decide\n" + indented(string(b))
			}
		case "log":
			said = fmt.Sprintf("log(%d, %s)", int32(a[0]), text(a[1], a[2]))
		case "tenant":
			said = read(fmt.Sprintf("tenant(%s)", text(a[0], a[1])), a[2], a[3])
		default:
			said = read(function, a[0], a[1])
		}
		in.host.trace(said)
	}
}

// indented writes each line behind blanks, with what is not printable quoted.
func indented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		fmt.Fprintf(&b, "    %s\n", printable([]byte(line)))
	}
	return strings.TrimSuffix(b.String(), "\n")
}
