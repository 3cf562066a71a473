package mount

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// This file defines that a file is opened and released by one request at a time.
//
// Whether a file is passed through is decided when the first handle is opened and
// holds for all of them. go-fuse notes the same a second time: behind our Open it
// registers the local file with the kernel, and behind our Release, whether that
// handle was passed through or not, it counts one user of that registration less.
// The kernel does not wait for a release. Were one of the last handle of before to
// end in the middle of the next one's opening, the registration would be gone while
// the kernel uses it, and the kernel would refuse every further opening.

// turns lets one opening or release of a node pass at a time.
type turns struct {
	fuse.RawFileSystem
	mu    sync.Mutex
	nodes map[uint64]*turn // those that somebody has or waits for
}

// turn is the right to open or release one node. Whoever has it, or waits for it,
// counts as a user, which turns.mu protects.
type turn struct {
	sync.Mutex
	users int
}

// take waits for the turn of a node, which ends when the returned function is
// called.
func (t *turns) take(node uint64) (end func()) {
	t.mu.Lock()
	of := t.nodes[node]
	if of == nil {
		of = &turn{}
		t.nodes[node] = of
	}
	of.users++
	t.mu.Unlock()
	of.Lock()
	return func() {
		of.Unlock()
		t.mu.Lock()
		defer t.mu.Unlock()
		if of.users--; of.users == 0 {
			delete(t.nodes, node)
		}
	}
}

func (t *turns) Open(cancel <-chan struct{}, input *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	defer t.take(input.NodeId)()
	return t.RawFileSystem.Open(cancel, input, out)
}

func (t *turns) Release(cancel <-chan struct{}, input *fuse.ReleaseIn) {
	defer t.take(input.NodeId)()
	t.RawFileSystem.Release(cancel, input)
}
