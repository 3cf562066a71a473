package config

import (
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"atc/fs/history"
	"atc/fs/tenant"
	"atc/fs/volume/localonly"
	"atc/policy"
)

// What values are allowed, beyond their types. Everything that can be seen from
// the configuration alone is checked here, at start, and not when the first
// request runs into it.

// name is what a machine and a region may be called: they get into the bucket's
// keys, into headers and addresses.
var name = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// variable is the name of an environment variable.
var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// wasmSuffix tells a module's path from a built-in resolver's name.
const wasmSuffix = ".wasm"

func (r *reader) check(c *Config) {
	r.address("listen", c.Listen)
	r.folder("mount", c.Mount)
	r.cache(c)
	r.store(c)
	// Shorter, and the bucket is asked to take one object a commit.
	r.duration("ship_interval", c.ShipInterval, 10*time.Millisecond)
	r.durationOrNever("hydrate_after", c.HydrateAfter, time.Millisecond)
	r.oneOf("durability", c.Durability, "async", "commit")
	r.duration("heartbeat", c.Heartbeat, 100*time.Millisecond)
	r.duration("lease", c.Lease, 100*time.Millisecond)
	if c.Lease < 2*c.Heartbeat || c.Lease > tenant.MaxLease {
		r.problem("lease", "%s does not fit: write at least two heartbeats (%s) and at most %s", c.Lease, 2*c.Heartbeat, tenant.MaxLease)
	}
	if c.CacheLimit != 0 {
		r.size("cache_limit", c.CacheLimit, 16<<20, 1<<60)
	}
	r.duration("release_after", c.ReleaseAfter, 100*time.Millisecond)
	r.oneOf("passthrough", c.Passthrough, "auto", "off")
	r.name("region", c.Region)
	r.name("machine", c.Machine)

	// A file that was replaced stays at least that long: somebody may read it.
	r.duration("history.every_commit", c.History.EveryCommit, history.DefaultPolicy().Grace)
	r.duration("history.every_five_minutes", c.History.EveryFiveMins, c.History.EveryCommit)
	r.duration("history.every_hour", c.History.EveryHour, c.History.EveryFiveMins)

	r.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	r.oneOf("log.format", c.Log.Format, "text", "json")

	if !strings.HasSuffix(c.Policy.Resolver, wasmSuffix) {
		r.oneOf("policy.resolver", c.Policy.Resolver, append(policy.BuiltinNames(), "/path/to/resolver.wasm")...)
	}
	for _, key := range slices.Sorted(maps.Keys(c.Policy.Config)) {
		if _, err := policy.Lines(map[string]string{key: c.Policy.Config[key]}); err != nil {
			r.problem("policy.config."+quoted(key), "a resolver cannot read it: %v", err)
		}
	}
	r.duration("policy.deadline", c.Policy.Deadline, time.Millisecond)
	r.size("policy.memory_limit", c.Policy.MemoryLimit, 64<<10, 4<<30) // one page, and all that 32 bits address

	r.application(&c.App)

	r.size("proxy.max_header", c.Proxy.MaxHeader, 1<<10, 16<<20)
	r.duration("proxy.header_timeout", c.Proxy.HeaderTimeout, time.Millisecond)
	r.duration("proxy.response_timeout", c.Proxy.ResponseTimeout, time.Millisecond)
	r.duration("proxy.client_idle", c.Proxy.ClientIdle, time.Millisecond)
	r.duration("proxy.upstream_idle", c.Proxy.UpstreamIdle, time.Millisecond)
	r.duration("proxy.drain_timeout", c.Proxy.DrainTimeout, time.Millisecond)
}

