package policy

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// What passes between atc and a worker, over a socket: frames of one kind with
// one text, one side at a time.

const (
	// To the worker.
	frameOptions = 'O' // workerOptions as JSON; the module follows
	frameModule  = 'W'
	frameResolve = 'R' // a request
	frameThere   = 'A' // to frameTenant: its attributes
	frameAbsent  = 'N' // to frameTenant: there is none
	frameUnknown = 'U' // to frameTenant: nobody can tell
	frameList    = 'L' // to frameMachines

	// To atc.
	frameReady    = 'r' // the module is loaded
	frameTenant   = 't' // an ID
	frameMachines = 'm'
	frameLog      = 'g' // a level from '0' to '3', and a line
	frameDecision = 'd'
	frameLate     = 'x' // the guest was stopped
	frameFailed   = 'f' // why
)

// maxFrame bounds what is read of anybody but atc itself.
const maxFrame = MaxText + 1024

func writeFrame(w io.Writer, kind byte, text []byte) error {
	b := make([]byte, 5, 5+len(text))
	b[0] = kind
	binary.BigEndian.PutUint32(b[1:], uint32(len(text)))
	_, err := w.Write(append(b, text...))
	return err
}

func readFrame(r *bufio.Reader, most int) (kind byte, text []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if uint64(n) > uint64(most) {
		return 0, nil, fmt.Errorf("a frame of %d bytes: at most %d", n, most)
	}
	text = make([]byte, n)
	_, err = io.ReadFull(r, text)
	return head[0], text, err
}
