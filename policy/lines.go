package policy

import (
	"fmt"
	"slices"
	"strings"

	"atc/fs/errors"
)

// Every text that crosses the boundary between host and guest is a list of
// "key: value" lines. This file holds the one grammar of these lines and the
// rules for names and values, in both directions: no value can end a line
// early and so invent another one.

// MaxText is the largest text in bytes that crosses the boundary in one piece,
// in either direction: a request, a decision, the configuration, a tenant's
// attributes, the list of machines.
const MaxText = 64 << 10

// Lines writes attributes as the text that a guest reads: one "key: value"
// line each, in the order of the keys. Keys are [A-Za-z0-9][A-Za-z0-9._-]{0,62};
// a value with CR, LF or NUL, or more than [MaxText] bytes altogether, is an
// error of kind Invalid that names the key.
func Lines(attributes map[string]string) (string, error) {
	keys := make([]string, 0, len(attributes))
	for key := range attributes {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	var b strings.Builder
	for _, key := range keys {
		if err := checkName(key); err != nil {
			return "", errors.E("write line", fmt.Sprintf("%.80q", key), errors.Invalid, err)
		}
		if err := checkValue(attributes[key]); err != nil {
			return "", errors.E("write line", fmt.Sprintf("%q", key), errors.Invalid, err)
		}
		b.WriteString(key)
		b.WriteString(": ")
		b.WriteString(attributes[key])
		b.WriteString("\n")
		if b.Len() > MaxText {
			return "", errors.E("write line", fmt.Sprintf("%q", key), errors.Invalid,
				fmt.Errorf("the lines up to it take %d bytes: at most %d", b.Len(), MaxText))
		}
	}
	return b.String(), nil
}

// checkValue refuses the three bytes that could end a line, or a C string,
// before its writer meant it to end.
func checkValue(value string) error {
	if i := strings.IndexAny(value, "\r\n\x00"); i >= 0 {
		return fmt.Errorf("its value has %q at byte %d: CR, LF and NUL are refused", value[i], i)
	}
	return nil
}

// checkName accepts the names of machines, regions, applications and of keys
// in a configuration: [A-Za-z0-9][A-Za-z0-9._-]{0,62}. They end up in headers
// and in addresses, so nothing that has a meaning there is let through.
func checkName(name string) error {
	if name == "" {
		return fmt.Errorf("it is empty")
	}
	if len(name) > 63 {
		return fmt.Errorf("%d bytes are too long for a name: at most 63", len(name))
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case (c == '.' || c == '_' || c == '-') && i > 0:
		default:
			return fmt.Errorf("%q at byte %d: a name is letters, digits, '.', '_' and '-', and begins with a letter or digit", c, i)
		}
	}
	return nil
}

// checkHeaderName accepts a lower-case HTTP field name (RFC 9110 token).
func checkHeaderName(name string) error {
	if name == "" {
		return fmt.Errorf("the header's name is empty")
	}
	if len(name) > 128 {
		return fmt.Errorf("the header's name has %d bytes: at most 128", len(name))
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case 'A' <= c && c <= 'Z':
			return fmt.Errorf("%q in the header's name: write it in lower case", c)
		case strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return fmt.Errorf("%q cannot stand in a header's name", c)
		}
	}
	return nil
}

// checkPath accepts an absolute path in its escaped form: what stands between
// the host and the "?" in a request line.
func checkPath(path string) error {
	if !strings.HasPrefix(path, "/") {
		return fmt.Errorf("a path begins with '/'")
	}
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch {
		case c <= ' ' || c >= 0x7f || c == '?' || c == '#' || c == '\\':
			return fmt.Errorf("%q at byte %d: write it percent-encoded", c, i)
		case c == '%' && (i+2 >= len(path) || !isHex(path[i+1]) || !isHex(path[i+2])):
			return fmt.Errorf("'%%' at byte %d is not followed by two hexadecimal digits", i)
		}
	}
	return nil
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}
