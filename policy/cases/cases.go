// Package cases holds a resolver against cases that its author wrote: requests,
// and what is to be decided about each.
//
//	file, err := cases.Parse("cases.toml", text)
//	failures, err := file.Run(ctx, wasm, policy.Options{Name: "own.wasm"})
//
// A file of cases is TOML. What it says above its cases is the world that all of
// them are decided in:
//
//	[config]                              # what the module reads with config
//	domain = "example.com"
//
//	[tenants.acme]                        # a tenant, with its attributes
//	region = "ams"
//
//	[[machines]]                          # a live machine
//	id = "m1"
//	region = "ams"
//	load = 0.25
//
//	[[case]]
//	request = "GET https://acme.example.com/x?y=z"
//	headers = { accept = "text/html", cookie = ["a", "b"] }
//	decision = """
//	tenant: acme
//	"""
//
//	[[case]]
//	name = "while the bucket does not answer"
//	request = "GET https://acme.example.com/"
//	unavailable = true                    # looking up a tenant fails
//	decision = """
//	status: 503
//	"""
//
//	[[case]]
//	request = "GET https://acme.example.org/"
//	error = "refused"                     # a part of the error
//
// A case may also say remote, region and machine, and time, as
// "2026-11-28T22:00:00Z". The order of a decision's lines does not matter.
//
// # Limitations
//
// Each case is decided by the module, never by a decision that was kept.
package cases

import (
	"bytes"
	"context"
	stderrors "errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"atc/fs/errors"
	"atc/policy"
)

// File is a file of cases.
type File struct {
	Name     string                       `toml:"-"`
	Config   map[string]any               `toml:"config"` // texts, whole numbers, true and false
	Tenants  map[string]map[string]string `toml:"tenants"`
	Machines []Machine                    `toml:"machines"`
	Cases    []Case                       `toml:"case"`
}

// Machine is a live machine.
type Machine struct {
	ID     string  `toml:"id"`
	Region string  `toml:"region"`
	Load   float64 `toml:"load"`
	State  string  `toml:"state"` // "started" by default
}

// Case is one request and what becomes of it: a decision or an error.
type Case struct {
	Name        string         `toml:"name"`
	Request     string         `toml:"request"`
	Headers     map[string]any `toml:"headers"` // a text, or a list of texts
	Remote      string         `toml:"remote"`
	Region      string         `toml:"region"`
	Machine     string         `toml:"machine"`
	Time        string         `toml:"time"`
	Unavailable bool           `toml:"unavailable"`

	Decision string `toml:"decision"`
	Error    string `toml:"error"`
}

// Failure is a case that came out otherwise.
type Failure struct {
	Case string // its name, or its request
	Diff string // the lines that were decided and wanted; each begins with '-', '+' or a blank
}

// Parse reads a file of cases. Its errors are of kind Invalid and say where.
func Parse(name string, text []byte) (*File, error) {
	f := &File{Name: name}
	d := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := d.Decode(f); err != nil {
		var strict *toml.StrictMissingError
		var decode *toml.DecodeError
		switch {
		case stderrors.As(err, &strict) && len(strict.Errors) > 0:
			line, _ := strict.Errors[0].Position()
			err = fmt.Errorf("line %d: there is no key %s", line, strings.Join(strict.Errors[0].Key(), "."))
		case stderrors.As(err, &decode):
			line, _ := decode.Position()
			err = fmt.Errorf("line %d: %w", line, err)
		}
		return nil, errors.E("read cases", name, errors.Invalid, err)
	}
	if len(f.Cases) == 0 {
		return nil, errors.E("read cases", name, errors.Invalid, fmt.Errorf("it has no [[case]]"))
	}
	for i := range f.Cases {
		if err := f.Cases[i].check(); err != nil {
			return nil, errors.E("read cases", fmt.Sprintf("%s, case %d, %s", name, i+1, f.Cases[i].title()), errors.Invalid, err)
		}
	}
	if _, err := f.config(); err != nil {
		return nil, errors.E("read cases", name, errors.Invalid, err)
	}
	for id, attributes := range f.Tenants {
		if _, err := policy.Lines(attributes); err != nil {
			return nil, errors.E("read cases", fmt.Sprintf("%s, tenant %s", name, id), errors.Invalid, err)
		}
	}
	return f, nil
}

// config is the configuration as a module reads it.
func (f *File) config() (map[string]string, error) {
	config := make(map[string]string, len(f.Config))
	for key, value := range f.Config {
		switch value.(type) {
		case string, int64, bool:
			config[key] = fmt.Sprint(value)
		default:
			return nil, fmt.Errorf("config %s: write a text, a whole number, true or false", key)
		}
	}
	return config, nil
}

func (c *Case) title() string {
	if c.Name != "" {
		return c.Name
	}
	return c.Request
}

func (c *Case) check() error {
	if _, err := c.request(); err != nil {
		return err
	}
	if (c.Decision == "") == (c.Error == "") {
		return fmt.Errorf("write either decision or error")
	}
	if c.Decision != "" {
		if _, err := policy.ParseDecision(c.Decision); err != nil {
			return err
		}
	}
	return nil
}

