package instance

import (
	"context"
	"net"
	"sync"
)

// This file is what a request holds while it uses an instance.

// Lease keeps one instance awake. It is for one request; its methods may be
// called concurrently.
type Lease struct {
	instance *instance
	release  sync.Once
}

// Instance identifies the run of the process. Connections outlive a lease but
// not the instance: whoever keeps them, keeps them by this.
func (l *Lease) Instance() string { return l.instance.id }

// Done is closed when the process is gone, whatever ended it.
func (l *Lease) Done() <-chan struct{} { return l.instance.process.Done() }

// Dial connects to the application. An error of kind Unavailable says how the
// process ended, if it has.
func (l *Lease) Dial(ctx context.Context) (net.Conn, error) { return l.instance.process.Dial(ctx) }

// Release gives the lease back; calling it again does nothing. The last one
// begins the idle time.
func (l *Lease) Release() {
	l.release.Do(func() { l.instance.unlease() })
}
