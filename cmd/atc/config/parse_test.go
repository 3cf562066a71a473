package config

import (
	"bytes"
	stderrors "errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"atc/fs/errors"
)

// needed is the smallest configuration. It stands behind a test's own lines.
const needed = "store = \"file:///var/lib/atc\"\napp.command = [\"/app/server\"]\n"

func TestValues(t *testing.T) {
	for _, c := range []struct {
		text string
		set  func(*Config)
	}{
		{``, func(*Config) {}},
		{`listen = "[::1]:0"`, func(c *Config) { c.Listen = "[::1]:0" }},
		{`hydrate_after = "never"`, func(c *Config) { c.HydrateAfter = Never }},
		{`ship_interval = "1m0.5s"`, func(c *Config) { c.ShipInterval = 60500 * time.Millisecond }},
		{`app.stop_grace = "0s"`, func(c *Config) { c.App.StopGrace = 0 }},
		{`app.idle_timeout = "never"`, func(c *Config) { c.App.IdleTimeout = Never }},
		{`log = { level = "debug", format = "json" }`, func(c *Config) { c.Log = Log{"debug", "json"} }},
		{`app.port = 0x50`, func(c *Config) { c.App.Port = 80 }},
		{`app.health = "/up?deep=1"`, func(c *Config) { c.App.Health = "/up?deep=1" }},
		{`app.env = { A = "b", N = 7, Y = true }`, func(c *Config) { c.App.Env = map[string]string{"A": "b", "N": "7", "Y": "true"} }},
		{`app.local_only = ["tmp/**", "*.log"]`, func(c *Config) { c.App.LocalOnly = []string{"tmp/**", "*.log"} }},
		{`app.binds = ["/app", "/a:/b"]`, func(c *Config) { c.App.Binds = []Bind{{"/app", "/app"}, {"/a", "/b"}} }},
		{`proxy.max_header = "1MiB"`, func(c *Config) { c.Proxy.MaxHeader = 1 << 20 }},
		{`proxy.trusted_proxies = ["10.1.2.3/8", "fd00::/8"]`, func(c *Config) {
			c.Proxy.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
		}},
		{`policy.config = { domain = "a.com, b.com", "retry.after" = 0x10, strict = false }`, func(c *Config) {
			c.Policy.Config = map[string]string{"domain": "a.com, b.com", "retry.after": "16", "strict": "false"}
		}},
		{`policy.resolver = "mine.wasm"`, func(c *Config) { c.Policy.Resolver = "/etc/atc/mine.wasm" }},
		{`policy.resolver = "/mine.wasm"`, func(c *Config) { c.Policy.Resolver = "/mine.wasm" }},
	} {
		t.Run(c.text, func(t *testing.T) {
			want := Default()
			want.Store, want.App.Command = "file:///var/lib/atc", []string{"/app/server"}
			c.set(&want)
			got, err := Parse("/etc/atc/atc.toml", []byte(c.text+"\n"+needed))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(*got, want) {
				t.Errorf("got  %+v\nwant %+v", *got, want)
			}
		})
	}
}

