// Package errors defines the one error type of atc.
//
// An [Error] says which operation failed, on what object, and of which [Kind]
// the failure is. The kind is what decisions are made by: whether a retry can
// help, which errno the kernel gets and which status an HTTP client gets. The
// two tables in kind.go are the only place where either is chosen.
//
//	return errors.E("ship", "acme/main.sqlite3", errors.Fenced, err)
package errors

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"syscall"
)

// Error is a failed operation. It is immutable once made.
type Error struct {
	Op     string // what was being done: "put", "open", "resolve"
	Object string // to what: a bucket key, a path, a tenant; may be empty
	Kind   Kind
	Err    error // the cause; may be nil
}

var _ error = (*Error)(nil)

// E makes an error. A cause that already has a kind lends it where kind is
// [Other], so that wrapping never hides a decision.
func E(op, object string, kind Kind, cause error) error {
	if kind == Other {
		kind = KindOf(cause)
	}
	return &Error{Op: op, Object: object, Kind: kind, Err: cause}
}

// Error reads as one line: operation, object, kind and cause.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Object != "" {
		b.WriteString(" ")
		b.WriteString(e.Object)
	}
	var inner *Error
	if e.Kind != Other && !(errors.As(e.Err, &inner) && inner.Kind == e.Kind) {
		b.WriteString(": ")
		b.WriteString(e.Kind.String())
	}
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf finds the kind of any error: that of the outermost [Error] that has
// one, else what the standard library's own errors mean.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		if e.Kind != Other {
			return e.Kind
		}
		return KindOf(e.Err)
	}
	return kindOfCause(err)
}

// kindOfCause is what an error that is none of ours means.
func kindOfCause(err error) Kind {
	switch {
	case err == nil:
		return Other
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return Unavailable
	case errors.Is(err, fs.ErrNotExist):
		return NotExist
	case errors.Is(err, fs.ErrExist):
		return Exist
	case errors.Is(err, fs.ErrPermission):
		return Permission
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return NoSpace
	}
	return Other
}

// Is reports whether err is of the kind.
func Is(kind Kind, err error) bool { return err != nil && KindOf(err) == kind }

// Retryable reports whether doing the same again later can succeed.
func Retryable(err error) bool { return Is(Unavailable, err) }
