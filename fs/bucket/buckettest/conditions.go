package buckettest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/errors"
)

// What ownership and the log of commits stand on: conditional writes with one
// winner, etags that tell versions apart, and objects that change whole.

// withLimit bounds what should not take long.
func withLimit(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), 20*time.Second)
}

func conditions(t *testing.T, b bucket.Bucket) {
	write := func(body string, opts bucket.PutOptions) (bucket.Info, error) {
		return b.Put(t.Context(), "d/k", strings.NewReader(body), opts)
	}
	_, err := write("never", bucket.PutOptions{IfMatch: "no-such-etag"})
	wantKind(t, err, errors.Condition, "IfMatch without an object")
	first, err := write("one", bucket.PutOptions{IfNoneMatch: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = write("two", bucket.PutOptions{IfNoneMatch: true})
	wantKind(t, err, errors.Condition, "IfNoneMatch with an object")
	_, err = write("two", bucket.PutOptions{IfMatch: "another"})
	wantKind(t, err, errors.Condition, "IfMatch with another etag")
	second, err := write("two", bucket.PutOptions{IfMatch: first.ETag})
	if err != nil {
		t.Fatal(err)
	}
	_, err = write("three", bucket.PutOptions{IfMatch: first.ETag})
	wantKind(t, err, errors.Condition, "IfMatch with an etag of before")
	if data, info := get(t, b, "d/k"); data != "two" || info.ETag != second.ETag {
		t.Fatalf("it holds %q with %s", data, info.ETag)
	}
	_, err = write("three", bucket.PutOptions{IfNoneMatch: true, IfMatch: second.ETag})
	wantKind(t, err, errors.Invalid, "both conditions")
	if err := b.Delete(t.Context(), "d/k"); err != nil {
		t.Fatal(err)
	}
	_, err = write("three", bucket.PutOptions{IfMatch: second.ETag})
	wantKind(t, err, errors.Condition, "IfMatch after the delete")
	if _, err := write("three", bucket.PutOptions{IfNoneMatch: true}); err != nil {
		t.Fatalf("IfNoneMatch after the delete: %v", err)
	}
}

// race lets many write the same key at once. Exactly one wins. What they write
// names the round, because a store's etag may be made of the bytes alone.
func race(t *testing.T, b bucket.Bucket, key string, round int, opts bucket.PutOptions) {
	t.Helper()
	const writers = 32
	var (
		wg    sync.WaitGroup
		errs  [writers]error
		start = make(chan struct{})
	)
	for i := range writers {
		wg.Go(func() {
			<-start
			_, errs[i] = b.Put(t.Context(), key, strings.NewReader(fmt.Sprint(round, i)), opts)
		})
	}
	close(start)
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			t.Fatalf("writers %d and %d both won %s", winner, i, key)
		case err == nil:
			winner = i
		default:
			wantKind(t, err, errors.Condition, fmt.Sprintf("writer %d", i))
		}
	}
	if winner < 0 {
		t.Fatalf("nobody won %s", key)
	}
	if data, _ := get(t, b, key); data != fmt.Sprint(round, winner) {
		t.Fatalf("writer %d won %s, which holds %q", winner, key, data)
	}
}

func oneCreates(t *testing.T, b bucket.Bucket) {
	for i := range 8 {
		race(t, b, fmt.Sprintf("log/%d", i), i, bucket.PutOptions{IfNoneMatch: true})
	}
}

func oneReplaces(t *testing.T, b bucket.Bucket) {
	etag := put(t, b, "record", "before", bucket.PutOptions{}).ETag
	for i := range 8 {
		race(t, b, "record", i, bucket.PutOptions{IfMatch: etag})
		_, info := get(t, b, "record")
		if info.ETag == etag {
			t.Fatal("the etag did not change")
		}
		etag = info.ETag
	}
}