// request makes the request that a case is about.
func (c *Case) request() (policy.Request, error) {
	r, err := Request(c.Request)
	if err != nil {
		return r, err
	}
	if c.Remote != "" {
		r.Remote = c.Remote
	}
	r.Region, r.Machine = c.Region, c.Machine
	if c.Time != "" {
		if r.Time, err = time.Parse(time.RFC3339, c.Time); err != nil {
			return r, fmt.Errorf("time %q: write it as \"2026-11-28T22:00:00Z\"", c.Time)
		}
	}
	for name, value := range c.Headers {
		name = http.CanonicalHeaderKey(name)
		switch v := value.(type) {
		case string:
			r.Header[name] = append(r.Header[name], v)
		case []any:
			for _, one := range v {
				s, ok := one.(string)
				if !ok {
					return r, fmt.Errorf("header %s: write a text, or a list of texts", name)
				}
				r.Header[name] = append(r.Header[name], s)
			}
		default:
			return r, fmt.Errorf("header %s: write a text, or a list of texts", name)
		}
	}
	return r, nil
}

// Request makes a request of one line such as "GET https://acme.example.com/x".
// The host, the path and the query are taken as they stand.
func Request(line string) (policy.Request, error) {
	method, target, ok := strings.Cut(line, " ")
	scheme, rest, ok2 := strings.Cut(target, "://")
	if !ok || !ok2 || method == "" || scheme != "http" && scheme != "https" {
		return policy.Request{}, errors.E("read request", fmt.Sprintf("%.200q", line), errors.Invalid,
			fmt.Errorf("write a method and a URL: GET https://acme.example.com/x"))
	}
	host, path := rest, "/"
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		host, path = rest[:i], rest[i:]
	}
	path, query, _ := strings.Cut(path, "?")
	if path == "" {
		path = "/"
	}
	if u, err := url.ParseRequestURI(path); err == nil {
		path = u.EscapedPath() // as a server gives it to its handler
	}
	return policy.Request{
		Method: method, Scheme: scheme, Host: host, Path: path, Query: query, Remote: "192.0.2.1:50000",
		Header: map[string][]string{},
	}, nil
}

// Run loads the module with the file's configuration, in its world, and has it
// decide each case. The error is that of a module that cannot be loaded.
func (f *File) Run(ctx context.Context, wasm []byte, opts policy.Options) ([]Failure, error) {
	var err error
	if opts.Config, err = f.config(); err != nil {
		return nil, err
	}
	w := &world{file: f}
	opts.World = w
	r, err := policy.Load(ctx, wasm, opts)
	if err != nil {
		return nil, err
	}
	defer r.Close(context.WithoutCancel(ctx))
	var failures []Failure
	for i := range f.Cases {
		c := &f.Cases[i]
		request, err := c.request()
		if err != nil {
			return nil, err
		}
		r.ForgetAll()
		w.unavailable = c.Unavailable
		d, err := r.Resolve(ctx, request)
		if diff := c.compare(d, err); diff != "" {
			failures = append(failures, Failure{c.title(), diff})
		}
	}
	return failures, nil
}

// compare is empty where a case came out as wanted.
func (c *Case) compare(d policy.Decision, err error) string {
	switch {
	case c.Error != "" && err == nil:
		return fmt.Sprintf("- error: ...%s...\n%s", c.Error, prefixed("+ ", d.String()))
	case c.Error != "" && strings.Contains(err.Error(), c.Error):
		return ""
	case c.Error != "":
		return fmt.Sprintf("- error: ...%s...\n+ error: %v\n", c.Error, err)
	}
	want, _ := policy.ParseDecision(c.Decision) // checked by Parse
	if err != nil {
		return prefixed("- ", want.String()) + fmt.Sprintf("+ error: %v\n", err)
	}
	return diff(want.String(), d.String())
}

// diff shows the lines of both decisions, whose keys are in one order; it is
// empty where they are the same.
func diff(want, got string) string {
	if want == got {
		return ""
	}
	w, g := strings.SplitAfter(want, "\n"), strings.SplitAfter(got, "\n")
	var b strings.Builder
	for _, line := range w {
		if line == "" {
			continue
		}
		mark := "- "
		if slices.Contains(g, line) {
			mark = "  "
		}
		b.WriteString(mark + line)
	}
	for _, line := range g {
		if line != "" && !slices.Contains(w, line) {
			b.WriteString("+ " + line)
		}
	}
	return b.String()
}

func prefixed(mark, text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(mark + line)
	}
	return b.String()
}

// World is what the file says there is.
func (f *File) World() policy.World { return &world{file: f} }

// world is a file's; unavailable is set between the calls.
type world struct {
	file        *File
	unavailable bool
}

var _ policy.World = (*world)(nil)

func (w *world) Recall(string) (string, bool, bool) { return "", false, false }

func (w *world) Tenant(_ context.Context, id string) (string, bool, error) {
	if w.unavailable {
		return "", false, errors.E("look up tenant", id, errors.Unavailable, fmt.Errorf("the case says so"))
	}
	attributes, ok := w.file.Tenants[id]
	if !ok {
		return "", false, nil
	}
	text, err := policy.Lines(attributes)
	return text, true, err
}

func (w *world) Machines(context.Context) []policy.Machine {
	var list []policy.Machine
	for _, m := range w.file.Machines {
		if m.State == "" {
			m.State = "started"
		}
		list = append(list, policy.Machine(m))
	}
	return list
}
