package config

import (
	stderrors "errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"atc/fs/errors"
)

// From a file to a Config. The TOML library parses; the values are moved into
// the Config here, since the errors must name the key in the operator's words
// and since a number must not become a duration of nanoseconds.

// maxFile bounds what is read: a configuration is a few kilobytes.
const maxFile = 64 << 10

// Load reads a configuration file. Its errors are of kind Invalid, or that of
// what prevented the reading.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errors.E("read configuration", "", errors.Other, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, errors.E("read configuration", "", errors.Other, err)
	}
	if len(b) > maxFile {
		return nil, errors.E("read configuration", path, errors.Invalid, fmt.Errorf("it is larger than %d bytes", maxFile))
	}
	return Parse(path, b)
}

// Parse reads a configuration from the content of the file name, which is used
// in errors and for the folder that relative paths start from.
func Parse(name string, b []byte) (*Config, error) { return parse(name, b, Default()) }

// parse reads what a file sets into a Config of defaults.
func parse(name string, b []byte, c Config) (*Config, error) {
	r := reader{file: name}
	var values map[string]any
	if err := toml.Unmarshal(b, &values); err != nil {
		var d *toml.DecodeError
		if stderrors.As(err, &d) {
			p := Problem{File: name, Key: dotted(d.Key()), Text: strings.TrimPrefix(d.Error(), "toml: ")}
			p.Line, p.Column = d.Position()
			err = &p
		}
		return nil, errors.E("read configuration", "", errors.Invalid, err)
	}
	r.positions = positions(b)
	r.table("", reflect.ValueOf(&c).Elem(), values)
	if len(r.problems) == 0 {
		// Only then: a value that could not be read would be reported twice.
		r.check(&c)
	}
	if err := r.err(); err != nil {
		return nil, errors.E("read configuration", "", errors.Invalid, err)
	}
	if strings.HasSuffix(c.Policy.Resolver, wasmSuffix) && !filepath.IsAbs(c.Policy.Resolver) {
		c.Policy.Resolver = filepath.Join(filepath.Dir(name), c.Policy.Resolver)
	}
	return &c, nil
}

// reader moves values into a Config and collects what is wrong with them.
type reader struct {
	file      string
	positions map[string]position // of every key that is in the file
	problems  []error
}

// table moves the values of a table into a struct. Prefix is the table's own
// key with a dot behind it.
func (r *reader) table(prefix string, into reflect.Value, values map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if field, ok := fieldOf(into, name); ok {
			r.value(prefix+name, field, values[name])
		} else {
			r.unknown(prefix, name, into)
		}
	}
}

// fieldOf finds the field of a struct that a key of its table sets.
func fieldOf(s reflect.Value, name string) (reflect.Value, bool) {
	for f, v := range s.Fields() {
		if f.Tag.Get("toml") == name {
			return v, true
		}
	}
	return reflect.Value{}, false
}

// value moves one value into the field, list element or map that v is.
func (r *reader) value(key string, v reflect.Value, value any) {
	if err := assign(v, value); err != nil {
		r.problem(key, "%v", err)
		return
	}
	switch values := value.(type) {
	case map[string]any:
		if v.Kind() == reflect.Struct {
			r.table(key+".", v, values)
			return
		}
		v.Set(reflect.MakeMap(v.Type()))
		if v.Type().Elem().Kind() == reflect.Struct {
			for _, name := range slices.Sorted(maps.Keys(values)) {
				element := reflect.New(v.Type().Elem()).Elem()
				r.value(key+"."+quoted(name), element, values[name])
				v.SetMapIndex(reflect.ValueOf(name), element)
			}
			return
		}
		for _, name := range slices.Sorted(maps.Keys(values)) {
			text, err := scalar(values[name])
			if err != nil {
				r.problem(key+"."+quoted(name), "%v", err)
			}
			v.SetMapIndex(reflect.ValueOf(name), reflect.ValueOf(text))
		}
	case []any:
		v.Set(reflect.MakeSlice(v.Type(), len(values), len(values)))
		for i, value := range values {
			r.value(fmt.Sprintf("%s[%d]", key, i), v.Index(i), value)
		}
	}
}
