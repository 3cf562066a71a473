package policy

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// The six functions of atc_v1 as a guest imports them, and its memory as the
// host sees it: every pointer and every length is a guess until checked.

const (
	abiName  = "atc_v1"
	wasiName = "wasi_snapshot_preview1"

	i32 = api.ValueTypeI32
)

// Answers of tenant that are not a length.
const (
	noTenant     = -1 // there is no such tenant, or the ID cannot be one
	lookupFailed = -2 // nobody could say
)

// hostFunctions is the ABI. Each function finds the call it serves through its
// context, which is the instance's guard.
var hostFunctions = [...]struct {
	name            string
	params, results []api.ValueType
	run             func(in *instance, mem api.Memory, stack []uint64)
}{
	{"request", []api.ValueType{i32, i32}, []api.ValueType{i32}, hostRequest},
	{"decide", []api.ValueType{i32, i32}, nil, hostDecide},
	{"tenant", []api.ValueType{i32, i32, i32, i32}, []api.ValueType{i32}, hostTenant},
	{"machines", []api.ValueType{i32, i32}, []api.ValueType{i32}, hostMachines},
	{"config", []api.ValueType{i32, i32}, []api.ValueType{i32}, hostConfig},
	{"log", []api.ValueType{i32, i32, i32}, nil, hostLog},
}

func abiNames() []string {
	names := make([]string, len(hostFunctions))
	for i, f := range hostFunctions {
		names[i] = f.name
	}
	return names
}

// instantiateABI adds the host module to a runtime.
func instantiateABI(ctx context.Context, rt wazero.Runtime) (api.Module, error) {
	b := rt.NewHostModuleBuilder(abiName)
	for _, f := range hostFunctions {
		b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(
			func(ctx context.Context, mod api.Module, stack []uint64) {
				in := ctx.Value(instanceKey{}).(*instance)
				if in.host.trace != nil {
					defer in.traced(f.name, mod.Memory(), stack)()
				}
				f.run(in, mod.Memory(), stack)
			}), f.params, f.results).Export(f.name)
	}
	return b.Instantiate(ctx)
}

// violation is what a guest did against the ABI. It is thrown as a panic,
// which is how a host function traps the guest that called it: the engine
// recovers it and returns it from the call.
type violation struct{ text string }

func (v *violation) Error() string { return v.text }

func trap(format string, args ...any) { panic(&violation{fmt.Sprintf(format, args...)}) }

// view is the guest's bytes [ptr, ptr+length): valid until the guest runs on.
func view(mem api.Memory, function string, ptr, length uint32) []byte {
	bytes, ok := mem.Read(ptr, length)
	if !ok {
		trap("%s(%d, %d) reaches outside of the memory, which has %d bytes", function, ptr, length, mem.Size())
	}
	return bytes
}

// reply writes text to the guest's buffer and returns its length; where the
// buffer is too small it writes nothing, and the length says what it takes.
func reply(mem api.Memory, function string, ptr, capacity uint32, text []byte) uint64 {
	if uint64(len(text)) <= uint64(capacity) && !mem.Write(ptr, text) {
		trap("%s cannot write %d bytes to %d, outside of the memory, which has %d bytes", function, len(text), ptr, mem.Size())
	}
	return uint64(len(text))
}

func hostRequest(in *instance, mem api.Memory, stack []uint64) {
	in.mustResolve("request")
	stack[0] = reply(mem, "request", uint32(stack[0]), uint32(stack[1]), in.call.request)
}

func hostDecide(in *instance, mem api.Memory, stack []uint64) {
	in.mustResolve("decide")
	ptr, length := uint32(stack[0]), uint32(stack[1])
	if in.call.decided {
		trap("decide was called twice")
	}
	if length > MaxText {
		trap("the decision has %d bytes: at most %d", length, MaxText)
	}
	in.call.decision = append(in.call.decision[:0], view(mem, "decide", ptr, length)...)
	in.call.decided = true
}

func hostTenant(in *instance, mem api.Memory, stack []uint64) {
	in.mustResolve("tenant")
	ptr, length, out, capacity := uint32(stack[0]), uint32(stack[1]), uint32(stack[2]), uint32(stack[3])
	id := view(mem, "tenant", ptr, length)
	text, code := in.lookUp(id)
	if code < 0 {
		stack[0] = api.EncodeI32(code)
		return
	}
	stack[0] = reply(mem, "tenant", out, capacity, text)
}

func hostMachines(in *instance, mem api.Memory, stack []uint64) {
	in.mustResolve("machines")
	c := &in.call
	if !c.machinesAsked { // one picture for the whole call: its length stays true
		c.machinesAsked = true
		c.machines = appendMachines(c.machines[:0], c.world.Machines(c.ctx))
	}
	stack[0] = reply(mem, "machines", uint32(stack[0]), uint32(stack[1]), c.machines)
}

func hostConfig(in *instance, mem api.Memory, stack []uint64) {
	stack[0] = reply(mem, "config", uint32(stack[0]), uint32(stack[1]), in.host.config)
}

func hostLog(in *instance, mem api.Memory, stack []uint64) {
	level, ptr, length := int32(stack[0]), uint32(stack[1]), uint32(stack[2])
	if level < 0 || level > 3 {
		trap("log has level %d: levels are 0 debug, 1 info, 2 warning, 3 error", level)
	}
	message := view(mem, "log", ptr, length)
	in.logged++
	if in.logged > maxLogLines {
		return
	}
	line := printable(message[:min(len(message), maxLogLine)])
	if level >= 2 {
		in.complaint = line
	}
	in.host.logger.Log(in.call.context(), slog.Level(4*level-4), line, "resolver", in.host.name)
}

// printable makes a guest's bytes fit for one line of a log.
func printable(text []byte) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u0085' || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(text), "\ufffd")))
}
