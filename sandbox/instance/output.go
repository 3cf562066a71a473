package instance

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
)

// This file turns what a process prints into log lines. The process is not
// trusted: a line without end costs one buffer, and bytes that are no text
// cannot break the log.

const (
	maxLine   = 64 << 10 // bytes of a line that are kept; the rest is dropped
	tailLines = 10       // lines of stderr that an error quotes
	tailLine  = 400      // bytes of each
)

// lines is an io.Writer for one stream of one process. One goroutine writes;
// close and text are called after it has ended.
type lines struct {
	log  *slog.Logger
	part []byte // the line so far, at most maxLine bytes
	cut  bool   // the line was longer
	tail []string
}

func (l *lines) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		line, rest, whole := bytes.Cut(p, []byte("\n"))
		room := min(len(line), maxLine-len(l.part))
		l.part = append(l.part, line[:room]...)
		l.cut = l.cut || room < len(line)
		if whole {
			l.emit()
		}
		p = rest
	}
	return n, nil
}

func (l *lines) emit() {
	text := strings.ToValidUTF8(string(bytes.TrimSuffix(l.part, []byte("\r"))), "\uFFFD")
	var attrs []slog.Attr
	if l.cut {
		attrs = []slog.Attr{slog.Bool("cut", true)}
	}
	l.log.LogAttrs(context.Background(), slog.LevelInfo, text, attrs...)
	if len(l.tail) == tailLines {
		l.tail = append(l.tail[:0], l.tail[1:]...)
	}
	l.tail = append(l.tail, strings.ToValidUTF8(text[:min(len(text), tailLine)], ""))
	l.cut = false
	if l.part = l.part[:0]; cap(l.part) > maxLine/8 {
		l.part = nil
	}
}

// close logs a last line that has no end.
func (l *lines) close() {
	if len(l.part) > 0 {
		l.emit()
	}
}

// text is the last lines.
func (l *lines) text() string { return strings.Join(l.tail, "\n") }
