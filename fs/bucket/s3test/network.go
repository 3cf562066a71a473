package s3test

import (
	"io"
	"log"
	"net"
	"sync"
)

// This file defines the network in front of a proxy, which breaks in the ways a
// real one does: nobody listens, connections are reset, or bytes go nowhere and
// nothing says so.

// Break is a way in which a network is broken.
type Break int

const (
	Whole     Break = iota // it is not
	Refuse                 // connections are reset, and new ones refused
	Reset                  // connections are reset, new ones as soon as they are made
	Blackhole              // no byte moves, in either direction, until it is whole again
)

// silent is where a server's complaints about broken connections go.
var silent = log.New(io.Discard, "", 0)

// network is a listener on one address, whose connections can be broken.
type network struct {
	address string

	mu       sync.Mutex // protects what follows
	changed  *sync.Cond // with mu: state or listener is another one
	state    Break
	listener net.Listener // nil while Refuse
	closed   bool
	conns    map[*conn]struct{}
}

var _ net.Listener = (*network)(nil)

func newNetwork() (*network, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n := &network{address: l.Addr().String(), listener: l, conns: make(map[*conn]struct{})}
	n.changed = sync.NewCond(&n.mu)
	return n, nil
}

// set breaks the network, or mends it.
func (n *network) set(state Break) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	n.state = state
	if state == Refuse && n.listener != nil {
		n.listener.Close()
		n.listener = nil
	}
	if state != Refuse && n.listener == nil {
		// Its port is ours still, save for somebody who takes it meanwhile.
		if l, err := net.Listen("tcp", n.address); err == nil {
			n.listener = l
		}
	}
	if state == Refuse || state == Reset {
		for c := range n.conns {
			c.reset()
		}
	}
	n.changed.Broadcast()
}

// Accept waits through times at which nobody listens.
func (n *network) Accept() (net.Conn, error) {
	for {
		n.mu.Lock()
		for n.listener == nil && !n.closed {
			n.changed.Wait()
		}
		l, closed := n.listener, n.closed
		n.mu.Unlock()
		if closed {
			return nil, net.ErrClosed
		}
		accepted, err := l.Accept()
		n.mu.Lock()
		if err != nil {
			again := n.listener != l && !n.closed
			n.mu.Unlock()
			if again {
				continue
			}
			return nil, err
		}
		c := &conn{Conn: accepted, network: n}
		if n.state == Refuse || n.state == Reset {
			c.reset()
			n.mu.Unlock()
			continue
		}
		n.conns[c] = struct{}{}
		n.mu.Unlock()
		return c, nil
	}
}

// Close ends the listener; connections are the server's to close.
func (n *network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	n.changed.Broadcast()
	if n.listener == nil {
		return nil
	}
	return n.listener.Close()
}

// Addr is the listener's address, also while nobody listens there.
func (n *network) Addr() net.Addr {
	a, _ := net.ResolveTCPAddr("tcp", n.address)
	return a
}

// conn is a connection over the network.
type conn struct {
	net.Conn
	network *network
	ended   bool // protected by network.mu
}

// reset closes a connection so that its other end learns of an error.
// network.mu is held.
func (c *conn) reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.ended = true
	delete(c.network.conns, c)
	_ = c.Conn.Close()
}

// pass waits while bytes go nowhere.
func (c *conn) pass() {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	for c.network.state == Blackhole && !c.ended && !c.network.closed {
		c.network.changed.Wait()
	}
}

// Read returns what has come through. Bytes that came while it waited are only
// delivered once the network is whole.
func (c *conn) Read(p []byte) (int, error) {
	c.pass()
	n, err := c.Conn.Read(p)
	c.pass()
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	c.pass()
	return c.Conn.Write(p)
}

func (c *conn) Close() error {
	c.network.mu.Lock()
	c.ended = true
	delete(c.network.conns, c)
	c.network.changed.Broadcast()
	c.network.mu.Unlock()
	return c.Conn.Close()
}
