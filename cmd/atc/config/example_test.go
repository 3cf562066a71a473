package config

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
var without = []string{"store", "cache", "cache_limit", "region", "machine", "tenants", "policy.config", "app.command", "app.env"}

func TestExample(t *testing.T) {
	if _, err := Parse("atc.example.toml", []byte(Example())); err != nil {
		t.Errorf("as it is: %v", err)
	}

	all := regexp.MustCompile(`(?m)^#([a-zA-Z_]+ = |\[)`).ReplaceAllString(Example(), "$1")
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

func TestCacheFolder(t *testing.T) {
	for _, c := range []struct {
		name     string
		env      map[string]string
		makeable bool
		want     string
	}{
		{"daemon", map[string]string{"HOME": "/root", "XDG_CACHE_HOME": "/c"}, true, "/var/cache/atc"},
		{"user", map[string]string{"HOME": "/home/u"}, false, "/home/u/.cache/atc/cache"},
		{"user with cache", map[string]string{"HOME": "/home/u", "XDG_CACHE_HOME": "/c"}, false, "/c/atc/cache"},
		{"relative paths count as none", map[string]string{"HOME": "home", "XDG_CACHE_HOME": "c"}, false, ""},
	} {
		env := func(key string) string { return c.env[key] }
		if got := defaults(env, func(string) bool { return c.makeable }).Cache; got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	_, err := parse("atc.toml", []byte(needed), defaults(func(string) string { return "" }, func(string) bool { return false }))
	checkLines(t, err, []string{"atc.toml: cache: no folder of this user is known"})
}

func TestMakeable(t *testing.T) {
	dir := t.TempDir()
	check := func(path string, want bool) {
		t.Helper()
		if got := makeable(path); got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
	check(dir, true)
	check(filepath.Join(dir, "a/b"), true)
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	check(filepath.Join(dir, "file/a"), false)

	// Another user, but only for this thread's dealings with files.
	if os.Geteuid() == 0 {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := unix.Setfsuid(65534); err != nil {
			t.Fatal(err)
		}
		defer unix.Setfsuid(0)
	}
	check("/var/cache/atc/x", false)
}

func TestFly(t *testing.T) {
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
		"durability":      "durability",
		"durrability":     "durability",
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
