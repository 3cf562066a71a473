package config

import (
	"encoding"
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// From a TOML value to a Go value of one type. It is apart because each refusal
// here says what the value is, what it should be and how that is written.

// Size is a number of bytes. It is written with a unit: "64KiB", "32MiB"; 0, where
// that stands for no limit, also "none".
type Size int64

var units = [...]struct {
	name  string
	bytes Size
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// UnmarshalText reads a whole number of a unit.
func (s *Size) UnmarshalText(text []byte) error {
	if string(text) == "none" {
		*s = 0
		return nil
	}
	for _, unit := range units {
		digits, ok := strings.CutSuffix(string(text), unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n > int64(1<<62/unit.bytes) || n < -int64(1<<62/unit.bytes) {
			break
		}
		*s = Size(n) * unit.bytes
		return nil
	}
	return fmt.Errorf(`%q is not a size: write a whole number with a unit, such as "512KiB" or "32MiB"`, text)
}

// String writes s in the largest unit that leaves a whole number.
func (s Size) String() string {
	for _, unit := range units {
		if s%unit.bytes == 0 && s != 0 {
			return fmt.Sprintf("%d%s", s/unit.bytes, unit.name)
		}
	}
	return "0B"
}

// Bind is a folder or file of the host, Source, that applications see,
// read-only, at Target. It is written "source" or "source:target".
type Bind struct{ Source, Target string }

// UnmarshalText reads a bind.
func (b *Bind) UnmarshalText(text []byte) error {
	source, target, ok := strings.Cut(string(text), ":")
	if !ok {
		target = source
	}
	if strings.Contains(target, ":") {
		return fmt.Errorf(`%q is not a bind: write "/source" or "/source:/target"; binds are always read-only`, text)
	}
	for _, path := range []string{source, target} {
		if !absolute(path) || path == "/" {
			return fmt.Errorf(`%q is not a bind: %q is not an absolute path without .. and a slash at its end`, text, path)
		}
	}
	*b = Bind{source, target}
	return nil
}

// absolute reports whether path is absolute and written without detours.
func absolute(path string) bool {
	return filepath.IsAbs(path) && filepath.Clean(path) == path && !strings.Contains(path, "\x00")
}

// assign sets v from a value as the TOML library gives it. Of a list or table
// it only checks that v is one; what is in it is for the caller to assign.
func assign(v reflect.Value, value any) error {
	wrong := func(want string) error { return fmt.Errorf("%s where %s is wanted", describe(value), want) }
	switch field := v.Addr().Interface().(type) {
	case *netip.Prefix:
		text, _ := value.(string)
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf(`%#v is not a network: write its address and the length of its prefix, such as "10.0.0.0/8" or "192.0.2.1/32"`, value)
		}
		*field = prefix.Masked()
		return nil
	case encoding.TextUnmarshaler:
		text, ok := value.(string)
		if !ok {
			return wrong("a text in quotes")
		}
		return field.UnmarshalText([]byte(text))
	case *time.Duration:
		text, ok := value.(string)
		if !ok {
			return wrong(`a duration in quotes, such as "90s",`)
		}
		if text == "never" {
			*field = Never
			return nil
		}
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf(`%q is not a duration: write a number with a unit, such as "250ms", "90s", "5m" or "1h30m"`, text)
		}
		if d < 0 {
			return fmt.Errorf("%s is negative", text)
		}
		*field = d
		return nil
	}
	switch value := value.(type) {
	case string:
		if v.Kind() == reflect.String {
			v.SetString(value)
			return nil
		}
	case bool:
		if v.Kind() == reflect.Bool {
			v.SetBool(value)
			return nil
		}
	case int64:
		if v.Kind() == reflect.Int {
			v.SetInt(value)
			return nil
		}
	case []any:
		if v.Kind() == reflect.Slice {
			return nil
		}
	case map[string]any:
		if v.Kind() == reflect.Map || v.Kind() == reflect.Struct {
			return nil
		}
	}
	switch v.Kind() {
	case reflect.Bool:
		return wrong("true or false")
	case reflect.Int:
		return wrong("a whole number without quotes")
	case reflect.Slice:
		return wrong(`a list, such as ["one", "two"],`)
	case reflect.Map, reflect.Struct:
		return wrong("a table")
	}
	return wrong("a text in quotes")
}

// scalar is the text of a value in a table with keys of the operator's own.
func scalar(value any) (string, error) {
	switch value := value.(type) {
	case string:
		return value, nil
	case int64, bool:
		return fmt.Sprint(value), nil
	}
	return "", fmt.Errorf("%s where a text, a whole number, true or false is wanted", describe(value))
}

// describe names a value's type in the words of the TOML specification.
func describe(value any) string {
	switch value.(type) {
	case string:
		return "a text"
	case bool:
		return "true or false"
	case int64:
		return "a whole number"
	case float64:
		return "a number with a fraction"
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return "a date or time"
}
