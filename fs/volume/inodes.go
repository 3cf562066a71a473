package volume

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// This file defines what is known of the contents of a tenant's local files, by
// inode, and the log that keeps it over a kill. The log is appended to and not
// synced: after a loss of power it counts only if the tenant was released before,
// which syncs everything.

// content is what is known of a local file's content.
type content struct {
	id      string // of the object that was stored or is to be fetched; empty for none
	missing bool   // the local file is a hole so far
	touched bool   // written since the object was stored
	writes  uint64 // in this run
}

// inodes is what is known of all of them. Tenant.mu protects it.
type inodes struct {
	dir    string
	known  map[uint64]content
	log    *os.File // appended to; nil until something is
	lines  int      // in it
	broken bool     // its end may be half a line
	ended  bool     // nothing is noted any more: the folder may be another run's
}

const inodesName = "inodes"

// The states of a line "<inode> <state> <content>".
const (
	stored    = '='
	missing   = '?'
	touched   = '!'
	forgotten = '-'
)

func newInodes(dir string) *inodes { return &inodes{dir: dir, known: make(map[uint64]content)} }

// readInodes reads what an earlier run noted. It fails for what no run writes, and
// where there is nothing: a tree that was laid out has a log.
func readInodes(dir string) (*inodes, error) {
	x := newInodes(dir)
	b, err := os.ReadFile(filepath.Join(dir, inodesName))
	if err != nil {
		return nil, err
	}
	b = b[:bytes.LastIndexByte(b, '\n')+1] // half a line is of a disk that was full
	for line := range strings.Lines(string(b)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), " ")
		inode, err := strconv.ParseUint(fields[0], 10, 64)
		if err != nil || len(fields) != 3 || len(fields[1]) != 1 {
			return nil, fmt.Errorf("line %q", line)
		}
		x.lines++
		switch c := (content{id: fields[2]}); fields[1][0] {
		case forgotten:
			delete(x.known, inode)
		case stored:
			x.known[inode] = c
		case missing:
			c.missing = true
			x.known[inode] = c
		case touched:
			c.touched = true
			x.known[inode] = c
		default:
			return nil, fmt.Errorf("line %q", line)
		}
	}
	return x, nil
}

func line(inode uint64, c content) string {
	state := stored
	switch {
	case c.missing:
		state = missing
	case c.touched:
		state = touched
	}
	return fmt.Sprintf("%d %c %s\n", inode, state, c.id)
}

// set notes what is known of a file now. Where that fails nothing is noted.
func (x *inodes) set(inode uint64, c content) error {
	was, known := x.known[inode]
	if known && line(inode, was) == line(inode, c) {
		x.known[inode] = c
		return nil
	}
	x.known[inode] = c
	err := x.append(line(inode, c))
	if err != nil && known {
		x.known[inode] = was
	} else if err != nil {
		delete(x.known, inode)
	}
	return err
}

// forget notes that an inode is of no file any more. Where that fails it is noted
// before anything else is.
func (x *inodes) forget(inode uint64) error {
	if _, known := x.known[inode]; !known && !x.broken {
		return nil
	}
	delete(x.known, inode)
	return x.append(fmt.Sprintf("%d %c \n", inode, forgotten))
}

func (x *inodes) append(line string) error {
	const slack = 1024 // lines that count no more
	if x.ended {
		return nil
	}
	if x.broken || x.log == nil || x.lines > 4*len(x.known)+slack {
		return x.write()
	}
	if _, err := x.log.WriteString(line); err != nil {
		x.broken = true
		return fmt.Errorf("note local file: %w", err)
	}
	x.lines++
	return nil
}

// write makes a new log of what is known.
func (x *inodes) write() error {
	x.broken = true
	var b bytes.Buffer
	for inode, c := range x.known {
		b.WriteString(line(inode, c))
	}
	path := filepath.Join(x.dir, inodesName)
	if err := writeFile(path, b.Bytes()); err != nil {
		return fmt.Errorf("note local files: %w", err)
	}
	x.close()
	log, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("note local files: %w", err)
	}
	x.log, x.lines, x.broken = log, len(x.known), false
	return nil
}

// end closes the log for good.
func (x *inodes) end() {
	x.close()
	x.ended = true
}

func (x *inodes) close() {
	if x.log != nil {
		x.log.Close()
		x.log = nil
	}
}
