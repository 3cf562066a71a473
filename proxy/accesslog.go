// This file watches an answer pass, to write one line about it at the end. The
// line has the path but never the query, where applications put secrets.

package proxy

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// maxLoggedPath bounds the path in a log line, in bytes.
const maxLoggedPath = 512

// recorder passes an answer through and remembers its status and size. On its
// way it corrects two things that net/http would do to the header.
type recorder struct {
	http.ResponseWriter
	withBody bool // the request has a body
	x        *exchange
	status   int   // 0 until the final header is written
	bytes    int64 // of the body; those of an upgraded connection are not counted
}

// Unwrap lets http.ResponseController reach Flush and the deadlines.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) WriteHeader(status int) {
	if status >= 200 && w.status == 0 {
		w.status = status
		h := w.Header()
		if h["Content-Type"] == nil {
			h["Content-Type"] = nil // keeps net/http from guessing one
		}
		if w.withBody && !w.x.body.ended() {
			// Otherwise net/http takes the rest of the body away from the
			// application, and waits for it before it sends the answer.
			// EnableFullDuplex would do too, but after an unread body it
			// panics in the connection's next request (Go 1.26).
			h.Set("Connection", "close")
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// Hijack is where httputil switches protocols.
func (w *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.status = http.StatusSwitchingProtocols
	return upgraded{conn}, rw, nil
}

func (p *Proxy) logAccess(r *http.Request, x *exchange, w *recorder, finished bool) {
	status := w.status
	if status == 0 {
		status = x.status
	}
	level := slog.LevelInfo
	if x.err != nil && status >= http.StatusInternalServerError {
		level = slog.LevelWarn
	} else if !p.opt.AccessLog {
		return
	}
	if ctx := context.Background(); p.opt.Logger.Enabled(ctx, level) {
		path := r.URL.Path
		if len(path) > maxLoggedPath {
			path = path[:maxLoggedPath]
		}
		attrs := make([]slog.Attr, 0, 9)
		attrs = append(attrs,
			slog.String("tenant", x.decision.Tenant),
			slog.String("method", r.Method),
			slog.String("path", path),
			slog.Int("status", status),
			slog.Int64("bytes", w.bytes),
			slog.Duration("duration", time.Since(x.began)),
			slog.String("request", x.id))
		if !finished {
			attrs = append(attrs, slog.Bool("aborted", true))
		}
		if x.err != nil {
			attrs = append(attrs, slog.String("error", x.err.Error()))
		}
		p.opt.Logger.LogAttrs(ctx, level, "request", attrs...)
	}
}
