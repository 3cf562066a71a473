// This file refuses requests that no application should have to think about,
// before a resolver is asked and anything is opened. net/http already refuses
// broken framing, duplicate Host and control characters in headers; these are
// the checks it leaves to its user.

package proxy

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"atc/fs/errors"
)

// maxHost is the longest host in bytes: that of a DNS name.
const maxHost = 253

// checkRequest reports why a request is refused. An error of kind Invalid is
// answered 400; the other statuses come as a statusError.
func (p *Proxy) checkRequest(r *http.Request) error {
	if len(r.RequestURI) > p.opt.MaxURIBytes {
		return &statusError{status: http.StatusRequestURITooLong, err: fmt.Errorf("a request target of %d bytes", len(r.RequestURI))}
	}
	if r.Method == http.MethodConnect {
		return &statusError{status: http.StatusMethodNotAllowed, err: fmt.Errorf("CONNECT is not offered")}
	}
	if err := checkHost(r.Host); err != nil {
		return errors.E("read request", "host", errors.Invalid, err)
	}
	if s := r.URL.Scheme; s != "" && s != "http" && s != "https" {
		return errors.E("read request", "target", errors.Invalid, fmt.Errorf("scheme %q", s))
	}
	if err := checkPath(r.URL); err != nil {
		return errors.E("read request", "path", errors.Invalid, err)
	}
	return nil
}

// checkHost accepts a DNS name (underscores too, and one dot at the end), an
// IPv4 address or a bracketed IPv6 address, with a port or without.
func checkHost(host string) error {
	name, port, hasPort := host, "", false
	if strings.HasPrefix(host, "[") {
		end := strings.IndexByte(host, ']')
		if end < 0 {
			return fmt.Errorf("a bracket is not closed")
		}
		ip, err := netip.ParseAddr(host[1:end])
		if err != nil || !ip.Is6() || ip.Zone() != "" {
			return fmt.Errorf("no IPv6 address between the brackets")
		}
		port, hasPort = strings.CutPrefix(host[end+1:], ":")
		if !hasPort && port != "" {
			return fmt.Errorf("text follows the bracket")
		}
	} else {
		name, port, hasPort = strings.Cut(host, ":")
		if err := checkName(name); err != nil {
			return err
		}
	}
	if hasPort {
		return checkPort(port)
	}
	return nil
}

func checkPort(port string) error {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("the port is not a number from 1 to 65535")
	}
	return nil
}

func checkName(name string) error {
	name = strings.TrimSuffix(name, ".")
	if name == "" {
		return fmt.Errorf("there is no name")
	}
	if len(name) > maxHost {
		return fmt.Errorf("the name is longer than %d bytes", maxHost)
	}
	label := 0
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case c == '.':
			if label == 0 {
				return fmt.Errorf("a label is empty")
			}
			label = 0
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			if label++; label > 63 {
				return fmt.Errorf("a label is longer than 63 bytes")
			}
		default:
			return fmt.Errorf("character %q", c)
		}
	}
	if label == 0 {
		return fmt.Errorf("a label is empty")
	}
	return nil
}

// checkPath refuses control characters and dot segments, however they are
// escaped: clients resolve dot segments themselves, so one that arrives wants
// the resolver and the application to see different paths. An escaped slash
// alone is legitimate (package registries use it) and passes.
func checkPath(u *url.URL) error {
	if u.Opaque != "" || (!strings.HasPrefix(u.Path, "/") && u.Path != "") {
		return fmt.Errorf("it is not absolute")
	}
	start := 0
	for i := 0; i <= len(u.Path); i++ {
		if i < len(u.Path) {
			c := u.Path[i]
			if c < ' ' || c == 0x7f {
				return fmt.Errorf("control character %#02x", c)
			}
			if c != '/' && c != '\\' {
				continue
			}
		}
		if s := u.Path[start:i]; s == "." || s == ".." {
			return fmt.Errorf("segment %q", s)
		}
		start = i + 1
	}
	return nil
}
