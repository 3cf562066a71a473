package localonly

import (
	"strings"
	"testing"
)

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"*.log", "a.log", true},
		{"*.log", "var/deep/a.log", true},
		{"*.log", "a.log.1", false},
		{"*.log", "dir.log/inside", true},
		{"*.log", ".log", true},
		{"/*.log", "a.log", true},
		{"/*.log", "var/a.log", false},
		{"tmp", "tmp", true},
		{"tmp", "a/tmp/b", true},
		{"tmp", "tmpx", false},
		{"/tmp", "a/tmp", false},
		{"/tmp", "tmp/a/b", true},
		{"tmp/**", "tmp", false},
		{"tmp/**", "tmp/a", true},
		{"tmp/**", "tmp/a/b", true},
		{"tmp/**", "a/tmp/b", false},
		{"**/cache/**", "cache/x", true},
		{"**/cache/**", "a/b/cache/x/y", true},
		{"**/cache/**", "a/b/cache", false},
		{"a/**/z", "a/z", true},
		{"a/**/z", "a/b/c/z", true},
		{"a/**/z", "a/b/c", false},
		{"a/*/z", "a/b/z", true},
		{"a/*/z", "a/b/c/z", false},
		{"a/*/z", "a/z", false},
		{"**/*.tmp", "x.tmp", true},
		{"f?o[0-9]", "fxo7", true},
		{"f?o[^0-9]", "fxo7", false},
		{`\!x`, "!x", true},
		{`a\*b`, "a*b", true},
		{`a\*b`, "axb", false},
		{"*.log", "", false},
		{strings.Repeat("**/a/", 12) + "b", strings.Repeat("a/", 60) + "c", false},
	} {
		s, err := Parse([]string{c.pattern})
		if err != nil {
			t.Errorf("%s: %v", c.pattern, err)
			continue
		}
		if got := s.Match(c.path); got != c.want {
			t.Errorf("%s matches %s: %v", c.pattern, c.path, got)
		}
	}
	if (*Set)(nil).Match("x") || (&Set{}).Match("x") {
		t.Error("no patterns match")
	}
}

func TestRefusedPatterns(t *testing.T) {
	for pattern, why := range map[string]string{
		"": "segment", "/": "segment", "//a": "segment", "a//b": "segment", "../a": "segment", "./a": "segment",
		"tmp/": `ends in "/"`, "!a": "exceptions", "!a/b": "exceptions", "/!a": "exceptions", "a/b**": "whole segment", "***": "whole segment",
		"[a": "malformed", `a\`: "malformed", "a\x00": "NUL", "*": "everything", "**": "everything", "**/*": "everything", "/**": "everything",
	} {
		if _, err := Parse([]string{"ok", pattern}); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want %q", pattern, err, why)
		}
	}
}