// Every error says where, which key, what is wrong and what may stand there.
func TestErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		// Keys that do not exist.
		{`ship_intervall = "1s"`, `1:1: unknown key ship_intervall: did you mean ship_interval?`},
		{`ship-interval = "1s"`, `1:1: unknown key ship-interval: did you mean ship_interval?`},
		{`  Listen = ":80"`, `1:3: unknown key Listen: did you mean listen?`},
		{"[app]\nprot = 3000", `2:1: unknown key app.prot: did you mean app.port?`},
		{`app.port.tcp = 3000`, `1:5: app.port: a table where a whole number`},
		{`port = 3000`, `1:1: unknown key port: did you mean app.port?`},
		{`proxy = { access_logs = true }`, `1:11: unknown key proxy.access_logs: did you mean proxy.access_log?`},
		{"[polcy]\nresolver = \"subdomain\"", `1:2: unknown key polcy: did you mean policy?`},
		{"\n[LOG]\nlevel = \"info\"", `2:2: unknown key LOG: there are listen, mount,`},
		{`zzz = 1`, `1:1: unknown key zzz: there are listen, mount, cache,`},
		{`log.colour = true`, `1:5: unknown key log.colour: there are log.level, log.format`},
		{`"a.b" = 1`, `1:1: unknown key "a.b": there are listen,`},

		// Values of another type.
		{`ship_interval = 1`, `1:1: ship_interval: a whole number where a duration in quotes, such as "90s", is wanted`},
		{`ship_interval = 1.5`, `1:1: ship_interval: a number with a fraction where a duration`},
		{`listen = 8080`, `1:1: listen: a whole number where a text in quotes is wanted`},
		{`app.port = "3000"`, `1:5: app.port: a text where a whole number without quotes is wanted`},
		{`app.port = 3000.5`, `app.port: a number with a fraction where a whole number`},
		{`app.binds = "/app"`, `app.binds: a text where a list, such as ["one", "two"], is wanted`},
		{`app.binds = ["/app", 3]`, `1:5: app.binds[1]: a whole number where a text in quotes is wanted`},
		{`proxy.access_log = "yes"`, `proxy.access_log: a text where true or false is wanted`},
		{`log = "debug"`, `1:1: log: a text where a table is wanted`},
		{`app.env = ["A=b"]`, `app.env: a list where a table is wanted`},
		{`app.env.A = 1.5`, `1:9: app.env.A: a number with a fraction where a text, a whole number, true or false is wanted`},
		{`policy.config.since = 2026-01-01`, `1:15: policy.config.since: a date or time where a text`},
		{"[policy.config.retry]\nafter = 1", `1:16: policy.config.retry: a table where a text`},
		{"[[proxy]]\naccess_log = true", `1:3: proxy: a list where a table is wanted`},

		// Durations and sizes.
		{`ship_interval = "soon"`, `1:1: ship_interval: "soon" is not a duration: write a number with a unit, such as "250ms"`},
		{`ship_interval = "1"`, `ship_interval: "1" is not a duration`},
		{`ship_interval = "-1s"`, `1:1: ship_interval: -1s is negative`},
		{`ship_interval = "1ms"`, `1:1: ship_interval: 1ms is too short: write at least 10ms`},
		{`ship_interval = "never"`, `ship_interval: it cannot be "never"`},
		{`hydrate_after = "0s"`, `hydrate_after: 0s is too short`},
		{`app.start_timeout = "0s"`, `app.start_timeout: 0s is too short`},
		{`policy.memory_limit = "32MB"`, `policy.memory_limit: "32MB" is not a size: write a whole number with a unit`},
		{`policy.memory_limit = "9223372036854775807GiB"`, `is not a size`},
		{`policy.memory_limit = 33554432`, `policy.memory_limit: a whole number where a text in quotes is wanted`},
		{`policy.memory_limit = "5GiB"`, `policy.memory_limit: 5GiB is out of range: write 64KiB to 4GiB`},
		{`proxy.max_header = "-1KiB"`, `proxy.max_header: -1KiB is out of range: write 1KiB to 16MiB`},

		// Numbers and choices.
		{`app.port = -1`, `1:5: app.port: -1 is out of range: write 1 to 65535`},
		{`app.port = 0`, `app.port: 0 is out of range`},
		{`app.port = 65536`, `app.port: 65536 is out of range`},
		{`app.max_waiting = -1`, `app.max_waiting: -1 is out of range: write 1 to 1000000`},
		{`passthrough = "on"`, `1:1: passthrough: "on" is unknown: write one of auto, off`},
		{`log.level = "INFO"`, `1:5: log.level: "INFO" is unknown: write one of debug, info, warn, error`},
		{`log.format = "xml"`, `log.format: "xml" is unknown: write one of text, json`},
		{`policy.resolver = "subdomains"`, `policy.resolver: "subdomains" is unknown: write one of path-prefix, subdomain, /path/to/resolver.wasm`},

		// Addresses, paths, names.
		{`listen = "8080"`, `1:1: listen: "8080" is not an address: write "host:port"`},
		{`listen = ":http"`, `listen: ":http" is not an address`},
		{`listen = ":65536"`, `listen: ":65536" is not an address`},
		{`mount = "data"`, `1:1: mount: "data" is not an absolute path`},
		{`mount = "/"`, `mount: "/" is not an absolute path of a folder other than /`},
		{`cache = "/data/cache"`, `1:1: cache: /data/cache is inside the mountpoint /data`},
		{`cache = "/var/../tmp"`, `cache: "/var/../tmp" is not an absolute path`},
		{`region = "a/b"`, `1:1: region: "a/b" is not a name`},
		{`machine = "../x"`, `machine: "../x" is not a name`},
		{`policy.config.domain = "a\nb"`, `1:15: policy.config.domain: a resolver cannot read it`},
		{`policy.config."a b" = 1`, `1:15: policy.config."a b": a resolver cannot read it`},
		{`app.env."A=B" = "c"`, `1:9: app.env."A=B": not a name`},
		{`app.env.PORT = "3000"`, `app.env.PORT: it is set to app.port`},
		{`app.env.ATC_TENANT = "acme"`, `app.env.ATC_TENANT: it is set to the tenant's name`},
		{`app.env.A = "\u0000"`, `app.env.A: its value has a NUL byte`},
		{`app.mount = "data"`, `app.mount: "data" is not an absolute path`},
		{`app.health = "up"`, `app.health: "up" is not a path: write one such as "/health"`},
		{`app.health = "//host/up"`, `app.health: "//host/up" is not a path`},
		{`app.binds = ["app"]`, `1:5: app.binds[0]: "app" is not a bind: "app" is not an absolute path`},
		{`app.binds = ["/app", "/x:/x:rw"]`, `app.binds[1]: "/x:/x:rw" is not a bind: write "/source" or "/source:/target"; binds are always read-only`},
		{`app.local_only = ["*.log", "tmp/"]`, `1:5: app.local_only[1]: "tmp/": it ends in "/": write it without`},
		{`app.local_only = ["**"]`, `app.local_only[0]: "**": it matches everything, so that nothing would be kept`},
		{`app.local_only = "*.log"`, `app.local_only: a text where a list`},
		{`app.binds = ["/x:/data/x"]`, `app.binds: /x cannot be shown at /data/x: app.mount, /data, is the tenant's own`},
		{`proxy.trusted_proxies = ["10.0.0.1"]`, `1:7: proxy.trusted_proxies[0]: "10.0.0.1" is not a network: write its address and the length of its prefix`},
		{`proxy.trusted_proxies = [10]`, `proxy.trusted_proxies[0]: 10 is not a network`},

		// TOML itself.
		{`listen = `, `1:`},
		{"listen = \":80\"\nlisten = \":81\"", `2:1: listen: `},
		{`listen = 'a`, `1:`},
		{"\xff = 1", `1:1: `},
	} {
		t.Run(c.text, func(t *testing.T) {
			text := c.text + "\n" + needed
			if strings.Contains(c.text, "\n[") || c.text[0] == '[' {
				text = c.text // a table ends with the file
			}
			_, err := Parse("atc.toml", []byte(text))
			if err == nil {
				t.Fatal("accepted")
			}
			prefix := "read configuration: invalid: atc.toml:"
			if strings.HasPrefix(c.want, "1:") || strings.HasPrefix(c.want, "2:") {
				prefix += c.want
			}
			if !strings.HasPrefix(err.Error(), prefix) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one problem: %v", err)
			}
			if errors.KindOf(err) != errors.Invalid {
				t.Errorf("kind %v", errors.KindOf(err))
			}
			var p *Problem
			if !stderrors.As(err, &p) || p.File != "atc.toml" || p.Line == 0 || p.Column == 0 || p.Text == "" {
				t.Errorf("problem %+v", p)
			}
		})
	}
}

