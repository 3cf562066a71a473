package policy

import (
	"encoding/binary"
	"math"
)

// A tiny assembler for test guests, so that each rule of the ABI can be broken
// by a module of a few bytes and no tool is needed to build it. Instructions
// are written as WebAssembly encodes them.

const (
	opUnreachable = 0x00
	opLoop        = 0x03
	opIf          = 0x04
	opBr          = 0x0c
	opEnd         = 0x0b
	opCall        = 0x10
	opDrop        = 0x1a
	opGlobalGet   = 0x23
	opLoad8       = 0x2d
	opStore8      = 0x3a
	opMemoryGrow  = 0x40
	opI32Const    = 0x41
	opI32Eq       = 0x46
	opI32Add      = 0x6a

	blockVoid = 0x40
)

// Functions of atc_v1 by the index that a test guest imports them at; its own
// resolve follows, then the functions of guestModule.more.
const (
	fnRequest = iota
	fnDecide
	fnTenant
	fnMachines
	fnConfig
	fnLog
	fnResolve
	fnMore
)

// Indices of the types that every test guest has.
const (
	typeI32     = iota // () -> i32
	typeVoid           // () -> ()
	typeRead           // (i32, i32) -> i32
	typeDecide         // (i32, i32) -> ()
	typeTenant         // (i32, i32, i32, i32) -> i32
	typeLog            // (i32, i32, i32) -> ()
	typeNothing        // (i32) -> ()
	typeClock          // (i32, i64, i32) -> i32
)

type guestImport struct {
	module, name string
	kind         byte // 0 function, 2 memory, 3 global
	typ          int
}

var abiImports = []guestImport{
	{"atc_v1", "request", 0, typeRead}, {"atc_v1", "decide", 0, typeDecide}, {"atc_v1", "tenant", 0, typeTenant},
	{"atc_v1", "machines", 0, typeRead}, {"atc_v1", "config", 0, typeRead}, {"atc_v1", "log", 0, typeLog},
}

// guestModule describes a test guest. The zero value of each field is what a
// good guest has; tests change the one thing they are about.
type guestModule struct {
	imports    []guestImport // abiImports
	pages      uint32        // 1; of memory
	maxPages   uint32        // none
	noMemory   bool
	noResolve  bool
	resolveAs  string // "resolve"
	resolveTyp int    // typeI32
	body       []byte // of resolve, without its end
	initialize []byte // body of _initialize, where there is one
	start      []byte // body of a start function, where there is one
	more       [][]byte
	data       string // at address 0
	globals    int    // mutable i32 "g0", "g1"... exported for the test to set
	table      uint32 // entries
}

// wasm encodes the module.
func (g guestModule) wasm() []byte {
	if g.imports == nil {
		g.imports = abiImports
	}
	if g.pages == 0 {
		g.pages = 1
	}
	if g.resolveAs == "" {
		g.resolveAs = "resolve"
	}
	i := byte(0x7f) // i32
	types := [][]byte{
		{0x60, 0, 1, i}, {0x60, 0, 0}, {0x60, 2, i, i, 1, i}, {0x60, 2, i, i, 0},
		{0x60, 4, i, i, i, i, 1, i}, {0x60, 3, i, i, i, 0}, {0x60, 1, i, 0}, {0x60, 3, i, 0x7e, i, 1, i},
	}
	var imports [][]byte
	imported := uint32(0)
	for _, im := range g.imports {
		b := append(name(im.module), name(im.name)...)
		switch im.kind {
		case 0:
			b = append(b, 0, byte(im.typ))
			imported++
		case 2:
			b = append(b, 2, 0, 1)
		case 3:
			b = append(b, 3, i, 0)
		}
		imports = append(imports, b)
	}
	functions, codes := [][]byte{{byte(g.resolveTyp)}}, [][]byte{code(g.body)}
	exports := [][]byte{}
	if !g.noResolve {
		exports = append(exports, append(name(g.resolveAs), append([]byte{0}, uleb(imported)...)...))
	}
	for _, body := range g.more {
		functions, codes = append(functions, []byte{typeVoid}), append(codes, code(body))
	}
	if g.initialize != nil {
		exports = append(exports, append(name("_initialize"), append([]byte{0}, uleb(imported+uint32(len(functions)))...)...))
		functions, codes = append(functions, []byte{typeVoid}), append(codes, code(g.initialize))
	}
	out := []byte("\x00asm\x01\x00\x00\x00")
	out = append(out, section(1, types)...)
	out = append(out, section(2, imports)...)
	startAt := imported + uint32(len(functions))
	if g.start != nil {
		functions, codes = append(functions, []byte{typeVoid}), append(codes, code(g.start))
	}
	out = append(out, section(3, functions)...)
	if g.table > 0 {
		out = append(out, section(4, [][]byte{append([]byte{0x70, 0}, uleb(g.table)...)})...)
	}
	if !g.noMemory {
		limits := append([]byte{0}, uleb(g.pages)...)
		if g.maxPages > 0 {
			limits = append(append([]byte{1}, uleb(g.pages)...), uleb(g.maxPages)...)
		}
		out = append(out, section(5, [][]byte{limits})...)
		exports = append(exports, append(name("memory"), 2, 0))
	}
	var globals [][]byte
	for n := range g.globals {
		globals = append(globals, []byte{i, 1, opI32Const, 0, opEnd})
		exports = append(exports, append(name(string([]byte{'g', byte('0' + n)})), 3, byte(n)))
	}
	out = append(out, section(6, globals)...)
	out = append(out, section(7, exports)...)
	if g.start != nil {
		b := uleb(startAt)
		out = append(out, append(append([]byte{8}, uleb(uint32(len(b)))...), b...)...)
	}
	out = append(out, section(10, codes)...)
	if g.data != "" {
		segment := append([]byte{0, opI32Const, 0, opEnd}, name(g.data)...)
		out = append(out, section(11, [][]byte{segment})...)
	}
	return out
}

func section(id byte, entries [][]byte) []byte {
	if len(entries) == 0 {
		return nil
	}
	body := uleb(uint32(len(entries)))
	for _, e := range entries {
		body = append(body, e...)
	}
	return append(append([]byte{id}, uleb(uint32(len(body)))...), body...)
}

func code(body []byte) []byte {
	b := append([]byte{0}, body...) // no locals
	b = append(b, opEnd)
	return append(uleb(uint32(len(b))), b...)
}

func name(s string) []byte { return append(uleb(uint32(len(s))), s...) }

func uleb(n uint32) []byte { return binary.AppendUvarint(nil, uint64(n)) }

// ins joins instructions.
func ins(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case int:
			b = append(b, byte(p))
		case []byte:
			b = append(b, p...)
		}
	}
	return b
}

// num is i32.const n, with n's signed LEB128.
func num(n int64) []byte {
	if n > math.MaxInt32 {
		n -= 1 << 32
	}
	b := []byte{opI32Const}
	for {
		c := byte(n & 0x7f)
		n >>= 7
		if n == 0 && c&0x40 == 0 || n == -1 && c&0x40 != 0 {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

func invoke(f int) []byte { return []byte{opCall, byte(f)} }

// decides is a guest that decides text, always.
func decides(text string) guestModule {
	return guestModule{data: text, body: ins(num(0), num(int64(len(text))), invoke(fnDecide), num(0))}
}
