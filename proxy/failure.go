// This file turns a failure into what the client sees: a status, and a page
// that names the request and nothing else. What happened goes to the log.

package proxy

import (
	"fmt"
	"html"
	"net/http"
	"strings"

	stderrors "errors"

	"atc/fs/errors"
)

// statusError carries a status that no kind of error has: those that concern
// HTTP itself and the gateway's role.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

// statusClientGone is what the log calls a request whose client gave up.
const statusClientGone = 499

// retryAfter is what a client is told to wait when a queue is full, in seconds.
const retryAfter = "1"

func statusOf(r *http.Request, err error) int {
	var s *statusError
	switch {
	case r.Context().Err() != nil:
		return statusClientGone
	case stderrors.As(err, &s):
		return s.status
	case errors.Is(errors.Canceled, err): // not by the client: we are shutting down
		return http.StatusServiceUnavailable
	}
	return errors.HTTPStatus(err)
}

// forwardFailed is httputil's ErrorHandler. Errors of its own, which have no
// kind, are about an application that does not keep to the protocol.
func (p *Proxy) forwardFailed(w http.ResponseWriter, r *http.Request, err error) {
	var s *statusError
	if !stderrors.As(err, &s) && errors.Is(errors.Other, err) {
		err = &statusError{status: http.StatusBadGateway, err: err}
	}
	p.fail(w.(*recorder), r, exchangeOf(r.Context()), err)
}

// fail answers a request that could not be served. Once an answer has begun
// there is nothing left but to note the error. A client that is gone gets its
// connection closed: returning would make net/http answer 200.
func (p *Proxy) fail(w *recorder, r *http.Request, x *exchange, err error) {
	x.err, x.status = err, statusOf(r, err)
	if x.status == statusClientGone {
		panic(http.ErrAbortHandler)
	}
	if w.status != 0 {
		return
	}
	h := w.Header()
	switch x.status {
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", retryAfter)
	case http.StatusMethodNotAllowed:
		h.Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
	}
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set(requestIDHeader, x.id)
	title, text := explain(x.status)
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		h.Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(x.status)
		fmt.Fprintf(w, page, title, title, text, html.EscapeString(x.id))
		return
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(x.status)
	fmt.Fprintf(w, "%s. %s\nRequest %s\n", title, text, x.id)
}

// explain is what can be said to anybody about a status.
func explain(status int) (title, text string) {
	title = http.StatusText(status)
	switch status {
	case http.StatusBadRequest:
		text = "The request is malformed."
	case http.StatusNotFound:
		text = "There is nothing at this address."
	case http.StatusMisdirectedRequest:
		text = "This address has just moved. Please try again."
	case http.StatusBadGateway:
		text = "The application gave no valid answer."
	case http.StatusServiceUnavailable:
		text = "The application is busy. Please try again in a moment."
	case http.StatusGatewayTimeout:
		text = "The application took too long."
	default:
		text = "The request could not be served."
	}
	return title, text
}

const page = `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>%s</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:32em;margin:15vh auto;padding:0 1em;color:#222}small{color:#666}</style>
<h1>%s</h1>
<p>%s</p>
<p><small>Request %s</small></p>
</html>
`
