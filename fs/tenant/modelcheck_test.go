package tenant_test

import (
	"fmt"
	"strings"
)

// This file is a small explicit-state model checker: it visits every state that
// can be reached, breadth first, so that what it finds first is a shortest way
// to a violation.

// system is what is explored: S is a state, comparable and complete.
type system[S comparable] struct {
	start S
	// next yields every step that can be taken from s, and where it leads.
	next func(s S, step func(name string, machine int, to S))
	// check returns what is violated in s, or nothing.
	check func(s S) string
	show  func(s S) string
}

// finding is a violation with a shortest way to it.
type finding struct {
	violated string
	trace    []string
}

func (f *finding) String() string {
	return f.violated + "\n  " + strings.Join(f.trace, "\n  ")
}

// explore visits at most limit states. It returns how many there are, and the
// first violation.
func explore[S comparable](m system[S], limit int) (int, *finding, error) {
	type origin struct {
		parent  int32
		name    string
		machine int8
	}
	seen := map[S]struct{}{m.start: {}}
	states, origins := []S{m.start}, []origin{{parent: -1}}
	if v := m.check(m.start); v != "" {
		return 1, &finding{violated: v}, nil
	}
	var bad *finding
	for i := 0; i < len(states) && bad == nil; i++ {
		if len(states) > limit {
			return len(states), nil, fmt.Errorf("more than %d states", limit)
		}
		m.next(states[i], func(name string, machine int, to S) {
			if _, known := seen[to]; known || bad != nil {
				return
			}
			seen[to] = struct{}{}
			states, origins = append(states, to), append(origins, origin{int32(i), name, int8(machine)})
			v := m.check(to)
			if v == "" {
				return
			}
			bad = &finding{violated: v}
			for at := len(states) - 1; at > 0; at = int(origins[at].parent) {
				line := fmt.Sprintf("m%d %-48s %s", origins[at].machine+1, origins[at].name, m.show(states[at]))
				bad.trace = append([]string{line}, bad.trace...)
			}
		})
	}
	return len(states), bad, nil
}