// etagsChange overwrites fast, with bodies of one size, so that neither a clock
// nor a length can tell the versions apart.
func etagsChange(t *testing.T, b bucket.Bucket) {
	seen := map[string]int{}
	for i := range 200 {
		info := put(t, b, "k", fmt.Sprintf("%08d", i), bucket.PutOptions{})
		if before, ok := seen[info.ETag]; ok {
			t.Fatalf("versions %d and %d both have %s", before, i, info.ETag)
		}
		seen[info.ETag] = i
		if i%2 == 0 {
			if err := b.Delete(t.Context(), "k"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func ranges(t *testing.T, b bucket.Bucket) {
	const body = "0123456789"
	etag := put(t, b, "k", body, bucket.PutOptions{}).ETag
	put(t, b, "empty", "", bucket.PutOptions{})
	for _, c := range []struct {
		key            string
		offset, length int64
		want           string
	}{
		{"k", 0, 10, body},
		{"k", 0, 1, "0"},
		{"k", 3, 4, "3456"},
		{"k", 9, 1, "9"},
		{"k", 8, 100, "89"},
		{"k", 0, 1 << 40, body},
		{"k", 10, 1, ""},
		{"k", 11, 5, ""},
		{"k", 1 << 40, 5, ""},
		{"k", 4, 0, ""},
		{"k", 20, 0, ""},
		{"k", -3, 0, "789"},
		{"k", -3, 100, "789"},
		{"k", -10, 0, body},
		{"k", -1000, 0, body},
		{"empty", 0, 1, ""},
		{"empty", 5, 5, ""},
		{"empty", -5, 0, ""},
		{"empty", 0, 0, ""},
	} {
		data, info, err := b.GetRange(t.Context(), c.key, c.offset, c.length, "")
		if err != nil || string(data) != c.want {
			t.Errorf("%s %d+%d: %q, %v; want %q", c.key, c.offset, c.length, data, err, c.want)
			continue
		}
		if c.key == "k" && (info.Size != int64(len(body)) || info.ETag != etag || info.Now.IsZero()) {
			t.Errorf("%s %d+%d: size %d, etag %s, now %v", c.key, c.offset, c.length, info.Size, info.ETag, info.Now)
		}
	}
	for _, c := range [][2]int64{{0, -1}, {5, -1}, {1, 1<<63 - 1}, {-1 << 63, 0}} {
		_, _, err := b.GetRange(t.Context(), "k", c[0], c[1], "")
		wantKind(t, err, errors.Invalid, fmt.Sprintf("range %d+%d", c[0], c[1]))
	}
}

func rangeOfOneVersion(t *testing.T, b bucket.Bucket) {
	first := put(t, b, "k", "first", bucket.PutOptions{})
	if data, _, err := b.GetRange(t.Context(), "k", 1, 3, first.ETag); err != nil || string(data) != "irs" {
		t.Fatalf("got %q, %v", data, err)
	}
	second := put(t, b, "k", "other", bucket.PutOptions{})
	for _, c := range [][2]int64{{1, 3}, {0, 0}, {100, 5}, {-2, 0}} {
		_, _, err := b.GetRange(t.Context(), "k", c[0], c[1], first.ETag)
		wantKind(t, err, errors.Condition, fmt.Sprintf("range %d+%d of the version before", c[0], c[1]))
		if _, _, err := b.GetRange(t.Context(), "k", c[0], c[1], second.ETag); err != nil {
			t.Errorf("range %d+%d of the current version: %v", c[0], c[1], err)
		}
	}
	if err := b.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	_, _, err := b.GetRange(t.Context(), "k", 0, 1, second.ETag)
	wantKind(t, err, errors.NotExist, "range of a version that was deleted")
}

// overwrittenWhole reads while others write: every read is one version, with
// its own metadata.
func overwrittenWhole(t *testing.T, b bucket.Bucket) {
	const size = 256 << 10
	version := func(i int) (io.ReadSeeker, bucket.PutOptions) {
		c := byte('a' + i%26)
		return bytes.NewReader(bytes.Repeat([]byte{c}, size+i%26)), bucket.PutOptions{Meta: map[string]string{"c": string(c)}}
	}
	body, opts := version(0)
	if _, err := b.Put(t.Context(), "k", body, opts); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var writers, readers sync.WaitGroup
	for w := range 2 {
		writers.Go(func() {
			for i := range 30 {
				body, opts := version(2*i + w)
				if _, err := b.Put(t.Context(), "k", body, opts); err != nil {
					t.Errorf("put: %v", err)
				}
			}
		})
	}
	for range 4 {
		readers.Go(func() {
			for n := 0; ctx.Err() == nil || n == 0; n++ {
				r, info, err := b.Get(t.Context(), "k")
				if err != nil {
					t.Errorf("get: %v", err)
					return
				}
				data, err := io.ReadAll(r)
				r.Close()
				if err != nil || len(data) == 0 || int64(len(data)) != info.Size {
					t.Errorf("read %d of %d bytes: %v", len(data), info.Size, err)
					return
				}
				c := data[0]
				if len(data) != size+int(c-'a') || !bytes.Equal(data, bytes.Repeat([]byte{c}, len(data))) || info.Meta["c"] != string(c) {
					t.Errorf("a mixture: %d bytes beginning with %c, metadata %v", len(data), c, info.Meta)
					return
				}
			}
		})
	}
	writers.Wait()
	stop()
	readers.Wait()
}
