package policy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// What a file must be to serve as a resolver, checked before any of its code
// runs. Each refusal says what the author has to change.

// maxModule is the largest module in bytes; a Go guest with the whole of
// encoding/json has 3.3 MB.
const maxModule = 64 << 20

// maxTable bounds a module's function table. The engine takes 8 bytes of host
// memory for each entry, up to 2^27 of them, outside the memory limit; a Go
// guest has about 2,000.
const maxTable = 1 << 16

// inspectBytes checks what the engine does not or answers in words for its own
// developers: the kind of file, its size, and the size of its tables. Tables
// cannot grow later since the host switches reference types off.
func inspectBytes(wasm []byte) error {
	switch {
	case len(wasm) > maxModule:
		return fmt.Errorf("the module has %d bytes: at most %d", len(wasm), maxModule)
	case bytes.HasPrefix(wasm, []byte("(module")):
		return fmt.Errorf("this is WebAssembly text: translate it with wat2wasm first")
	case len(wasm) < 8 || !bytes.HasPrefix(wasm, []byte("\x00asm")):
		return fmt.Errorf("this is not a WebAssembly module: it does not begin with \"\\0asm\"")
	case bytes.Equal(wasm[4:8], []byte{0x0d, 0, 1, 0}):
		return fmt.Errorf("this is a WebAssembly component: build a core module instead (wasip1, not wasip2)")
	case !bytes.Equal(wasm[4:8], []byte{1, 0, 0, 0}):
		return fmt.Errorf("this is WebAssembly of version %d: only version 1 is known", binary.LittleEndian.Uint32(wasm[4:8]))
	}
	const tableSection = 4
	rest := wasm[8:]
	for len(rest) > 0 {
		id := rest[0]
		size, n := binary.Uvarint(rest[1:])
		if n <= 0 || size > uint64(len(rest)-1-n) {
			return fmt.Errorf("the module is cut off or damaged: section %d goes past its end", id)
		}
		body := rest[1+n : 1+n+int(size)]
		rest = rest[1+n+int(size):]
		if id != tableSection {
			continue
		}
		count, n := binary.Uvarint(body)
		if n <= 0 || count > 1 {
			return fmt.Errorf("the module has %d tables: at most one", count)
		}
		if count == 0 || len(body) < n+2 {
			continue // nothing there, or damaged: the engine will say how
		}
		if entries, m := binary.Uvarint(body[n+2:]); m > 0 && entries > maxTable { // after type and flags
			return fmt.Errorf("the module's table has %d entries: at most %d", entries, maxTable)
		}
	}
	return nil
}

// inspectCompiled checks exports and imports against what the host offers:
// the ABI and the empty WASI world, by module name.
func inspectCompiled(compiled wazero.CompiledModule, offered imports) error {
	for _, memory := range compiled.ImportedMemories() {
		module, name, _ := memory.Import()
		return fmt.Errorf("it imports the memory %s.%s: let it define and export its own as \"memory\"", module, name)
	}
	for _, f := range compiled.ImportedFunctions() {
		if err := checkImport(f, offered); err != nil {
			return err
		}
	}
	exports := compiled.ExportedFunctions()
	if compiled.ExportedMemories()["memory"] == nil {
		return fmt.Errorf("it does not export its memory: export it as \"memory\"")
	}
	resolve := exports["resolve"]
	if resolve == nil {
		if exports["_start"] != nil {
			return fmt.Errorf("it exports _start and no resolve, so it was built as a command: " +
				"build a reactor (Go: -buildmode=c-shared and //go:wasmexport resolve; clang: -mexec-model=reactor)")
		}
		return fmt.Errorf("it does not export the function resolve() -> i32")
	}
	if want := []api.ValueType{i32}; len(resolve.ParamTypes()) != 0 || !slices.Equal(resolve.ResultTypes(), want) {
		return fmt.Errorf("its resolve is %s: it must be () -> i32", signature(resolve))
	}
	if init := exports["_initialize"]; init != nil && len(init.ParamTypes())+len(init.ResultTypes()) != 0 {
		return fmt.Errorf("its _initialize is %s: it must be () -> ()", signature(init))
	}
	return nil
}

func checkImport(f api.FunctionDefinition, offered imports) error {
	module, name, _ := f.Import()
	functions, ok := offered[module]
	switch {
	case !ok && strings.HasPrefix(module, "atc_v"):
		return fmt.Errorf("it speaks the ABI %.40q: this host speaks %s", module, abiName)
	case !ok && module == "env" && name == "abort":
		return fmt.Errorf("it imports env.abort: compile AssemblyScript with --use abort=")
	case !ok && module == "env":
		return fmt.Errorf("it imports env.%.80s: an undefined function, or one of ours without its import module %q", name, abiName)
	case !ok && strings.HasPrefix(module, "wasi:"):
		return fmt.Errorf("it imports %.80q of WASI preview 2: build for preview 1 (wasip1)", module)
	case !ok:
		return fmt.Errorf("it imports %.80s.%.80s: only %s and %s are there", module, name, abiName, wasiName)
	}
	definition, ok := functions[name]
	if !ok {
		return fmt.Errorf("it imports %s.%.80s, which is not there: %s has %s", module, name, abiName, strings.Join(abiNames(), ", "))
	}
	if !slices.Equal(f.ParamTypes(), definition.ParamTypes()) || !slices.Equal(f.ResultTypes(), definition.ResultTypes()) {
		return fmt.Errorf("it imports %s.%s as %s: it is %s", module, name, signature(f), signature(definition))
	}
	return nil
}

// signature writes a function's type as WAT authors do: (i32, i32) -> i32.
func signature(f api.FunctionDefinition) string {
	list := func(types []api.ValueType) string {
		names := make([]string, len(types))
		for i, t := range types {
			names[i] = api.ValueTypeName(t)
		}
		return strings.Join(names, ", ")
	}
	results := list(f.ResultTypes())
	if len(f.ResultTypes()) != 1 {
		results = "(" + results + ")"
	}
	return "(" + list(f.ParamTypes()) + ") -> " + results
}
