package tenant

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"atc/fs/errors"
)

// Fuzz targets for everything that is parsed here: bytes from the bucket are
// hostile.

func FuzzHeartbeat(f *testing.F) {
	for _, seed := range []string{
		`{"machine":"m1","session":"s1","sequence":1,"lease":15000,"address":"[fdaa::1]:80","region":"ams"}`,
		`{"machine":"m1","session":"s2","lease":-1}`, `{"machine":"m1","session":"s1","lease":9223372036854775807}`,
		`{"machine":"m2","session":"s1"}`, `{"MACHINE":"m1","Session":"s1","address":"a\r\nb"}`, `[]`, ``, "\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		const ours = DefaultLease
		h, sound := parseHeartbeat(b, "m1")
		if lease := h.lease(ours); lease < ours || lease > MaxLease {
			t.Fatalf("a lease of %s", lease)
		}
		if !printable(h.Address) || !printable(h.Region) || len(h.Address) > maxAddress || len(h.Region) > maxAddress {
			t.Fatalf("address %q, region %q", h.Address, h.Region)
		}
		// Just read for the first time: nobody is dead but by another session.
		m := watched{seen: true, version: "v", first: time.Hour, latest: time.Hour, beat: h, sound: sound}
		owner := Owner{Machine: "m1", Session: "s1"}
		if v := m.judge(owner, ours); v.Dead != (sound && h.Session != "s1") {
			t.Fatalf("at first %+v, sound: %v", v, sound)
		}
		// Nor is anybody immortal.
		m.latest += MaxLease + MaxLease/driftPart
		if v := m.judge(owner, ours); !v.Dead {
			t.Fatalf("after the longest lease %+v", v)
		}
	})
}

func FuzzRecord(f *testing.F) {
	for _, seed := range []string{
		`{"tenant":"acme","created":"2026-11-21T10:00:00Z","epoch":3,"owner":{"machine":"m1","session":"s1","since":"2026-11-21T10:00:00Z"},"databases":{"db/a.sqlite3":{"folder":"a.sqlite3-x1","txid":"0000000000000007","head":4711,"page_size":4096,"pages":9,"mode":420}}}`,
		`{"tenant":"acme","epoch":3,"released":"2026-11-21T10:00:00Z","removed":[{"path":"a\u0000ff","at":"2026-11-21T10:00:00Z","folder":"a","mode":0}]}`,
		`{"tenant":"acme","databases":{"../x":{"folder":"x"}}}`, `{"tenant":"acme","databases":{"a":null}}`, `{"tenant":"x"}`, `null`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b, "acme")
		if err != nil {
			return
		}
		for path, d := range r.Databases {
			if strings.HasPrefix(path, "/") || slices.Contains(strings.Split(path, "/"), "..") || strings.Contains(d.Folder, "/") || d.Folder == ".." {
				t.Fatalf("database %q in %q", path, d.Folder)
			}
		}
		if r.Epoch+1 == 0 {
			t.Fatal("an epoch that cannot be counted up")
		}
		once, err := encodeRecord(r)
		if err != nil {
			if errors.Is(errors.NoSpace, err) || strings.Contains(err.Error(), "year outside") || strings.Contains(err.Error(), "timezone") {
				return
			}
			t.Fatal(err)
		}
		again, err := parseRecord(once, "acme")
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, once)
		}
		if twice, err := encodeRecord(again); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%v\n%s\n%s", err, once, twice)
		}
	})
}

func FuzzFileIndex(f *testing.F) {
	base := `{"entries":[{"path":"a/b","kind":"file","mode":420,"size":3,"content":"ABC"},{"path":"x","kind":"dir","mode":493}],"trash":[{"path":"x","kind":"file","mode":0,"content":"OLD","removed":"2026-11-21T10:00:00Z"}]}`
	for _, seed := range []string{
		`{"epoch":2,"entries":[{"path":"a/b","kind":"file","mode":420,"size":3,"modified":"2026-11-21T10:00:00Z","content":"ABC"},{"path":"l","kind":"symlink","mode":511,"target":"../x"}]}`,
		`{"entries":[{"path":"a\u0000ffb","kind":"dir"}]}`, `{"entries":[{"path":"../x","kind":"file"}]}`, `{"entries":[{"path":"x","content":"a/b"}]}`, `{}`, `[`,
		`{"epoch":3,"base":"base-1","entries":[{"path":"x","kind":"file","mode":420}],"gone":["a/b","never"],"emptied":["OLD","/x"],"since":"2026-11-21T10:00:00Z","old":[{"name":"base-0","at":"2026-11-21T10:00:00Z"}]}`,
		`{"base":"base-1","trash":[{"path":"a","kind":"dir","mode":0},{"path":"a","kind":"dir","mode":1}]}`, `{"base":"../base"}`, `{"gone":["x"]}`,
		`{"entries":[],"old":[{"name":"index.json"}]}`, `{"base":"base-1","gone":["\u0000zz"]}`,
	} {
		f.Add([]byte(seed), []byte(base))
	}
	f.Fuzz(func(t *testing.T, b, below []byte) {
		h, err := parseFileHead(b)
		if err != nil {
			return
		}
		var on *fileBase
		if h.Base != "" {
			stands, err := parseFileHead(below)
			if err != nil {
				return
			}
			on = &fileBase{h.Base, len(below), stands.Entries, stands.Trash}
		}
		x, err := resolve(h, on)
		if err != nil {
			return
		}
		for i, e := range slices.Concat(x.Entries, x.Trash) {
			if !soundPath(e.Path) || strings.Contains(e.Content, "/") || e.Content == ".." {
				t.Fatalf("%+v", e)
			}
			if i > 0 && i < len(x.Entries) && x.Entries[i-1].Path >= e.Path {
				t.Fatalf("%q stands before %q", x.Entries[i-1].Path, e.Path)
			}
		}
		once, err := encodeFileHead(x.head())
		if err != nil {
			return // a time that JSON cannot hold
		}
		if !json.Valid(once) {
			t.Fatal("no JSON")
		}
		again, err := parseFileHead(once)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, once)
		}
		y, err := resolve(again, on)
		if err != nil {
			t.Fatal(err)
		}
		same := func(a, b FileEntry) bool { return a.same(b) }
		if !slices.EqualFunc(x.Entries, y.Entries, same) || !slices.EqualFunc(x.Trash, y.Trash, same) || !x.Since.Equal(y.Since) {
			t.Fatalf("%+v became %+v by way of\n%s", x, y, once)
		}
	})
}
