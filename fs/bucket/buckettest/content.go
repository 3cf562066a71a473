package buckettest

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"atc/fs/bucket"
	"atc/fs/errors"
)

// What objects are made of: bodies, metadata and keys, and those that no store
// takes.

func metadata(t *testing.T, b bucket.Bucket) {
	meta := map[string]string{"litestream-timestamp": "2026-11-21T10:00:00.123456789Z", "x": "a \"b\" <c> & d"}
	put(t, b, "k", "v", bucket.PutOptions{Meta: meta})
	if _, info := get(t, b, "k"); !maps.Equal(info.Meta, meta) {
		t.Fatalf("got %v, put %v", info.Meta, meta)
	}
	if err := b.Copy(t.Context(), "k", "copied"); err != nil {
		t.Fatal(err)
	}
	if _, info := get(t, b, "copied"); !maps.Equal(info.Meta, meta) {
		t.Fatalf("the copy has %v", info.Meta)
	}
	// An overwrite replaces the metadata, too.
	put(t, b, "k", "w", bucket.PutOptions{Meta: map[string]string{"y": "1"}})
	if _, info := get(t, b, "k"); !maps.Equal(info.Meta, map[string]string{"y": "1"}) {
		t.Fatalf("after the overwrite: %v", info.Meta)
	}
	put(t, b, "k", "x", bucket.PutOptions{})
	if _, info := get(t, b, "k"); len(info.Meta) != 0 {
		t.Fatalf("after an overwrite without any: %v", info.Meta)
	}
	// What is at the limit fits.
	full := map[string]string{"full": strings.Repeat("m", bucket.MaxMeta-len("full"))}
	put(t, b, "full", "v", bucket.PutOptions{Meta: full})
	if _, info := get(t, b, "full"); !maps.Equal(info.Meta, full) {
		t.Fatal("metadata of the largest size came back changed")
	}
	for what, bad := range map[string]map[string]string{
		"upper case key":  {"Key": "v"},
		"empty key":       {"": "v"},
		"line break":      {"k": "a\r\nx-amz-acl: public-read"},
		"not ASCII":       {"k": "ü"},
		"space around":    {"k": " v"},
		"more than fits":  {"k": strings.Repeat("m", bucket.MaxMeta)},
		"colon in a key":  {"k:": "v"},
		"NUL in a value":  {"k": "a\x00b"},
		"space in a key":  {"a b": "v"},
		"underscore, key": {"a_b": "v"},
	} {
		_, err := b.Put(t.Context(), "bad", bytes.NewReader(nil), bucket.PutOptions{Meta: bad})
		wantKind(t, err, errors.Invalid, what)
	}
}

// noise is a pattern of n bytes in which neighbouring places differ.
func noise(n int) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i ^ i>>8*7 ^ i>>16*13)
	}
	return data
}

func largeBodies(t *testing.T, b bucket.Bucket) {
	const size = 12<<20 + 7
	data := noise(size)
	path := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := b.Put(t.Context(), "large", f, bucket.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, _ := get(t, b, "large"); got != string(data) {
		t.Fatal("a large object came back changed")
	}
	part, info, err := b.GetRange(t.Context(), "large", 5<<20, 4<<20, "")
	if err != nil || info.Size != size || !bytes.Equal(part, data[5<<20:9<<20]) {
		t.Fatalf("a range of a large object: %d bytes, size %d, %v", len(part), info.Size, err)
	}
	if err := b.Copy(t.Context(), "large", "copied"); err != nil {
		t.Fatal(err)
	}
	if got, _ := get(t, b, "copied"); got != string(data) {
		t.Fatal("a large copy differs")
	}
}

// seeker is a body that says how it was used.
type seeker struct {
	io.ReadSeeker
	size   int64 // what it pretends to hold, if not 0
	closed bool
}

func (s *seeker) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekEnd && s.size != 0 {
		return s.size, nil
	}
	return s.ReadSeeker.Seek(offset, whence)
}

func (s *seeker) Close() error { s.closed = true; return nil }

