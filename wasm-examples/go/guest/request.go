//go:build wasip1

package guest

import (
	"strings"
	"unsafe"
)

// Request is the HTTP request to decide about, as the client sent it: nine
// lines in a fixed order, then one line a header. It is looked through only
// where a resolver asks: the host's deadline costs some 25 ns at each turn of
// a loop, so that reading a line nobody wants is not free.
type Request struct{ text string }

// Method is "GET" or another one.
func (r Request) Method() string { return r.line(0, len("method: ")) }

// Scheme is "http" or "https".
func (r Request) Scheme() string { return r.line(1, len("scheme: ")) }

// Host is the Host header, perhaps with a port.
func (r Request) Host() string { return r.line(2, len("host: ")) }

// Path is the path, percent-encoded.
func (r Request) Path() string { return r.line(3, len("path: ")) }

// Query is what follows the "?".
func (r Request) Query() string { return r.line(4, len("query: ")) }

// Remote is the client's address and port.
func (r Request) Remote() string { return r.line(5, len("remote: ")) }

// Region is that of the machine that asks.
func (r Request) Region() string { return r.line(6, len("region: ")) }

// Machine is the machine that asks.
func (r Request) Machine() string { return r.line(7, len("machine: ")) }

// Time is when the machine asks, in UTC: 2026-11-21T10:00:00Z.
func (r Request) Time() string { return r.line(8, len("time: ")) }

// Header is the first value of a header, by its lower-case name.
func (r Request) Header(name string) string {
	return lookUp(r.text, "header."+name)
}

// line is line n without its first bytes, the key.
func (r Request) line(n, key int) string {
	text := r.text
	for ; n > 0; n-- {
		text = text[strings.IndexByte(text, '\n')+1:]
	}
	text = text[key:]
	return text[:strings.IndexByte(text, '\n')]
}

// lookUp finds the first value of a key among "key: value" lines.
func lookUp(text, key string) string {
	for text != "" {
		end := strings.IndexByte(text, '\n')
		if end < 0 {
			end = len(text)
		}
		if end >= len(key)+2 && text[:len(key)] == key && text[len(key):len(key)+2] == ": " {
			return text[len(key)+2 : end]
		}
		text = text[min(end+1, len(text)):]
	}
	return ""
}

// requestBuffer holds the text of the request at work. An instance has one
// thread and one request at a time.
var requestBuffer = make([]byte, 4096)

func readRequest() Request {
	var n int
	requestBuffer, n = read(requestBuffer, hostRequest)
	return Request{unsafe.String(unsafe.SliceData(requestBuffer), n)}
}
