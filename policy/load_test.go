package policy

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"atc/fs/errors"
)

// What is refused before it serves anybody, and the folder of compiled code.

func TestLoadRefusals(t *testing.T) {
	good := decides("status: 404\n").wasm()
	one := func(module, name string, typ int) []guestImport { return []guestImport{{module, name, 0, typ}} }
	plain := ins(num(1))
	for _, c := range []struct {
		name  string
		wasm  []byte
		words []string
	}{
		{"empty", nil, []string{"not a WebAssembly module"}},
		{"text", []byte("(module)"), []string{"wat2wasm"}},
		{"elf", []byte("\x7fELF\x02\x01\x01\x00"), []string{"not a WebAssembly module"}},
		{"component", []byte("\x00asm\x0d\x00\x01\x00"), []string{"component", "wasip1"}},
		{"version 2", []byte("\x00asm\x02\x00\x00\x00"), []string{"version 2"}},
		{"cut off", good[:len(good)-5], []string{"cut off"}},
		{"no memory", guestModule{imports: one("atc_v1", "log", typeLog), noMemory: true, body: plain}.wasm(), []string{"export", `"memory"`}},
		{"memory from outside", guestModule{imports: []guestImport{{"env", "memory", 2, 0}}, noMemory: true, body: plain}.wasm(), []string{"imports the memory env.memory"}},
		{"no resolve", guestModule{noResolve: true, body: plain}.wasm(), []string{"does not export the function resolve"}},
		{"a command", guestModule{resolveAs: "_start", resolveTyp: typeVoid}.wasm(), []string{"command", "-buildmode=c-shared"}},
		{"resolve of another type", guestModule{resolveTyp: typeVoid}.wasm(), []string{"resolve is () -> ()", "() -> i32"}},
		{"a newer ABI", guestModule{imports: one("atc_v2", "decide", typeDecide), body: plain}.wasm(), []string{`"atc_v2"`, "speaks atc_v1"}},
		{"an unknown function", guestModule{imports: one("atc_v1", "fetch", typeDecide), body: plain}.wasm(), []string{"atc_v1.fetch", "request, decide, tenant"}},
		{"a function of another type", guestModule{imports: one("atc_v1", "decide", typeRead), body: plain}.wasm(), []string{"atc_v1.decide", "(i32, i32) -> i32", "(i32, i32) -> ()"}},
		{"an unknown module", guestModule{imports: one("wasi_http", "send", typeDecide), body: plain}.wasm(), []string{"wasi_http.send"}},
		{"WASI preview 2", guestModule{imports: one("wasi:cli/run", "run", typeVoid), body: plain}.wasm(), []string{"preview 2"}},
		{"AssemblyScript's abort", guestModule{imports: one("env", "abort", typeTenant), body: plain}.wasm(), []string{"--use abort="}},
		{"an undefined C function", guestModule{imports: one("env", "decide", typeDecide), body: plain}.wasm(), []string{"env.decide", "import module"}},
		{"an imported global", guestModule{imports: []guestImport{{"env", "base", 3, 0}}, body: plain}.wasm(), []string{"env"}},
		{"too much memory", guestModule{pages: 1000, body: plain}.wasm(), []string{"1000", "32 MiB"}},
		{"too large a table", guestModule{table: 1 << 27, body: plain}.wasm(), []string{"table has 134217728 entries"}},
		{"a table that grows", guestModule{table: 1, body: ins([]byte{0xd0, 0x70}, num(1), []byte{0xfc, 15, 0})}.wasm(), []string{"reference-types"}},
		{"a start that traps", guestModule{start: ins(opUnreachable), body: plain}.wasm(), []string{"unreachable"}},
		{"an _initialize that traps", guestModule{initialize: ins(opUnreachable), body: plain}.wasm(), []string{"_initialize", "unreachable"}},
		{"an _initialize that asks", guestModule{initialize: ins(num(0), num(0), invoke(fnRequest), opDrop), body: plain}.wasm(), []string{"request was called while the module started"}},
		{"fails on the probe", guestModule{body: plain}.wasm(), []string{"probe", "returned 1"}},
		{"traps on the probe", guestModule{body: ins(opUnreachable)}.wasm(), []string{"probe", "unreachable"}},
		{"nonsense on the probe", decides("tenannt: acme\n").wasm(), []string{"probe", "line 1", "tenannt"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := Load(t.Context(), c.wasm, Options{Name: "bad.wasm", Logger: slog.New(slog.DiscardHandler)})
			if err == nil {
				_ = r.Close(t.Context())
			}
			wantError(t, err, append(c.words, "load resolver bad.wasm")...)
			if !errors.Is(errors.Invalid, err) {
				t.Errorf("kind %v", errors.KindOf(err))
			}
		})
	}
	t.Run("configuration", func(t *testing.T) {
		_, err := Load(t.Context(), good, Options{Config: map[string]string{"domain": "a\nb"}})
		wantError(t, err, `"domain"`, `'\n'`)
	})
}

func TestCompileCache(t *testing.T) {
	wasm := decides("status: 404\n").wasm()
	dir := filepath.Join(t.TempDir(), "resolvers")
	mustLoad(t, wasm, Options{CacheDir: dir})
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("%v, %v", info, err)
	}
	damaged := 0
	if err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			damaged++
			err = os.WriteFile(path, []byte("not machine code"), 0o600)
		}
		return err
	}); err != nil || damaged == 0 {
		t.Fatalf("%d files, %v", damaged, err)
	}
	log := &testLog{}
	mustLoad(t, wasm, Options{CacheDir: dir, Logger: log.logger()})
	if !strings.Contains(log.String(), "of no use") {
		t.Errorf("log: %s", log)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err = Load(t.Context(), wasm, Options{CacheDir: dir})
	wantError(t, err, dir, "0700")
}
