package policy

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"atc/fs/errors"

	"github.com/tetratelabs/wazero/api"
)

// What a module costs, beside the bare engine's call of the same function in the
// same process: turn by turn, so that a noisy machine is noisy to both.

// Measurement is what [Measure] found. Its times are sorted.
type Measurement struct {
	Bytes   int           // of the module
	Pages   uint32        // of 64 KiB that it declares
	Reused  bool          // its instances serve more than one request
	Compile time.Duration // to load it without compiled code
	Load    time.Duration // to load it with

	Ours []time.Duration // a decision
	Bare []time.Duration // the engine's call alone, on a new instance where a decision needs one
	Kept []time.Duration // a decision that is kept; none where the module allows none
}

// Quantile is the value of sorted times below which a share of them lies.
func Quantile(times []time.Duration, share float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	return times[min(int(share*float64(len(times))), len(times)-1)]
}

// Measure has a module decide a request n times.
func Measure(ctx context.Context, wasm []byte, opts Options, request Request, n int) (_ *Measurement, err error) {
	opts = opts.withDefaults()
	dir, err := os.MkdirTemp("", "atc-policy-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	opts.CacheDir, opts.Isolation = dir, ""
	m := &Measurement{Bytes: len(wasm)}
	var r *Resolver
	for _, took := range []*time.Duration{&m.Compile, &m.Load} {
		if r != nil {
			if err := r.Close(ctx); err != nil {
				return nil, err
			}
		}
		began := time.Now()
		if r, err = Load(ctx, wasm, opts); err != nil {
			return nil, err
		}
		*took = time.Since(began)
	}
	defer r.Close(context.WithoutCancel(ctx))
	p := r.backend.(*pool)
	m.Pages, m.Reused = p.host.compiled.ExportedMemories()["memory"].Min(), p.reuse
	text, err := request.appendLines(nil)
	if err != nil {
		return nil, errors.E("measure resolver", opts.Name, errors.Other, err)
	}
	bare, err := newBare(p, r.world, text)
	if err != nil {
		return nil, errors.E("measure resolver", opts.Name, errors.Other, err)
	}
	defer bare.close()
	var o outcome
	for i := range n + n/10 { // the first ones warm everything up
		began := time.Now()
		if o, err = r.resolve(ctx, r.world, &request); err != nil {
			return nil, err
		}
		ours := time.Since(began)
		began = time.Now()
		if err := bare.call(); err != nil {
			return nil, errors.E("measure resolver", opts.Name, errors.Other, err)
		}
		if alone := time.Since(began); i >= n/10 {
			m.Ours, m.Bare = append(m.Ours, ours), append(m.Bare, alone)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	if o.decision.CacheFor > 0 {
		const each = 100 // of one reading: the clock itself takes a part of it
		for range max(n/each, 10) {
			began := time.Now()
			for range each {
				if _, err := r.Resolve(ctx, request); err != nil {
					return nil, err
				}
			}
			m.Kept = append(m.Kept, time.Since(began)/each)
		}
	}
	for _, times := range [][]time.Duration{m.Ours, m.Bare, m.Kept} {
		slices.Sort(times)
	}
	return m, nil
}

// bare calls a module without anything of ours around it but the functions that
// it imports.
type bare struct {
	pool  *pool
	world World
	text  []byte
	in    *instance // nil where each call has a new one
}

func newBare(p *pool, world World, text []byte) (*bare, error) {
	b := &bare{pool: p, world: world, text: text}
	if p.reuse {
		in, err := p.host.newInstance()
		if err != nil {
			return nil, err
		}
		b.in = in
	}
	return b, nil
}

func (b *bare) close() {
	if b.in != nil {
		b.in.close()
	}
}

func (b *bare) call() error {
	in := b.in
	if in == nil {
		in = &instance{host: b.pool.host}
		in.guard = newGuard(in, time.Minute)
		defer in.guard.stop()
		mod, err := b.pool.host.runtime.InstantiateModule(in.guard, b.pool.host.compiled, b.pool.host.world)
		if err != nil {
			return err
		}
		defer mod.Close(context.Background())
		in.mod, in.resolve = mod, mod.ExportedFunction("resolve")
	}
	in.call = call{ctx: context.Background(), world: b.world, request: b.text, decision: in.call.decision[:0], asked: in.call.asked[:0]}
	var stack [1]uint64
	if err := in.resolve.CallWithStack(in.guard, stack[:]); err != nil {
		return err
	}
	if code := api.DecodeI32(stack[0]); code != 0 {
		return fmt.Errorf("it refused: resolve returned %d", code)
	}
	return nil
}
