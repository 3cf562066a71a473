package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"atc/fs/errors"
	"atc/fs/tenant/tenantid"
)

// Decision is a guest's answer, checked: either a tenant and how to reach it,
// or a status to answer with. Every field is fit for the place it is used in:
// names for a header or an address, the path for a request line.
type Decision struct {
	Tenant  string // a valid tenant ID, or "" where Status is set
	App     string // the application to run; "" for the only one
	Machine string // must run on this machine
	Region  string // must run in this region
	Prefer  string // start it on this machine if it runs nowhere yet
	Path    string // the path to forward, escaped; "" leaves it as it came

	// SetHeader are headers to set, lower-case names, on the request that is
	// forwarded or, where Status is set, on the answer.
	SetHeader []Header

	CacheKey []string      // request keys that the decision depends on; empty: do not cache
	CacheFor time.Duration // whole seconds, up to a day

	Status   int    // 200-599, or 0
	Location string // for a status 201 or 3xx
	Body     string // one line of text
}

// ParseDecision reads a decision as a guest writes it.
func ParseDecision(text string) (Decision, error) {
	d, err := parseDecision([]byte(text))
	if err != nil {
		return Decision{}, errors.E("read decision", "", errors.Invalid, err)
	}
	return d, nil
}

// String is the decision as a guest writes it, in the order of the specification
// and with its headers sorted.
func (d Decision) String() string {
	var b strings.Builder
	line := func(key, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s: %s\n", key, value)
		}
	}
	line("tenant", d.Tenant)
	line("app", d.App)
	line("machine", d.Machine)
	line("region", d.Region)
	line("prefer", d.Prefer)
	line("path", d.Path)
	if d.Status != 0 {
		line("status", strconv.Itoa(d.Status))
	}
	line("location", d.Location)
	line("body", d.Body)
	headers := slices.SortedFunc(slices.Values(d.SetHeader), func(a, b Header) int { return strings.Compare(a.Name, b.Name) })
	for _, h := range headers {
		fmt.Fprintf(&b, "set-header.%s: %s\n", h.Name, h.Value)
	}
	if d.CacheFor > 0 {
		line("cache", fmt.Sprintf("%s %d", strings.Join(d.CacheKey, " "), d.CacheFor/time.Second))
	}
	return b.String()
}

// Header is one header to set.
type Header struct{ Name, Value string }

// Limits of one decision.
const (
	maxSetHeaders = 32
	maxCacheParts = 8
	maxCacheFor   = 24 * time.Hour
)

// single are the keys that may stand once each; "set-header.<name>" may too,
// once for each name.
var single = [...]string{"tenant", "app", "machine", "region", "prefer", "path", "cache", "status", "location", "body"}

// reservedHeaders are those that the proxy writes itself or that govern how a
// message is framed: a resolver that could set them could forge a tenant or
// split a request.
var reservedHeaders = [...]string{
	"connection", "content-length", "expect", "forwarded", "host", "keep-alive", "te", "trailer", "transfer-encoding",
	"upgrade", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto",
}

// parser reads the lines of one decision. seen holds, for each key of single,
// the line that it stood on, so that two lines that disagree are both named.
type parser struct {
	d       Decision
	seen    [len(single)]int
	headers []int // the lines of d.SetHeader
}

// parseDecision reads what a guest handed to decide. Unknown, repeated and
// contradicting lines are errors that name the lines.
func parseDecision(text []byte) (Decision, error) {
	if len(text) > MaxText {
		return Decision{}, fmt.Errorf("the decision has %d bytes: at most %d", len(text), MaxText)
	}
	var p parser
	rest := string(text)
	for n := 1; rest != ""; n++ {
		var line string
		line, rest, _ = strings.Cut(rest, "\n")
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			return Decision{}, fmt.Errorf("line %d: %.80q is not a \"key: value\" line", n, line)
		}
		value = strings.TrimPrefix(value, " ")
		err := checkValue(value)
		if err == nil {
			err = p.line(n, key, value)
		}
		if err != nil {
			return Decision{}, fmt.Errorf("line %d: %.80q: %w", n, key, err)
		}
	}
	if err := p.agree(); err != nil {
		return Decision{}, err
	}
	return p.d, nil
}

// line takes one line in.
func (p *parser) line(n int, key, value string) error {
	if name, ok := strings.CutPrefix(key, "set-header."); ok {
		return p.header(n, name, value)
	}
	i := slices.Index(single[:], key)
	if i < 0 {
		return fmt.Errorf("no such key: a decision has %s and set-header.<name>", strings.Join(single[:], ", "))
	}
	if p.seen[i] != 0 {
		return fmt.Errorf("it stands on line %d already", p.seen[i])
	}
	p.seen[i] = n
	var err error
	switch key {
	case "tenant":
		// Not wrapped: that the ID is malformed is the guest's failure, not an
		// invalid request, so the kind must not come through.
		if bad := tenantid.Check(value); bad != nil {
			err = fmt.Errorf("%v", bad)
		}
		p.d.Tenant = value
	case "app":
		p.d.App, err = value, checkName(value)
	case "machine":
		p.d.Machine, err = value, checkName(value)
	case "region":
		p.d.Region, err = value, checkName(value)
	case "prefer":
		p.d.Prefer, err = value, checkName(value)
	case "path":
		p.d.Path, err = value, checkPath(value)
	case "cache":
		p.d.CacheKey, p.d.CacheFor, err = parseCache(value)
	case "status":
		p.d.Status, err = parseStatus(value)
	case "location":
		p.d.Location, err = value, checkLocation(value)
	case "body":
		p.d.Body = value
	}
	return err
}

