// Package localonly says which files of a tenant stay on the machine: patterns
// for caches and temporary files.
//
//	set, err := localonly.Parse([]string{"tmp/**", "*.log"})
//	set.Match("var/app.log") // true
//
// A pattern is like a line of a .gitignore file. It is compared with paths below
// the tenant's folder, segment by segment: "*" is any run of characters but "/", "?" any one, "[a-z]" and
// "[^a-z]" one of a set, "\" takes the next one literally, as in path.Match. A
// segment "**" is any number of segments: none or more at the beginning and in the
// middle, one or more at the end. A pattern without "/" is compared with names in
// every folder, one with "/" with whole paths; a "/" at its beginning stands for
// the tenant's folder. What is below a folder that matches, matches.
//
// # Limitations
//
// There are no exceptions ("!"), and no patterns for folders alone ("tmp/").
package localonly

import (
	"fmt"
	"path"
	"strings"
)

// Set is a set of patterns. The zero value and nil match nothing.
type Set struct {
	patterns [][]string
}

const deep = "**"

// Parse reads patterns. The error says which one is wrong, and why.
func Parse(patterns []string) (*Set, error) {
	s := &Set{}
	for _, p := range patterns {
		segments, err := parse(p)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", p, err)
		}
		s.patterns = append(s.patterns, segments)
	}
	return s, nil
}

func parse(p string) ([]string, error) {
	if p == "" {
		return nil, fmt.Errorf("no path has an empty segment")
	}
	anchored := strings.Contains(p, "/")
	segments := strings.Split(strings.TrimPrefix(p, "/"), "/")
	if !anchored {
		segments = []string{deep, p}
	}
	all := true
	for i, s := range segments {
		switch {
		case s == "" && i == len(segments)-1 && i > 0:
			return nil, fmt.Errorf(`it ends in "/": write it without, or with "/**" for what is in the folder only`)
		case s == "" || s == "." || s == "..":
			return nil, fmt.Errorf("no path has the segment %q", s)
		case strings.HasPrefix(s, "!") && i == 0 && anchored, strings.HasPrefix(p, "!"):
			return nil, fmt.Errorf(`there are no exceptions; a name that begins with "!" is written "\!"`)
		case strings.Contains(s, deep) && s != deep:
			return nil, fmt.Errorf(`"**" is a whole segment`)
		case strings.ContainsRune(s, 0):
			return nil, fmt.Errorf("it has a NUL byte")
		}
		if _, err := path.Match(s, ""); err != nil {
			return nil, fmt.Errorf("%q is malformed", s)
		}
		all = all && strings.Trim(s, "*") == ""
	}
	if all {
		return nil, fmt.Errorf("it matches everything, so that nothing would be kept")
	}
	return segments, nil
}

// Match reports whether a path, relative to the tenant's folder, or a folder
// above it matches a pattern.
func (s *Set) Match(p string) bool {
	if s == nil || len(s.patterns) == 0 || p == "" {
		return false
	}
	segments := strings.Split(p, "/")
	for _, pattern := range s.patterns {
		for n := range segments {
			if match(pattern, segments[:n+1]) {
				return true
			}
		}
	}
	return false
}

// match compares one pattern with one path, both in segments. It takes at most
// the product of their lengths, however many "**" there are.
func match(pattern, segments []string) bool {
	// reach[i] says that the segments so far can be the first i of the pattern.
	reach := make([]bool, len(pattern)+1)
	reach[0] = true
	over := func() { // a "**" may stand for nothing, but at the end
		for i, p := range pattern {
			if p == deep && reach[i] && i < len(pattern)-1 {
				reach[i+1] = true
			}
		}
	}
	over()
	for _, s := range segments {
		next := make([]bool, len(reach))
		for i, p := range pattern {
			if !reach[i] && !(p == deep && reach[i+1]) {
				continue
			}
			if p == deep {
				next[i+1] = true
				next[i] = next[i] || i < len(pattern)-1 && reach[i]
				continue
			}
			if ok, _ := path.Match(p, s); ok {
				next[i+1] = true
			}
		}
		reach = next
		over()
	}
	return reach[len(pattern)]
}
