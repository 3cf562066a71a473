package bucket

import (
	"fmt"
	"io"
	"math"
	"strings"
	"unicode"
	"unicode/utf8"

	"atc/fs/errors"
)

// What every store takes. The limits are the narrowest of S3's and a
// directory's, and are checked in one place, so that a key that works with one
// store works with the other and a hostile one reaches neither.

// Limits of keys and objects, in bytes.
const (
	MaxKey     = 1024    // a whole key, with the prefix of the store's URL (S3)
	MaxSegment = 255     // between two slashes (Linux file names)
	MaxMeta    = 2 << 10 // all metadata keys and values of an object together (S3)
	MaxObject  = 5 << 30 // one object: what S3 takes in one request
)

// reserved is the first segment under which the directory store keeps its own
// files.
const reserved = ".atc"

// checkKey refuses what is no key. Prefix is the number of bytes that the
// store puts before it.
func checkKey(op, key string, prefix int) error {
	if why := keyFault(key, prefix); why != "" {
		return errors.E(op, shown(key), errors.Invalid, fmt.Errorf("the key %s", why))
	}
	return nil
}

// checkList refuses a prefix and a start that cannot belong to keys.
func checkList(prefix string, opts ListOptions, before int) error {
	for _, s := range []string{prefix, opts.After} {
		if s == "" {
			continue
		}
		if err := checkKey("list", strings.TrimSuffix(s, "/"), before); err != nil {
			return err
		}
	}
	if opts.Limit < 0 {
		return errors.E("list", shown(prefix), errors.Invalid, fmt.Errorf("limit %d is negative", opts.Limit))
	}
	return nil
}

// keyFault says what is wrong with a key, or nothing.
func keyFault(key string, prefix int) string {
	switch {
	case key == "":
		return "is empty"
	case prefix+len(key) > MaxKey:
		return fmt.Sprintf("has %d bytes with its prefix, more than %d", prefix+len(key), MaxKey)
	case !utf8.ValidString(key):
		return "is not UTF-8"
	case strings.ContainsFunc(key, unprintable):
		return "contains a control character"
	}
	for i, s := range strings.Split(key, "/") {
		switch {
		case s == "":
			return "has an empty segment"
		case s == "." || s == "..":
			return "has a segment " + s
		case len(s) > MaxSegment:
			return fmt.Sprintf("has a segment of more than %d bytes", MaxSegment)
		case i == 0 && s == reserved:
			return "begins with " + reserved + ", which belongs to the store"
		}
	}
	return ""
}

// unprintable finds the characters that an XML listing cannot carry.
func unprintable(r rune) bool {
	return unicode.IsControl(r) || r == 0xFFFE || r == 0xFFFF
}

// shown bounds and quotes a key that no message should repeat as it is.
func shown(key string) string {
	if len(key) > 80 {
		key = key[:80] + "..."
	}
	return fmt.Sprintf("%q", key)
}

// checkPut refuses options that no store takes, and finds how many bytes body
// holds from where it stands, leaving it there.
func checkPut(key string, body io.ReadSeeker, opts PutOptions) (size int64, err error) {
	refuse := func(format string, args ...any) (int64, error) {
		return 0, errors.E("put", key, errors.Invalid, fmt.Errorf(format, args...))
	}
	if opts.IfNoneMatch && opts.IfMatch != "" {
		return refuse("IfNoneMatch and IfMatch exclude each other")
	}
	total := 0
	for k, v := range opts.Meta {
		total += len(k) + len(v)
		if k == "" || strings.ContainsFunc(k, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
		}) {
			return refuse("metadata key %s is not made of a-z, 0-9 and -", shown(k))
		}
		if v != strings.TrimSpace(v) || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r > '~' }) {
			return refuse("metadata %s has a value that is not printable ASCII without space around it", k)
		}
	}
	if total > MaxMeta {
		return refuse("%d bytes of metadata are more than %d", total, MaxMeta)
	}
	start, err := body.Seek(0, io.SeekCurrent)
	if err == nil {
		size, err = body.Seek(0, io.SeekEnd)
		size -= start
	}
	if err == nil {
		_, err = body.Seek(start, io.SeekStart)
	}
	if err != nil {
		return 0, errors.E("put", key, errors.Other, fmt.Errorf("finding the body's length: %w", err))
	}
	if size < 0 || size > MaxObject {
		return refuse("%d bytes are not between 0 and %d", size, int64(MaxObject))
	}
	return size, nil
}

// checkRange refuses a range that means nothing.
func checkRange(key string, offset, length int64) error {
	if offset >= 0 && length < 0 || offset == math.MinInt64 || offset >= 0 && length > math.MaxInt64-offset {
		return errors.E("get", key, errors.Invalid, fmt.Errorf("no range has offset %d and length %d", offset, length))
	}
	return nil
}
