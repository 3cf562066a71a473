package config

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// What is written about the keys elsewhere must be true: the example file and
// the page in docs are held against Config and its defaults.

// leaves lists the keys that have a value, with the fields they set.
func leaves(c *Config) map[string]reflect.Value {
	found := map[string]reflect.Value{}
	walk(c, func(key string, v reflect.Value) {
		if v.Kind() != reflect.Struct {
			found[key] = v
		}
	})
	return found
}

// without are the keys whose default is none, another on each machine, or free.
var without = []string{"store", "cache", "region", "machine", "policy.config", "app.command", "app.env"}

func TestExample(t *testing.T) {
	if _, err := Parse("atc.example.toml", []byte(Example())); err != nil {
		t.Errorf("as it is: %v", err)
	}

	all := regexp.MustCompile(`(?m)^#([a-zA-Z_]+ = )`).ReplaceAllString(Example(), "$1")
	c, err := Parse("atc.example.toml", []byte(all))
	if err != nil {
		t.Fatalf("with its comments as keys: %v", err)
	}
	written, want := positions([]byte(all)), Default()
	defaults := leaves(&want)
	for key, v := range leaves(c) {
		if _, ok := written[key]; !ok {
			t.Errorf("%s is not in it", key)
		}
		if got := show(v); !slices.Contains(without, key) && got != show(defaults[key]) {
			t.Errorf("%s = %s, but the default is %s", key, got, show(defaults[key]))
		}
	}
}

// show writes a default as one does in a file.
func show(v reflect.Value) string {
	switch value := v.Interface().(type) {
	case time.Duration:
		s := value.String()
		s = regexp.MustCompile(`([hm])0s$`).ReplaceAllString(s, "$1")
		return `"` + regexp.MustCompile(`h0m$`).ReplaceAllString(s, "h") + `"`
	case Size:
		return `"` + value.String() + `"`
	case string:
		return `"` + value + `"`
	case bool, int:
		return fmt.Sprint(value)
	}
	if v.Len() == 0 {
		return "[]"
	}
	return fmt.Sprint(v.Interface())
}

func TestDocumentation(t *testing.T) {
	b, err := os.ReadFile("../../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	written := map[string]string{} // key: default
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\| ([^|]*) \\| [^|]+ \\|$").FindAllSubmatch(b, -1) {
		if _, twice := written[string(row[1])]; twice {
			t.Errorf("%s has two rows", row[1])
		}
		written[string(row[1])] = string(row[2])
	}
	c := Default()
	defaults := leaves(&c)
	for key, v := range defaults {
		row, ok := written[key]
		if !ok {
			t.Errorf("%s has no row", key)
		} else if want := "`" + show(v) + "`"; !slices.Contains(without, key) && row != want {
			t.Errorf("%s has the default %s, want %s", key, row, want)
		}
	}
	for key := range maps.Keys(written) {
		if _, ok := defaults[key]; !ok {
			t.Errorf("%s has a row and does not exist", key)
		}
	}
}

func TestDefaults(t *testing.T) {
	for _, c := range []struct {
		name  string
		env   map[string]string
		root  bool
		cache string
	}{
		{"root", map[string]string{"HOME": "/root", "XDG_CACHE_HOME": "/c"}, true, "/var/cache/atc"},
		{"user", map[string]string{"HOME": "/home/u"}, false, "/home/u/.cache/atc/cache"},
		{"user with cache", map[string]string{"HOME": "/home/u", "XDG_CACHE_HOME": "/c"}, false, "/c/atc/cache"},
		{"relative paths count as none", map[string]string{"HOME": "home", "XDG_CACHE_HOME": "c"}, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			env := func(key string) string { return c.env[key] }
			if got := defaults(env, c.root).Cache; got != c.cache {
				t.Errorf("cache %q, want %q", got, c.cache)
			}
		})
	}

	t.Setenv("FLY_REGION", "fra")
	t.Setenv("FLY_MACHINE_ID", "148ed")
	if c := Default(); c.Region != "fra" || c.Machine != "148ed" {
		t.Errorf("region %q, machine %q", c.Region, c.Machine)
	}
	t.Setenv("FLY_REGION", "f r a")
	if _, err := Parse("atc.toml", []byte(needed)); err == nil || !strings.Contains(err.Error(), `atc.toml: region: "f r a" is not a name`) {
		t.Errorf("a bad FLY_REGION: %v", err)
	}
}

func TestNearest(t *testing.T) {
	for key, want := range map[string]string{
		"mount":           "mount",
		"mont":            "mount",
		"muont":           "mount",
		"app.mont":        "app.mount",
		"app.lisetn":      "",
		"app.listen":      "listen",
		"deadline":        "policy.deadline",
		"app":             "app",
		"ap":              "app",
		"durability":      "",
		"x":               "",
		"log.fromat":      "log.format",
		"app.idletimeout": "app.idle_timeout",
	} {
		if got := nearest(key); got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "ab", 1}, {"abc", "xabc", 1}, {"kitten", "sitting", 3}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("%q, %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]Size{"1B": 1, "64KiB": 64 << 10, "32 MiB": 32 << 20, "4GiB": 4 << 30, "0B": 0, "-1KiB": -1 << 10} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%s: %d, %v", text, s, err)
		}
		if s.String() != strings.ReplaceAll(text, " ", "") {
			t.Errorf("%s is written %s", text, s)
		}
	}
}

func TestLogger(t *testing.T) {
	for _, c := range []struct {
		log  Log
		want string
	}{
		{Log{"warn", "json"}, `"level":"WARN","msg":"w"`},
		{Log{"error", "text"}, ``},
		{Log{"info", "text"}, `level=INFO msg=i`},
	} {
		var out bytes.Buffer
		l := c.log.Logger(&out)
		l.Info("i")
		l.Warn("w")
		if !strings.Contains(out.String(), c.want) || (out.Len() == 0) != (c.want == "") {
			t.Errorf("%v wrote %q", c.log, out.String())
		}
		if l.Enabled(t.Context(), slog.LevelDebug) {
			t.Errorf("%v writes debug lines", c.log)
		}
	}
}
