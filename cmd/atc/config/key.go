package config

import (
	"reflect"
	"strings"
)

// The keys that exist, and which of them somebody meant who wrote another.

// walk visits every key of a configuration and every table, with the field that
// it sets, in the order in which Config declares them.
func walk(c *Config, visit func(key string, field reflect.Value)) {
	var table func(prefix string, s reflect.Value)
	table = func(prefix string, s reflect.Value) {
		for f, v := range s.Fields() {
			key := prefix + f.Tag.Get("toml")
			visit(key, v)
			if v.Kind() == reflect.Struct {
				table(key+".", v)
			}
		}
	}
	table("", reflect.ValueOf(c).Elem())
}

// keysOf lists the keys of a table, with what stands before them: "" or "app.".
func keysOf(prefix string, table reflect.Value) []string {
	var found []string
	for f := range table.Fields() {
		found = append(found, prefix+f.Tag.Get("toml"))
	}
	return found
}

// lastPart is a key without the table that it is in.
func lastPart(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// nearestIn is nearest for a name in a table, which may be one that has the
// operator's own name.
func nearestIn(prefix, name string, table reflect.Value) string {
	if near := nearest(prefix + quoted(name)); near != "" {
		return near
	}
	limit := max(1, len(name)/3)
	for f := range table.Fields() {
		known := f.Tag.Get("toml")
		if len(name)-len(known) <= limit && distance(name, known) <= limit {
			return prefix + known
		}
	}
	return ""
}

// nearest finds the key that was probably meant: one that differs in at most a
// third of its letters, else one of the same name in another table. It returns
// "" where nothing is near.
func nearest(key string) string {
	name := lastPart(key)
	best, limit, elsewhere := "", max(1, len(name)/3), ""
	walk(new(Config), func(known string, _ reflect.Value) {
		// One that is longer by more than that is farther, and may be very long.
		if len(key)-len(known) <= limit {
			if d := distance(key, known); d <= limit && (best == "" || d < limit) {
				best, limit = known, d
			}
		}
		if lastPart(known) == name && elsewhere == "" {
			elsewhere = known
		}
	})
	if best == "" {
		return elsewhere
	}
	return best
}

// distance counts the letters to insert, remove, replace or swap with the next
// one to make b of a.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		for j := range rows[i] {
			if i == 0 || j == 0 {
				rows[i][j] = i + j
				continue
			}
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