func (r *reader) application(app *App) {
	if len(app.Command) == 0 || app.Command[0] == "" {
		r.problem("app.command", `it is missing: write the program and its arguments, such as ["/app/server", "--verbose"]`)
	}
	for i, arg := range app.Command {
		if strings.Contains(arg, "\x00") {
			r.problem("app.command", "argument %d has a NUL byte", i)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(app.Env)) {
		switch {
		case !variable.MatchString(key):
			r.problem("app.env."+quoted(key), "not a name of letters, digits and '_'")
		case key == "PORT":
			r.problem("app.env.PORT", "it is set to app.port: write that instead")
		case key == "ATC_TENANT":
			r.problem("app.env.ATC_TENANT", "it is set to the tenant's name")
		case strings.Contains(app.Env[key], "\x00"):
			r.problem("app.env."+key, "its value has a NUL byte")
		}
	}
	r.number("app.port", app.Port, 1, 65535)
	r.folder("app.mount", app.Mount)
	if u, err := url.Parse(app.Health); app.Health != "" && (err != nil || !strings.HasPrefix(app.Health, "/") || u.Host != "" || u.Fragment != "") {
		r.problem("app.health", `%q is not a path: write one such as "/health", or "" to wait for a connection only`, app.Health)
	}
	r.duration("app.start_timeout", app.StartTimeout, time.Millisecond)
	r.durationOrNever("app.idle_timeout", app.IdleTimeout, time.Millisecond)
	r.duration("app.stop_grace", app.StopGrace, 0)
	r.number("app.max_waiting", app.MaxWaiting, 1, 1_000_000)
	for i, pattern := range app.LocalOnly {
		if _, err := localonly.Parse([]string{pattern}); err != nil {
			r.problem("app.local_only["+strconv.Itoa(i)+"]", "%v", err)
		}
	}
	for _, bind := range app.Binds {
		if within(app.Mount, bind.Target) {
			r.problem("app.binds", "%s cannot be shown at %s: app.mount, %s, is the tenant's own", bind.Source, bind.Target, app.Mount)
		}
	}
}

// cache checks that the cache folder is there to be had: the filesystem keeps
// its own files in it, so it cannot be on that filesystem.
func (r *reader) cache(c *Config) {
	switch {
	case c.Cache == "":
		r.problem("cache", "no folder of this user is known: write the path of one")
	case c.onMount(c.Cache):
		r.problem("cache", "%s is inside the mountpoint %s: write a folder outside of it", c.Cache, c.Mount)
	default:
		r.folder("cache", c.Cache)
	}
}

// onMount reports whether a path is on the filesystem that is to be mounted.
func (c *Config) onMount(path string) bool {
	return c.Mount != "/" && within(c.Mount, path)
}

// store checks what kind of store it is. No error repeats the URL, in which
// somebody may have put a password.
func (r *reader) store(c *Config) {
	const want = `write "file:///path" for a folder or "s3://bucket/prefix?endpoint=https://host"`
	u, err := url.Parse(c.Store)
	switch {
	case c.Store == "":
		r.problem("store", "it is missing: %s", want)
	case err != nil || u.Scheme != "file" && u.Scheme != "s3":
		r.problem("store", "not the URL of a store: %s", want)
	case u.User != nil:
		r.problem("store", "it holds credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")
	case u.Scheme == "file" && (u.Host != "" && u.Host != "localhost" || !filepath.IsAbs(u.Path)):
		r.problem("store", "a folder is written with three slashes and an absolute path: file:///path")
	case u.Scheme == "file" && c.onMount(filepath.Clean(u.Path)):
		r.problem("store", "the folder is inside the mountpoint %s: write one outside of it", c.Mount)
	}
}

func (r *reader) address(key, value string) {
	_, port, err := net.SplitHostPort(value)
	if n, e := strconv.Atoi(port); err != nil || e != nil || n < 0 || n > 65535 {
		r.problem(key, `%q is not an address: write "host:port", "[ipv6]:port" or ":port" for all addresses, with a port of 0 to 65535`, value)
	}
}

func (r *reader) name(key, value string) {
	if value != "" && !name.MatchString(value) {
		r.problem(key, "%q is not a name of at most 63 letters, digits, '.', '_' and '-'", value)
	}
}

func (r *reader) folder(key, value string) {
	if !absolute(value) || value == "/" {
		r.problem(key, "%q is not an absolute path of a folder other than /, without .. and a slash at its end", value)
	}
}

func (r *reader) duration(key string, value, least time.Duration) {
	if value == Never {
		r.problem(key, `it cannot be "never": write a duration of at least %v`, least)
		return
	}
	r.durationOrNever(key, value, least)
}

func (r *reader) durationOrNever(key string, value, least time.Duration) {
	if value != Never && value < least {
		r.problem(key, "%v is too short: write at least %v", value, least)
	}
}

func (r *reader) number(key string, value, least, most int) {
	if value < least || value > most {
		r.problem(key, "%d is out of range: write %d to %d", value, least, most)
	}
}

func (r *reader) size(key string, value, least, most Size) {
	if value < least || value > most {
		r.problem(key, "%v is out of range: write %v to %v", value, least, most)
	}
}

func (r *reader) oneOf(key, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		r.problem(key, "%q is unknown: write one of %s", value, strings.Join(allowed, ", "))
	}
}

// within reports whether path is folder or below it; both are clean.
func within(folder, path string) bool {
	return path == folder || strings.HasPrefix(path, strings.TrimSuffix(folder, "/")+"/")
}
