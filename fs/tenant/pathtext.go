package tenant

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// This file defines how paths stand in JSON. A file name on Linux is any bytes
// but "/" and NUL, JSON is Unicode: a byte that is not UTF-8 stands as NUL and
// two hexadecimal digits, so that no two names become one.

// pathText is a path as it stands in JSON.
func pathText(path string) string {
	if utf8.ValidString(path) {
		return path
	}
	var b strings.Builder
	for len(path) > 0 {
		r, n := utf8.DecodeRuneInString(path)
		if r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, "\x00%02x", path[0])
		} else {
			b.WriteString(path[:n])
		}
		path = path[n:]
	}
	return b.String()
}

// parsePathText is the opposite of pathText. It reports false for what pathText
// does not write.
func parsePathText(text string) (string, bool) {
	if !strings.ContainsRune(text, 0) {
		return text, true
	}
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "\x00")
		b.WriteString(before)
		if !found {
			break
		}
		var c byte
		if len(rest) < 2 {
			return "", false
		}
		if _, err := fmt.Sscanf(rest[:2], "%02x", &c); err != nil {
			return "", false
		}
		b.WriteByte(c)
		text = rest[2:]
	}
	return b.String(), pathText(b.String()) != b.String()
}
