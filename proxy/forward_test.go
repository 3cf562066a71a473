package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net/url"
	"testing"
)

func TestPoolKeysAreDistinctHosts(t *testing.T) {
	seen := map[string][2]string{}
	for _, tenant := range []string{"a", "a-1", "a_1", "x", "a-x"} {
		for _, run := range []string{"", "1", "-1", "x", "X", "1:80", "a/b", "a.b", "é", "\x00", "x.31", "3a"} {
			key := poolKey(tenant, run)
			if other, ok := seen[key]; ok {
				t.Errorf("%s %q and %q share %s", tenant, run, other, key)
			}
			seen[key] = [2]string{tenant, run}
			if u, err := url.Parse("http://" + key); err != nil || u.Hostname() != key {
				t.Errorf("%q is no host: %v", key, err)
			}
		}
	}
}

// closesAtEnd is a body as net/http's server has it when the answer begins right
// after the last byte: the end once, then an error.
type closesAtEnd struct {
	*bytes.Buffer
	ended bool
}

func (c *closesAtEnd) Read(p []byte) (int, error) {
	if c.ended {
		return 0, fmt.Errorf("read on closed body")
	}
	n, err := c.Buffer.Read(p)
	c.ended = err == io.EOF
	return n, err
}

func (c *closesAtEnd) Close() error { return nil }

// Without this some answers to POST were cut off: the transport's one read too
// many failed, and it closed the connection that the answer was coming from.
func TestRequestBodyEndsOnce(t *testing.T) {
	b := &requestBody{rc: &closesAtEnd{Buffer: bytes.NewBufferString("body")}}
	if got, err := io.ReadAll(b); string(got) != "body" || err != nil || !b.ended() {
		t.Fatalf("%q %v", got, err)
	}
	if n, err := b.Read(make([]byte, 1)); n != 0 || err != io.EOF || b.failed() != nil {
		t.Errorf("after the end: %d, %v", n, err)
	}
	var none *requestBody
	if none.ended() || none.failed() != nil {
		t.Error("a body that was never read has ended or failed")
	}
}
