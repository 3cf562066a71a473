package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// This file defines how a long operation tells how far it is: on a terminal in
// one line that changes, elsewhere in a line every few seconds.

const (
	everyTerminal = 100 * time.Millisecond
	everyLine     = 5 * time.Second
)

// progress writes lines. Its methods may be called concurrently.
type progress struct {
	out      *os.File
	terminal bool
	every    time.Duration

	mu    sync.Mutex // protects what follows
	last  time.Time
	shown bool // a line of the terminal is not ended
}

func newProgress(out *os.File) *progress {
	_, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS)
	p := &progress{out: out, terminal: err == nil, every: everyLine, last: time.Now()}
	if p.terminal {
		p.every = everyTerminal
	}
	return p
}

// report is a backup.Progress.
func (p *progress) report(step, object string, done, total int64, unit string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Sub(p.last) < p.every {
		return
	}
	p.last = now
	text := fmt.Sprintf("%s %s: %d %s", step, object, done, unit)
	switch {
	case unit == "bytes" && total > 0:
		text = fmt.Sprintf("%s %s: %s of %s, %d%%", step, object, size(done), size(total), done*100/total)
	case total > 0:
		text = fmt.Sprintf("%s %s: %d of %d %s, %d%%", step, object, done, total, unit, done*100/total)
	}
	if p.terminal {
		fmt.Fprintf(p.out, "\r\x1b[K%s", text)
		p.shown = true
		return
	}
	fmt.Fprintln(p.out, text)
}

// end takes the line off the terminal.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.shown = false
	}
}
