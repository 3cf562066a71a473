package sandbox

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"atc/fs/errors"
)

// This file defines what a caller may ask of a sandbox and what it gets when it
// asks for nothing. It is apart because everything here is checked without
// touching a file: the folders themselves are the init's to look at.

// Defaults of a [Spec].
const (
	DefaultMount = "/data"
	DefaultPort  = 8080
	DefaultPath  = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	DefaultTmp   = 256 << 20
)

// Spec describes one process. It is read by Start and not kept.
type Spec struct {
	// Name is the tenant: the host name inside, and the object of every error.
	// It must be a host name of at most 64 bytes.
	Name string

	// Dir is the host folder that is bound, writable, at Mount (default
	// [DefaultMount]). Both are absolute. The folder that contains Dir is
	// hidden as if Hide named it, since other tenants' folders are there.
	Dir, Mount string

	// Command is the program and its arguments. A name without a slash is
	// looked up in PATH inside the sandbox. A program named by an absolute path
	// that no bound folder shows is bound by itself, read-only.
	Command []string

	// Workdir is the working directory inside; default Mount.
	Workdir string

	// Env is the environment, as KEY=value. PATH, HOME (= Mount) and PORT are
	// added where it does not set them; nothing else is.
	Env []string

	// Binds are further folders or files of the host to show, read-only.
	Binds []Bind

	// Hide lists host folders and files that must not be seen even where a bind
	// would show them: the mountpoint with all tenants, caches, stores,
	// configuration. Each must exist, so that none appears later.
	Hide []string

	// Port is where the program listens on its loopback; default [DefaultPort].
	Port int

	// TmpSize bounds /tmp in bytes of memory; default [DefaultTmp].
	TmpSize int64

	// User is whom the program runs as; nil means as the caller. In a user
	// namespace the ids must be mapped there.
	User *User

	// Stdout and Stderr receive the program's output, each from one goroutine;
	// nil discards. A writer that blocks makes the program block.
	Stdout, Stderr io.Writer
}

// Bind shows Source of the host at Target (default: the same path), read-only.
type Bind struct{ Source, Target string }

// User is a numeric user and group. Supplementary groups are always dropped.
type User struct{ Uid, Gid uint32 }

// plan is a complete Spec in the form in which the init receives it.
type plan struct {
	Name    string
	Dir     string
	Mount   string
	Command []string
	Workdir string
	Env     []string
	Binds   []Bind
	Hide    []string
	TmpSize int64
	User    *User
}

// complete checks a Spec and fills in its defaults.
func (s Spec) complete() (plan, int, error) {
	p := plan{
		Name: s.Name, Dir: s.Dir, Mount: s.Mount, Command: s.Command, Workdir: s.Workdir,
		Env: slices.Clone(s.Env), Binds: slices.Clone(s.Binds), TmpSize: s.TmpSize, User: s.User,
	}
	bad := func(format string, args ...any) (plan, int, error) {
		return plan{}, 0, errors.E("start", s.Name, errors.Invalid, fmt.Errorf(format, args...))
	}
	if p.Mount == "" {
		p.Mount = DefaultMount
	}
	if p.Workdir == "" {
		p.Workdir = p.Mount
	}
	if p.TmpSize == 0 {
		p.TmpSize = DefaultTmp
	}
	port := s.Port
	if port == 0 {
		port = DefaultPort
	}
	switch {
	case s.Name == "" || len(s.Name) > 64 || strings.ContainsAny(s.Name, "/\x00\n"):
		return bad("the name must have 1 to 64 bytes and no slash")
	case len(s.Command) == 0 || s.Command[0] == "":
		return bad("no command")
	case port < 1 || port > 65535:
		return bad("port %d is not between 1 and 65535", port)
	case p.TmpSize < 0:
		return bad("a /tmp of %d bytes", p.TmpSize)
	}
	for i, b := range p.Binds {
		if b.Target == "" {
			p.Binds[i].Target = b.Source
		}
	}
	for _, b := range append(slices.Clone(p.Binds), Bind{p.Dir, p.Mount}) {
		if !cleanAbs(b.Source) || !cleanAbs(b.Target) || b.Target == "/" {
			return bad("cannot bind %q at %q: both must be clean absolute paths, and the target not /", b.Source, b.Target)
		}
	}
	for _, b := range p.Binds {
		if within(p.Mount, b.Target) {
			return bad("cannot bind %s at %s: %s is the tenant's own", b.Source, b.Target, p.Mount)
		}
	}
	for _, h := range s.Hide {
		if !cleanAbs(h) {
			return bad("cannot hide %q: not a clean absolute path", h)
		}
	}
	p.Hide = slices.Clone(s.Hide)
	if parent := filepath.Dir(p.Dir); parent != "/" {
		p.Hide = append(p.Hide, parent)
	}
	for _, kv := range p.Env {
		if i := strings.IndexByte(kv, '='); i < 1 || strings.IndexByte(kv, 0) >= 0 {
			return bad("environment entry %q is not KEY=value", kv)
		}
	}
	for _, kv := range []string{"PATH=" + DefaultPath, "HOME=" + p.Mount, "PORT=" + strconv.Itoa(port)} {
		key := kv[:strings.IndexByte(kv, '=')+1]
		if !slices.ContainsFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, key) }) {
			p.Env = append(p.Env, kv)
		}
	}
	return p, port, nil
}

func cleanAbs(path string) bool {
	return filepath.IsAbs(path) && filepath.Clean(path) == path && strings.IndexByte(path, 0) < 0
}

// within reports whether path is folder or below it; both are clean.
func within(folder, path string) bool {
	return path == folder || strings.HasPrefix(path, strings.TrimSuffix(folder, "/")+"/")
}