func (p *parser) header(n int, name, value string) error {
	if err := checkHeaderName(name); err != nil {
		return err
	}
	if slices.Contains(reservedHeaders[:], name) || strings.HasPrefix(name, "atc-") || strings.HasPrefix(name, "proxy-") {
		return fmt.Errorf("this header belongs to the proxy")
	}
	for i := 0; i < len(value); i++ {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return fmt.Errorf("%q at byte %d cannot stand in a header", c, i)
		}
	}
	for i, h := range p.d.SetHeader {
		if h.Name == name {
			return fmt.Errorf("it stands on line %d already", p.headers[i])
		}
	}
	if len(p.d.SetHeader) == maxSetHeaders {
		return fmt.Errorf("a decision sets at most %d headers", maxSetHeaders)
	}
	p.d.SetHeader = append(p.d.SetHeader, Header{Name: name, Value: value})
	p.headers = append(p.headers, n)
	return nil
}

// at is the line that a key stood on, 0 where it did not.
func (p *parser) at(key string) int { return p.seen[slices.Index(single[:], key)] }

// agree checks what only the whole decision can show.
func (p *parser) agree() error {
	if p.at("tenant") == 0 && p.at("status") == 0 {
		return fmt.Errorf("the decision has neither a tenant nor a status line")
	}
	leader, others := "tenant", []string{"status", "location", "body"}
	if p.at("tenant") == 0 {
		leader, others = "status", []string{"app", "machine", "region", "prefer", "path"}
	}
	for _, key := range others {
		if n := p.at(key); n != 0 {
			return fmt.Errorf("line %d (%s) and line %d (%s) contradict each other: a decision either leads to a tenant or answers itself",
				p.at(leader), leader, n, key)
		}
	}
	for _, key := range []string{"region", "prefer"} {
		if n, m := p.at(key), p.at("machine"); n != 0 && m != 0 {
			return fmt.Errorf("line %d (machine) and line %d (%s) contradict each other: a machine leaves nothing to choose", m, n, key)
		}
	}
	if n := p.at("cache"); n != 0 && p.at("path") != 0 && !slices.Contains(p.d.CacheKey, "path") {
		return fmt.Errorf("line %d (path) and line %d (cache) contradict each other: a rewritten path can only be kept by path", p.at("path"), n)
	}
	if n := p.at("location"); n != 0 && p.d.Status != 201 && p.d.Status/100 != 3 {
		return fmt.Errorf("line %d (status) and line %d (location) contradict each other: status %d has no location", p.at("status"), n, p.d.Status)
	}
	if n := p.at("body"); n != 0 && (p.d.Status == 204 || p.d.Status == 304) {
		return fmt.Errorf("line %d (status) and line %d (body) contradict each other: status %d has no body", p.at("status"), n, p.d.Status)
	}
	return nil
}

func parseStatus(value string) (int, error) {
	status, err := strconv.Atoi(value)
	if err != nil || len(value) != 3 || status < 200 || status > 599 {
		return 0, fmt.Errorf("%.20q is not a status from 200 to 599", value)
	}
	return status, nil
}

func checkLocation(value string) error {
	if value == "" {
		return fmt.Errorf("it is empty")
	}
	for i := 0; i < len(value); i++ {
		if c := value[i]; c <= ' ' || c >= 0x7f {
			return fmt.Errorf("%q at byte %d: write it percent-encoded", c, i)
		}
	}
	return nil
}

// parseCache reads "<key parts> <seconds>". A part is a key of the request
// that differs between requests.
func parseCache(value string) ([]string, time.Duration, error) {
	fields := strings.Split(value, " ")
	parts, last := fields[:len(fields)-1], fields[len(fields)-1]
	if len(parts) == 0 {
		return nil, 0, fmt.Errorf("write the keys that the decision depends on, then seconds: \"host 60\"")
	}
	if len(parts) > maxCacheParts {
		return nil, 0, fmt.Errorf("%d key parts: at most %d", len(parts), maxCacheParts)
	}
	for i, part := range parts {
		if slices.Contains(parts[:i], part) {
			return nil, 0, fmt.Errorf("the key part %.80q stands twice", part)
		}
		if name, ok := strings.CutPrefix(part, "header."); ok {
			if err := checkHeaderName(name); err != nil {
				return nil, 0, err
			}
			continue
		}
		switch part {
		case "method", "scheme", "host", "path", "query", "remote":
		default:
			return nil, 0, fmt.Errorf("%.80q is no key part: those are method, scheme, host, path, query, remote and header.<name>", part)
		}
	}
	seconds, err := strconv.ParseUint(last, 10, 32)
	cacheFor := time.Duration(seconds) * time.Second
	if err != nil || seconds == 0 || cacheFor > maxCacheFor {
		return nil, 0, fmt.Errorf("%.80q is not a number of seconds from 1 to %d", last, int(maxCacheFor/time.Second))
	}
	return parts, cacheFor, nil
}
