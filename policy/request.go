package policy

import (
	"fmt"
	"slices"
	"time"

	"atc/fs/errors"
)

// Request is what a guest is told of an HTTP request. Values come as the
// client sent them, so every one but Method, Scheme, Region and Machine is in
// the hands of a stranger.
type Request struct {
	Method string // "GET"
	Scheme string // "http" or "https"
	Host   string // the Host header, with its port where it has one
	Path   string // in escaped form, as net/url's EscapedPath gives it; "*" and "" are let through
	Query  string // raw, without the "?"
	Remote string // the client's address, "192.0.2.7:4711"

	Region  string // of the machine that asks
	Machine string // the machine that asks

	Time time.Time // when it is asked, shown to the second; zero: now

	Header map[string][]string // names in any case; Host is not among them
}

// appendLines writes the request as the text that a guest reads, the headers
// in the order of their names. A value that cannot stand on a line, a path
// that is not escaped, or more than [MaxText] bytes is an error of kind
// Invalid: the client is to blame, and is answered 400.
func (r *Request) appendLines(text []byte) ([]byte, error) {
	if r.Path != "" && r.Path != "*" {
		if err := checkPath(r.Path); err != nil {
			return text, errors.E("read request", "path", errors.Invalid, err)
		}
	}
	at := r.Time
	if at.IsZero() {
		at = time.Now()
	}
	var clock [len("2006-01-02T15:04:05Z")]byte
	for _, line := range [...]struct{ key, value string }{
		{"method", r.Method}, {"scheme", r.Scheme}, {"host", r.Host}, {"path", r.Path}, {"query", r.Query},
		{"remote", r.Remote}, {"region", r.Region}, {"machine", r.Machine},
		{"time", string(at.UTC().AppendFormat(clock[:0], "2006-01-02T15:04:05Z"))},
	} {
		if err := checkValue(line.value); err != nil {
			return text, errors.E("read request", line.key, errors.Invalid, err)
		}
		text = append(text, line.key...)
		text = append(text, ": "...)
		text = append(text, line.value...)
		text = append(text, '\n')
	}

	var room [32]string // most requests have fewer headers: no allocation for them
	names := room[:0]
	for name := range r.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range r.Header[name] {
			start := len(text)
			text = append(text, "header."...)
			for i := 0; i < len(name); i++ {
				c := name[i]
				if 'A' <= c && c <= 'Z' {
					c += 'a' - 'A'
				}
				text = append(text, c)
			}
			err := checkHeaderName(string(text[start+len("header."):]))
			if err == nil {
				err = checkValue(value)
			}
			if err != nil {
				return text, errors.E("read request", fmt.Sprintf("header %.80q", name), errors.Invalid, err)
			}
			text = append(text, ": "...)
			text = append(text, value...)
			text = append(text, '\n')
			if len(text) > MaxText {
				break
			}
		}
	}
	if len(text) > MaxText {
		return text, errors.E("read request", "", errors.Invalid,
			fmt.Errorf("its line and headers take more than %d bytes", MaxText))
	}
	return text, nil
}
