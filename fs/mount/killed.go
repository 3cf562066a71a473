package mount

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"atc/fs/database"
)

// This file defines how a writer is noticed that is being killed while it waits.
// The kernel lets no process end that waits for an answer of ours, and tells us
// of any signal alike: of one that a program handles, which must not look like a
// broken disk to SQLite, and of the last one.

// asking is the context of a request that may wait for long: no signal ends it
// but the one that kills who asked.
func asking(ctx context.Context) context.Context {
	caller, ok := fuse.FromContext(ctx)
	ctx = context.WithoutCancel(ctx)
	if !ok {
		return ctx
	}
	thread := caller.Pid
	return database.WithAsker(ctx, func() bool { return killed(thread) })
}

// killed reports whether a thread has SIGKILL pending, as all threads of a process
// have that a signal ends (kernel/signal.c, complete_signal).
func killed(thread uint32) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", thread))
	if err != nil {
		return false
	}
	for line := range bytes.Lines(status) {
		mask, ok := bytes.CutPrefix(line, []byte("SigPnd:"))
		if !ok {
			continue
		}
		pending, err := strconv.ParseUint(string(bytes.TrimSpace(mask)), 16, 64)
		return err == nil && pending&(1<<(syscall.SIGKILL-1)) != 0
	}
	return false
}
