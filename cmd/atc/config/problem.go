package config

import (
	"cmp"
	stderrors "errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// What a reader finds wrong, as the operator reads it.

// Problem is one thing that is wrong in a configuration. A parse error may hold
// several, which errors.As and errors.Join's Unwrap lead to.
type Problem struct {
	File         string
	Line, Column int    // from 1; 0 where the key is not in the file
	Key          string // as in "app.port"; may be empty
	Text         string // what is wrong and what to write instead
}

// Error reads as one line that editors find the place by.
func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key)
		b.WriteString(": ")
	}
	b.WriteString(p.Text)
	return b.String()
}

// problem notes what is wrong with a key.
func (r *reader) problem(key, format string, args ...any) {
	place := key
	if strings.HasSuffix(key, "]") {
		place = key[:strings.LastIndexByte(key, '[')] // app.binds[2] is where app.binds is
	}
	at := r.positions[place]
	r.problems = append(r.problems, &Problem{r.file, at.line, at.column, key, fmt.Sprintf(format, args...)})
}

// unknown notes a key that does not exist in the table that prefix stands for,
// whose keys table has.
func (r *reader) unknown(prefix, name string, table reflect.Value) {
	key := prefix + quoted(name)
	at := r.positions[key]
	text := "unknown key " + key
	if near := nearestIn(prefix, name, table); near != "" {
		text += ": did you mean " + near + "?"
	} else {
		text += ": there are " + strings.Join(keysOf(prefix, table), ", ")
	}
	r.problems = append(r.problems, &Problem{File: r.file, Line: at.line, Column: at.column, Text: text})
}

// err is all problems in the order of the file, or nil.
func (r *reader) err() error {
	slices.SortStableFunc(r.problems, func(a, b error) int {
		p, q := a.(*Problem), b.(*Problem)
		return cmp.Or(cmp.Compare(p.Line, q.Line), cmp.Compare(p.Column, q.Column))
	})
	if len(r.problems) == 1 {
		return r.problems[0]
	}
	return stderrors.Join(r.problems...)
}