func bodies(t *testing.T, b bucket.Bucket) {
	// From where it stands, and left open.
	body := &seeker{ReadSeeker: strings.NewReader("skipped, kept")}
	if _, err := body.Seek(9, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	info, err := b.Put(t.Context(), "k", body, bucket.PutOptions{})
	if err != nil || info.Size != 4 {
		t.Fatalf("%d bytes, %v", info.Size, err)
	}
	if data, _ := get(t, b, "k"); data != "kept" {
		t.Fatalf("stored %q", data)
	}
	if body.closed {
		t.Error("the body was closed")
	}
	// At its end: nothing.
	if _, err := b.Put(t.Context(), "k", body, bucket.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if data, _ := get(t, b, "k"); data != "" {
		t.Fatalf("stored %q", data)
	}
	_, err = b.Put(t.Context(), "k", &seeker{ReadSeeker: strings.NewReader("x"), size: bucket.MaxObject + 1}, bucket.PutOptions{})
	wantKind(t, err, errors.Invalid, "more bytes than an object can have")
	// A body that ends early must not become an object. To a server that looks
	// like a client that went away.
	ctx, cancel := withLimit(t)
	defer cancel()
	if _, err := b.Put(ctx, "short", &seeker{ReadSeeker: strings.NewReader("short"), size: 100}, bucket.PutOptions{}); err == nil {
		t.Error("a body that ended early was stored")
	}
	_, _, err = b.Get(t.Context(), "short")
	wantKind(t, err, errors.NotExist, "the body that ended early")
}

func keysOfEveryKind(t *testing.T, b bucket.Bucket) {
	keys := []string{
		"plain",
		"a b/c d",
		"plus+percent%2F/question?hash#",
		"colon:star*quote'double\"<&>",
		"üñï/日本語",
		".hidden/..almost",
		"a/.atc/below",
		strings.Repeat("s", bucket.MaxSegment),
		strings.Repeat(strings.Repeat("d", 99)+"/", 7) + "deep",
	}
	for i, key := range keys {
		put(t, b, key, fmt.Sprint(i), bucket.PutOptions{Meta: map[string]string{"i": fmt.Sprint(i)}})
		if err := b.Copy(t.Context(), key, "copies/"+fmt.Sprint(i)); err != nil {
			t.Errorf("copy %q: %v", key, err)
		}
	}
	listed := map[string]bool{}
	for e, err := range b.List(t.Context(), "", bucket.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		listed[e.Key] = true
	}
	for i, key := range keys {
		if data, info := get(t, b, key); data != fmt.Sprint(i) || info.Meta["i"] != data {
			t.Errorf("%q holds %q", key, data)
		}
		if data, _ := get(t, b, "copies/"+fmt.Sprint(i)); data != fmt.Sprint(i) {
			t.Errorf("the copy of %q holds %q", key, data)
		}
		if !listed[key] {
			t.Errorf("%q is not listed", key)
		}
		if err := b.Delete(t.Context(), key); err != nil {
			t.Errorf("delete %q: %v", key, err)
		}
	}
}

func hostileInput(t *testing.T, b bucket.Bucket) {
	for _, key := range []string{
		"", "/", "/absolute", "trailing/", "a//b", ".", "..", "../x", "a/../b", "a/..", "./a", "a/./b",
		"nul\x00", "a\nb", "\x7f", "\xff", "a/\xc0\xaf", "\ufffe",
		".atc", ".atc/lock", ".atc/tmp/x",
		strings.Repeat("s", bucket.MaxSegment+1),
		strings.Repeat(strings.Repeat("d", 99)+"/", 10) + strings.Repeat("d", 25),
	} {
		body := func() io.ReadSeeker { return strings.NewReader("x") }
		for what, do := range map[string]func() error{
			"get":       func() error { _, _, err := b.Get(t.Context(), key); return err },
			"range":     func() error { _, _, err := b.GetRange(t.Context(), key, 0, 1, ""); return err },
			"put":       func() error { _, err := b.Put(t.Context(), key, body(), bucket.PutOptions{}); return err },
			"copy from": func() error { return b.Copy(t.Context(), key, "ok") },
			"copy to":   func() error { return b.Copy(t.Context(), "ok", key) },
			"delete":    func() error { return b.Delete(t.Context(), key) },
		} {
			wantKind(t, do(), errors.Invalid, fmt.Sprintf("%s %.40q", what, key))
		}
	}
	for _, prefix := range []string{"/", "../", "a//", "a/../b", "\x00", ".atc/"} {
		for _, err := range b.List(t.Context(), prefix, bucket.ListOptions{}) {
			wantKind(t, err, errors.Invalid, fmt.Sprintf("list %q", prefix))
		}
		for _, err := range b.List(t.Context(), "", bucket.ListOptions{After: prefix}) {
			wantKind(t, err, errors.Invalid, fmt.Sprintf("list after %q", prefix))
		}
	}
	for range b.List(t.Context(), "", bucket.ListOptions{}) {
		t.Error("something was stored")
	}
}

func copyAndDelete(t *testing.T, b bucket.Bucket) {
	wantKind(t, b.Copy(t.Context(), "nothing", "there"), errors.NotExist, "copy of nothing")
	put(t, b, "d/from", "new", bucket.PutOptions{})
	put(t, b, "d/e/to", "old", bucket.PutOptions{})
	if err := b.Copy(t.Context(), "d/from", "d/e/to"); err != nil {
		t.Fatal(err)
	}
	if data, _ := get(t, b, "d/e/to"); data != "new" {
		t.Fatalf("the copy holds %q", data)
	}
	if err := b.Delete(t.Context(), "d/from"); err != nil {
		t.Fatal(err)
	}
	if data, _ := get(t, b, "d/e/to"); data != "new" {
		t.Fatalf("the copy holds %q after its original went", data)
	}
	for _, key := range []string{"d/from", "d/e", "never/was", "d/e/to/below"} {
		if err := b.Delete(t.Context(), key); err != nil {
			t.Errorf("delete of %s, which is not there: %v", key, err)
		}
	}
	if data, _ := get(t, b, "d/e/to"); data != "new" {
		t.Fatalf("it holds %q after others were deleted", data)
	}
	if err := b.Delete(t.Context(), "d/e/to"); err != nil {
		t.Fatal(err)
	}
	for _, delimiter := range []bool{false, true} {
		for e := range b.List(t.Context(), "", bucket.ListOptions{Delimiter: delimiter}) {
			t.Errorf("%s is left", e.Key)
		}
	}
}
