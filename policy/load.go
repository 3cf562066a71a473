package policy

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
)

// From a file's bytes to compiled code in an engine of its own, with the
// functions that it imports. Nothing of the module has run when this is done.

// host is what all instances of one resolver share. It does not change.
type host struct {
	name           string
	config         []byte
	logger         *slog.Logger
	deadline       time.Duration
	lookupDeadline time.Duration
	memoryLimit    int64
	lookupsFailed  seldom
	trace          func(string) // nil without one

	runtime  wazero.Runtime
	cache    wazero.CompilationCache // nil without one
	compiled wazero.CompiledModule
	world    wazero.ModuleConfig // what WASI shows; stderr is added for each instance
}

// load compiles and inspects.
func load(ctx context.Context, wasm []byte, opts Options) (_ *host, err error) {
	if err := inspectBytes(wasm); err != nil {
		return nil, err
	}
	config, err := Lines(opts.Config)
	if err != nil {
		return nil, fmt.Errorf("its configuration: %w", err)
	}
	h := &host{
		name: opts.Name, config: []byte(config), logger: opts.Logger,
		trace: opts.Trace, deadline: opts.Deadline, lookupDeadline: opts.LookupDeadline, memoryLimit: opts.MemoryLimit,
	}
	if opts.CacheDir != "" {
		if h.cache, err = openCache(opts.CacheDir); err != nil {
			return nil, err
		}
	}
	offered, err := h.compile(ctx, wasm)
	if err != nil && h.cache != nil {
		// Whatever is wrong with the module is wrong without the cache too;
		// what is wrong with the cache only is no reason not to serve.
		cached := err
		h.close(ctx)
		h.cache = nil
		if offered, err = h.compile(ctx, wasm); err == nil {
			h.logger.Warn("the cache of compiled resolvers is of no use; delete it", "directory", opts.CacheDir, "error", cached)
		}
	}
	if err == nil {
		err = inspectCompiled(h.compiled, offered)
	}
	if err != nil {
		h.close(ctx)
		return nil, err
	}
	return h, nil
}

// imports are the functions that a module may import, by module and name.
type imports map[string]map[string]api.FunctionDefinition

// compile makes a runtime of its own for the module, so that closing it
// returns all of its memory. It returns what it offers to the module.
func (h *host) compile(ctx context.Context, wasm []byte) (imports, error) {
	limit := min((h.memoryLimit+pageSize-1)/pageSize, 65536)
	config := wazero.NewRuntimeConfig().
		WithCloseOnContextDone(true).
		WithMemoryLimitPages(uint32(limit)).
		// Without reference types a table cannot grow, which no limit covers.
		WithCoreFeatures(api.CoreFeaturesV2.SetEnabled(api.CoreFeatureReferenceTypes, false))
	if h.cache != nil {
		config = config.WithCompilationCache(h.cache)
	}
	h.runtime = wazero.NewRuntimeWithConfig(ctx, config)
	abi, err := instantiateABI(ctx, h.runtime)
	if err != nil {
		return nil, fmt.Errorf("making %s: %w", abiName, err)
	}
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, h.runtime); err != nil {
		return nil, fmt.Errorf("making %s: %w", wasiName, err)
	}
	if h.compiled, err = h.runtime.CompileModule(ctx, wasm); err != nil {
		return nil, fmt.Errorf("it does not compile within %d MiB of memory: %w", limit*pageSize>>20, err)
	}
	// The WASI world: no arguments, environment or files; a wall clock that
	// stands at the epoch, so that nobody takes it for the time, and a
	// monotonic one that moves a millisecond at each reading, so that a
	// runtime that waits comes to an end. Random bytes are real: with known
	// ones a client could choose header names that collide in a guest's map.
	h.world = wazero.NewModuleConfig().WithName("").WithStartFunctions().
		WithWalltime(func() (int64, int32) { return 0, 0 }, 1).
		WithRandSource(rand.Reader)
	return imports{
		abiName:  abi.ExportedFunctionDefinitions(),
		wasiName: h.runtime.Module(wasiName).ExportedFunctionDefinitions(),
	}, nil
}

func (h *host) close(ctx context.Context) {
	_ = h.runtime.Close(ctx) // frees memory only
	if h.cache != nil {
		_ = h.cache.Close(ctx)
	}
}

// openCache opens a folder of compiled code, which will be run as it is: it
// must belong to us and be closed to others.
func openCache(dir string) (wazero.CompilationCache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the cache of compiled resolvers: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return nil, fmt.Errorf("the cache of compiled resolvers: %w", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 || !ok || int(owner.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("the cache of compiled resolvers %s is %s: its code is run as it is, so it must be our own folder with mode 0700", dir, info.Mode())
	}
	return wazero.NewCompilationCacheWithDir(dir)
}
