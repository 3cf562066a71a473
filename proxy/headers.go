// This file says which headers an application gets beyond those of the client:
// who the client was (X-Forwarded-*, X-Real-Ip), which tenant this is
// (Atc-Tenant), which request (X-Request-Id). It is its own file because each
// of them is something an application trusts and a client would like to forge.

package proxy

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
)

const (
	tenantHeader    = "Atc-Tenant"
	requestIDHeader = "X-Request-Id"

	// maxRequestID bounds a client's own X-Request-Id, in bytes.
	maxRequestID = 128
)

// sameName reports whether two header names mean the same to an application
// that gets them as CGI variables, where case is lost and '-' becomes '_'.
func sameName(a, b string) bool {
	return len(a) == len(b) && hasNamePrefix(a, b)
}

func hasNamePrefix(name, prefix string) bool {
	if len(name) < len(prefix) {
		return false
	}
	for i := 0; i < len(prefix); i++ {
		if fold(name[i]) != fold(prefix[i]) {
			return false
		}
	}
	return true
}

func fold(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c + 'a' - 'A'
	case c == '_':
		return '-'
	}
	return c
}

// validName reports whether name is a token, as RFC 9110 defines it.
func validName(name string) bool {
	const symbols = "!#$%&'*+-.^_`|~"
	for i := 0; i < len(name); i++ {
		c := fold(name[i])
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte(symbols, c) >= 0) {
			return false
		}
	}
	return name != ""
}

// validValue reports whether value can stand in a header without ending it.
func validValue(value string) bool {
	for i := 0; i < len(value); i++ {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// reserved reports whether a client's own header of this name is dropped: those
// that only the proxy may set, "Proxy", which CGI programs read as HTTP_PROXY,
// and second spellings of what frames a message (Content_Length).
func reserved(name string) bool {
	return hasNamePrefix(name, "Atc-") || hasNamePrefix(name, "X-Forwarded") ||
		sameName(name, "Forwarded") || sameName(name, "X-Real-Ip") || sameName(name, "Proxy") ||
		strings.Contains(name, "_") && framing(name)
}

// framing reports whether a header belongs to the connection or to the framing
// of the message, so that nobody but net/http may write it.
func framing(name string) bool {
	for _, h := range [...]string{
		"Host", "Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "Te", "Trailer",
		"Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Expect",
	} {
		if sameName(name, h) {
			return true
		}
	}
	return false
}

// rewrite turns the client's request into the application's. httputil has
// removed hop-by-hop headers from pr.Out before.
func (p *Proxy) rewrite(pr *httputil.ProxyRequest) {
	x := exchangeOf(pr.In.Context())
	out := pr.Out
	out.Host = pr.In.Host
	out.URL.Scheme = "http" // between us and the application
	out.URL.User = nil
	out.URL.RawQuery = pr.In.URL.RawQuery // untouched: httputil drops what it cannot parse
	out.Trailer = pr.In.Trailer           // shared, not copied: it is filled in when the body ends

	if out.Body != nil {
		x.body = &requestBody{rc: out.Body}
		out.Body = x.body
	}

	from := clientOf(pr.In, p.opt.TrustedProxies)
	for name := range out.Header {
		if reserved(name) && !(from.trusted && strings.HasPrefix(name, "X-Forwarded-") && !strings.Contains(name, "_")) {
			delete(out.Header, name)
		}
	}
	from.write(out.Header)

	if x.decision.Path != "" {
		prefix, cut := strings.CutSuffix(pr.In.URL.EscapedPath(), x.decision.Path)
		if u, err := url.ParseRequestURI(x.decision.Path); err == nil {
			out.URL.Path, out.URL.RawPath = u.Path, u.RawPath
		}
		if cut && strings.HasPrefix(prefix, "/") {
			out.Header.Set("X-Forwarded-Prefix", prefix)
		}
	}
	for _, h := range x.decision.SetHeader {
		out.Header.Set(h.Name, h.Value)
	}
	out.Header.Set(requestIDHeader, x.id)
	out.Header.Set(tenantHeader, x.decision.Tenant)
}

// client is who sent a request, as far as that can be believed.
type client struct {
	trusted bool       // the peer is one of our own proxies
	addr    netip.Addr // nearest address that is not a trusted proxy; may be invalid
	chain   string     // X-Forwarded-For, ending with the peer
	proto   string
	host    string
	port    string
}

func clientOf(r *http.Request, trusted []netip.Prefix) client {
	c := client{proto: "http", host: r.Host}
	if r.TLS != nil {
		c.proto = "https"
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err == nil { // a unix socket's peer has no address, and so is not trusted
		c.addr = peer.Addr().Unmap()
		c.chain = c.addr.String()
		c.trusted = contains(trusted, c.addr)
	}
	if c.trusted {
		if proto := strings.ToLower(firstOf(r.Header["X-Forwarded-Proto"])); proto == "http" || proto == "https" {
			c.proto = proto
		}
		if host := firstOf(r.Header["X-Forwarded-Host"]); host != "" && checkHost(host) == nil {
			c.host = host
		}
		if port := firstOf(r.Header["X-Forwarded-Port"]); checkPort(port) == nil {
			c.port = port
		}
		if prior := strings.Join(r.Header["X-Forwarded-For"], ", "); prior != "" {
			c.chain = prior + ", " + c.chain
			c.addr = nearest(prior, c.addr, trusted)
		}
	}
	if c.port == "" {
		c.port = portOf(c.host, c.proto)
	}
	return c
}

// nearest walks X-Forwarded-For from its end to the first address that is not
// one of our own proxies; whatever stands before that may be invented.
func nearest(chain string, peer netip.Addr, trusted []netip.Prefix) netip.Addr {
	hops := strings.Split(chain, ",")
	addr := peer
	for i := len(hops) - 1; i >= 0 && contains(trusted, addr); i-- {
		next, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		addr = next.Unmap()
	}
	return addr
}

func (c client) write(h http.Header) {
	values := [...]string{c.chain, c.proto, c.host, c.port, c.chain} // one allocation for all
	if c.trusted {
		values[4] = c.addr.String()
	}
	if c.chain != "" {
		h["X-Forwarded-For"] = values[0:1:1]
		h["X-Real-Ip"] = values[4:5:5]
	}
	h["X-Forwarded-Proto"] = values[1:2:2]
	h["X-Forwarded-Host"] = values[2:3:3]
	h["X-Forwarded-Port"] = values[3:4:4]
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// firstOf is the first element of a header that may be a comma-separated list.
func firstOf(values []string) string {
	if len(values) == 0 {
		return ""
	}
	first, _, _ := strings.Cut(values[0], ",")
	return strings.TrimSpace(first)
}

func portOf(host, proto string) string {
	if _, port, err := net.SplitHostPort(host); err == nil && port != "" {
		return port
	}
	if proto == "https" {
		return "443"
	}
	return "80"
}

// requestID is the client's X-Request-Id where it is fit for a log line and an
// error page, else a new one.
func requestID(r *http.Request) string {
	if id := r.Header.Get(requestIDHeader); id != "" && len(id) <= maxRequestID && strings.Trim(id, requestIDChars) == "" {
		return id
	}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], rand.Uint64())
	return hex.EncodeToString(b[:])
}

// requestIDChars are the characters of UUIDs, ULIDs, base64 and trace IDs.
const requestIDChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/+="
