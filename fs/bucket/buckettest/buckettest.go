// Package buckettest is the contract of a bucket as a test suite. Every store
// passes it:
//
//	func TestDirectory(t *testing.T) {
//		buckettest.Run(t, func(t *testing.T) bucket.Bucket { ... })
//	}
package buckettest

import (
	"bytes"
	"context"
	"io"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/errors"
)

// Run checks the whole contract of [bucket.Bucket]. Open returns an empty store
// for one test; it may skip or fail it.
func Run(t *testing.T, open func(t *testing.T) bucket.Bucket) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, b bucket.Bucket)
	}{
		{"Objects", objects},
		{"Metadata", metadata},
		{"LargeBodies", largeBodies},
		{"Bodies", bodies},
		{"KeysOfEveryKind", keysOfEveryKind},
		{"HostileInput", hostileInput},
		{"CopyAndDelete", copyAndDelete},
		{"Clock", clock},
		{"Conditions", conditions},
		{"OneCreates", oneCreates},
		{"OneReplaces", oneReplaces},
		{"EtagsChange", etagsChange},
		{"Ranges", ranges},
		{"RangeOfOneVersion", rangeOfOneVersion},
		{"OverwrittenWhole", overwrittenWhole},
		{"ListEdges", listEdges},
		{"ListManyKeys", listManyKeys},
		{"CanceledAtOnce", canceledAtOnce},
		{"URLOpensTheSame", urlOpensTheSame},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

// put writes an object that has to be written.
func put(t testing.TB, b bucket.Bucket, key, body string, opts bucket.PutOptions) bucket.Info {
	t.Helper()
	info, err := b.Put(t.Context(), key, bytes.NewReader([]byte(body)), opts)
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	if info.ETag == "" || info.Size != int64(len(body)) {
		t.Fatalf("put %s: etag %q, size %d of %d", key, info.ETag, info.Size, len(body))
	}
	return info
}

// get reads an object that has to be there.
func get(t testing.TB, b bucket.Bucket, key string) (string, bucket.Info) {
	t.Helper()
	r, info, err := b.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("reading %s: %v", key, err)
	}
	if info.Size != int64(len(data)) {
		t.Fatalf("get %s: size %d, read %d bytes", key, info.Size, len(data))
	}
	return string(data), info
}

// wantKind checks that err is of the kind, and names the key.
func wantKind(t testing.TB, err error, kind errors.Kind, what string) {
	t.Helper()
	if !errors.Is(kind, err) {
		t.Errorf("%s: got %v (%v), want %v", what, err, errors.KindOf(err), kind)
	}
}

// objects tells the life of one.
func objects(t *testing.T, b bucket.Bucket) {
	_, _, err := b.Get(t.Context(), "a/b/c")
	wantKind(t, err, errors.NotExist, "get before put")
	first := put(t, b, "a/b/c", "one", bucket.PutOptions{})
	data, info := get(t, b, "a/b/c")
	if data != "one" || info.ETag != first.ETag {
		t.Fatalf("got %q with %s, put one with %s", data, info.ETag, first.ETag)
	}
	second := put(t, b, "a/b/c", "two and more", bucket.PutOptions{})
	if data, info := get(t, b, "a/b/c"); data != "two and more" || info.ETag != second.ETag || info.ETag == first.ETag {
		t.Fatalf("after the overwrite: %q with %s", data, info.ETag)
	}
	put(t, b, "a/empty", "", bucket.PutOptions{})
	if data, _ := get(t, b, "a/empty"); data != "" {
		t.Fatalf("an empty object holds %q", data)
	}
	// A folder of keys is no object.
	_, _, err = b.Get(t.Context(), "a/b")
	wantKind(t, err, errors.NotExist, "get of a folder")
	_, _, err = b.Get(t.Context(), "a/empty/below")
	wantKind(t, err, errors.NotExist, "get below an object")
	_, _, err = b.GetRange(t.Context(), "nothing", 0, 1, "")
	wantKind(t, err, errors.NotExist, "range of nothing")
}

// clock checks that an object's age can be told from one answer.
func clock(t *testing.T, b bucket.Bucket) {
	put(t, b, "k", "v", bucket.PutOptions{})
	_, whole := get(t, b, "k")
	_, part, err := b.GetRange(t.Context(), "k", 0, 1, "")
	if err != nil {
		t.Fatal(err)
	}
	for what, info := range map[string]bucket.Info{"get": whole, "range": part} {
		if info.Now.IsZero() || info.Modified.IsZero() {
			t.Fatalf("%s: now %v, modified %v", what, info.Now, info.Modified)
		}
		// Both are cut to seconds, and the machine may be busy.
		if age := info.Now.Sub(info.Modified); age < -time.Second || age > 30*time.Second {
			t.Errorf("%s: a new object is %v old", what, age)
		}
	}
}

// canceledAtOnce checks that no operation outlives its context.
func canceledAtOnce(t *testing.T, b bucket.Bucket) {
	put(t, b, "k", "v", bucket.PutOptions{})
	open, _, err := b.Get(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	open.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	start := time.Now()
	for what, do := range map[string]func() error{
		"get": func() error {
			r, _, err := b.Get(ctx, "k")
			if err == nil {
				defer r.Close()
				_, err = io.ReadAll(r)
			}
			return err
		},
		"range":  func() error { _, _, err := b.GetRange(ctx, "k", 0, 1, ""); return err },
		"put":    func() error { _, err := b.Put(ctx, "n", bytes.NewReader([]byte("v")), bucket.PutOptions{}); return err },
		"copy":   func() error { return b.Copy(ctx, "k", "n") },
		"delete": func() error { return b.Delete(ctx, "k") },
		"list": func() error {
			for _, err := range b.List(ctx, "", bucket.ListOptions{}) {
				return err
			}
			return nil
		},
	} {
		wantKind(t, do(), errors.Canceled, what)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("canceled operations took %v", took)
	}
	// A deadline is another kind: the caller may try again later.
	ctx, cancel = context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	_, err = b.Put(ctx, "n", bytes.NewReader(nil), bucket.PutOptions{})
	wantKind(t, err, errors.Unavailable, "put behind its deadline")
	// In the middle of a body, however long the rest would take.
	const size = 128 << 20
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	body := &endless{cancel: cancel}
	_, err = b.Put(ctx, "n", &seeker{ReadSeeker: body, size: size}, bucket.PutOptions{})
	wantKind(t, err, errors.Canceled, "put canceled in its body")
	if body.read > size/8 {
		t.Errorf("%d bytes were read after the cancelation", body.read)
	}
	if data, _ := get(t, b, "k"); data != "v" {
		t.Errorf("the object holds %q", data)
	}
	_, _, err = b.Get(t.Context(), "n")
	wantKind(t, err, errors.NotExist, "what canceled writes wrote")
}

// endless is a body that is canceled when it is read.
type endless struct {
	cancel func()
	read   int64
}

func (e *endless) Read(p []byte) (int, error) {
	e.cancel()
	e.read += int64(len(p))
	return len(p), nil
}

func (e *endless) Seek(int64, int) (int64, error) { return 0, nil }

// urlOpensTheSame checks that a store's name leads back to it.
func urlOpensTheSame(t *testing.T, b bucket.Bucket) {
	put(t, b, "k", "v", bucket.PutOptions{})
	again, err := bucket.Open(t.Context(), b.URL())
	if err != nil {
		t.Fatal(err)
	}
	if data, _ := get(t, again, "k"); data != "v" || again.URL() != b.URL() {
		t.Fatalf("%s opened as %s, which holds %q", b.URL(), again.URL(), data)
	}
}
