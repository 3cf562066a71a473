package errors

import (
	"errors"
	"net/http"
	"syscall"
)

// Kind says what an error means to whoever has to decide something by it.
type Kind uint8

const (
	Other       Kind = iota // nothing known: EIO, 500
	Invalid                 // the caller's input is malformed; the text says how
	NotExist                // there is no such object
	Exist                   // the object is there already
	Condition               // a conditional write found another version than it asked for
	Busy                    // somebody else has it now
	Fenced                  // this machine owned it and has lost it
	Corrupt                 // bytes that do not match their checksum or their format
	Unavailable             // the bucket or a peer did not answer; a retry can help
	NoSpace                 // a disk or a configured limit is full
	Permission              // not allowed
	Unsupported             // not offered by this kernel, store or version
	Canceled                // the caller gave up
)

// kinds is the one table from a kind to its name, to the errno that FUSE
// answers and to the status that HTTP answers.
var kinds = [...]struct {
	name   string
	errno  syscall.Errno
	status int
}{
	Other:       {"failed", syscall.EIO, http.StatusInternalServerError},
	Invalid:     {"invalid", syscall.EINVAL, http.StatusBadRequest},
	NotExist:    {"does not exist", syscall.ENOENT, http.StatusNotFound},
	Exist:       {"exists already", syscall.EEXIST, http.StatusConflict},
	Condition:   {"changed meanwhile", syscall.EBUSY, http.StatusPreconditionFailed},
	Busy:        {"in use elsewhere", syscall.EBUSY, http.StatusMisdirectedRequest},
	Fenced:      {"taken over by another machine", syscall.EIO, http.StatusMisdirectedRequest},
	Corrupt:     {"corrupt", syscall.EIO, http.StatusInternalServerError},
	Unavailable: {"unavailable", syscall.EIO, http.StatusServiceUnavailable},
	NoSpace:     {"no space", syscall.ENOSPC, http.StatusInsufficientStorage},
	Permission:  {"not permitted", syscall.EPERM, http.StatusForbidden},
	Unsupported: {"not supported", syscall.EOPNOTSUPP, http.StatusNotImplemented},
	Canceled:    {"canceled", syscall.EINTR, 499},
}

// String names the kind in the words that error messages use.
func (k Kind) String() string { return kinds[k].name }

// Errno is what the filesystem answers for err: 0 for nil, an errno that err
// carries itself, else that of its kind.
func Errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	var e *Error
	var errno syscall.Errno
	// A bare errno is more precise than its kind: ENOTEMPTY, for one, is an
	// ErrExist to the standard library.
	if errors.As(err, &errno) && !(errors.As(err, &e) && ownKind(e)) {
		return errno
	}
	return kinds[KindOf(err)].errno
}

// ownKind reports whether somebody has given the error a kind, beyond what its
// cause says of itself.
func ownKind(e *Error) bool {
	if e.Kind == Other {
		var inner *Error
		return errors.As(e.Err, &inner) && ownKind(inner)
	}
	return e.Kind != kindOfCause(e.Err)
}

// HTTPStatus is what an HTTP client is answered for err: 200 for nil, else the
// status of its kind.
func HTTPStatus(err error) int {
	if err == nil {
		return http.StatusOK
	}
	return kinds[KindOf(err)].status
}
