package config

import (
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// Where in a file every key stands. The TOML library knows that only while it
// decodes, and most rules are about decoded values, so its parser is asked a
// second time.

// position is a place in a file, counted from 1, columns in bytes.
type position struct{ line, column int }

// positions finds where every key and table of a valid document stands first.
func positions(document []byte) map[string]position {
	at := map[string]position{}
	var p unstable.Parser
	p.Reset(document)
	// note enters the key that begins at prefix, and everything it leads to.
	note := func(prefix string, key unstable.Iterator) string {
		for key.Next() {
			prefix = join(prefix, string(key.Node().Data))
			if _, known := at[prefix]; !known {
				start := p.Shape(key.Node().Raw).Start
				at[prefix] = position{start.Line, start.Column}
			}
		}
		return prefix
	}
	var inline func(prefix string, value *unstable.Node)
	inline = func(prefix string, value *unstable.Node) {
		if value.Kind != unstable.InlineTable {
			return
		}
		for it := value.Children(); it.Next(); {
			inline(note(prefix, it.Node().Key()), it.Node().Value())
		}
	}
	table := ""
	for p.NextExpression() {
		switch e := p.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = note("", e.Key())
		case unstable.KeyValue:
			inline(note(table, e.Key()), e.Value())
		}
	}
	return at
}

// dotted writes the parts of a key as one.
func dotted(parts []string) string {
	key := ""
	for _, part := range parts {
		key = join(key, part)
	}
	return key
}

// join appends a part to a key.
func join(key, part string) string {
	if key == "" {
		return quoted(part)
	}
	return key + "." + quoted(part)
}

// quoted is a part of a key as one writes it: in quotes where it needs them.
func quoted(part string) string {
	bare := part != "" && strings.IndexFunc(part, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-'
	}) < 0
	if bare {
		return part
	}
	return strconv.Quote(part)
}