func TestStore(t *testing.T) {
	for url, want := range map[string]string{
		"":                             `atc.toml:1:1: store: it is missing: write "file:///path"`,
		"/var/lib/atc":                 `atc.toml:1:1: store: not the URL of a store: write "file:///path" for a folder or "s3://bucket`,
		"gs://bucket":                  `not the URL of a store`,
		"s3://\x7f":                    `not the URL of a store`,
		"s3://user:hunter2@bucket/x":   `it holds credentials: set AWS_ACCESS_KEY_ID`,
		"file://var/lib/atc":           `written with three slashes`,
		"file:var/lib/atc":             `written with three slashes`,
		"file:///data/bucket":          `inside the mountpoint /data`,
		"file:///var/lib/atc":          "",
		"s3://bucket/prefix?region=eu": "",
		"s3://":                        "", // the bucket is in BUCKET_NAME
	} {
		_, err := Parse("atc.toml", []byte("store = '"+strings.ReplaceAll(url, "\x7f", "%zz")+"'\napp.command = ['x']"))
		switch {
		case want == "" && err != nil:
			t.Errorf("%q: %v", url, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%q: %v, want %s", url, err, want)
		case want != "" && strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%q: the password is in the error: %v", url, err)
		}
	}
}

// A file's problems come all at once, in its order; a key that is not there has
// no line.
func TestAllProblems(t *testing.T) {
	text := "passthrough = 1\n[app]\nport = \"x\"\nbinds = [1, \"/a\", 2]\n[log]\nlevle = \"info\"\n"
	_, err := Parse("atc.toml", []byte(text))
	want := []string{
		"atc.toml:1:1: passthrough:", "atc.toml:3:1: app.port:", "atc.toml:4:1: app.binds[0]:",
		"atc.toml:4:1: app.binds[2]:", "atc.toml:6:1: unknown key log.levle",
	}
	checkLines(t, err, want)

	_, err = Parse("atc.toml", []byte("passthrough = \"on\"\n"))
	checkLines(t, err, []string{"atc.toml: store: it is missing", "atc.toml: app.command: it is missing", "atc.toml:1:1: passthrough:"})
}

func checkLines(t *testing.T, err error, want []string) {
	t.Helper()
	if err == nil {
		t.Fatal("accepted")
	}
	lines := strings.Split(strings.TrimPrefix(err.Error(), "read configuration: invalid: "), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d problems, want %d:\n%v", len(lines), len(want), err)
	}
	for i := range want {
		if !strings.HasPrefix(lines[i], want[i]) {
			t.Errorf("got  %s\nwant %s...", lines[i], want[i])
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "atc.toml")
	if _, err := Load(path); errors.KindOf(err) != errors.NotExist || !strings.Contains(err.Error(), path) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, []byte("policy.resolver = \"r/mine.wasm\"\n"+needed), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "r/mine.wasm"); c.Policy.Resolver != want {
		t.Errorf("resolver %s, want %s", c.Policy.Resolver, want)
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte("#\n"), maxFile), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); errors.KindOf(err) != errors.Invalid || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("large file: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("a = { b = [1, { c.d = 2 }] }\n[[app.env]]\n[\"x\\\"]\".y]\n" + needed))
	f.Add([]byte("app.binds = [1]\napp.env.\"a]\" = 1.5\n\"[\" = 1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse("atc.toml", b)
		if err != nil {
			if c != nil || errors.KindOf(err) != errors.Invalid || !strings.Contains(err.Error(), "atc.toml") {
				t.Errorf("%v, %v", c, err)
			}
			return
		}
		if c.Store == "" || len(c.App.Command) == 0 || c.App.Port < 1 || c.ShipInterval <= 0 {
			t.Errorf("accepted %+v", c)
		}
	})
}
