package history

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/superfly/ltx"

	"atc/fs/errors"
	"atc/fs/journal"
)

// rawFile makes an LTX file of pages in the given order, which Encode would
// refuse, with a sound checksum.
func rawFile(t testing.TB, ref FileRef, size uint32, pages ...uint32) []byte {
	t.Helper()
	var file bytes.Buffer
	enc, err := ltx.NewEncoder(&file)
	if err != nil {
		t.Fatal(err)
	}
	h := ltx.Header{Version: ltx.Version, Flags: ltx.HeaderFlagNoChecksum, PageSize: 512, Commit: size, MinTXID: ref.Min, MaxTXID: ref.Max, Timestamp: 1}
	if err := enc.EncodeHeader(h); err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		if err := enc.EncodePage(ltx.PageHeader{Pgno: p}, bytes.Repeat([]byte{byte(p)}, 512)); err != nil {
			t.Fatal(err)
		}
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// TestMergeRefuses gives merges what no writer makes.
func TestMergeRefuses(t *testing.T) {
	a, b := FileRef{Min: 2, Max: 2}, FileRef{Min: 3, Max: 3}
	sound := func(ref FileRef) []byte { return rawFile(t, ref, 5, 1, 3) }
	for what, inputs := range map[string][2][]byte{
		"sound":                      {sound(a), sound(b)},
		"other transactions, first":  {sound(b), sound(b)},
		"other transactions, second": {sound(a), sound(a)},
		"more pages than there are":  {rawFile(t, a, ^uint32(0), 1), rawFile(t, b, ^uint32(0), 2)},
		"a size that nobody wrote":   {sound(a), rawFile(t, b, 1<<31, 1)},
		"nothing":                    {sound(a), nil},
	} {
		store := newMemory(time.Unix(0, 0))
		log := NewLog(store, testFolder)
		store.objects[log.fileKey(a)] = object{data: inputs[0]}
		store.objects[log.fileKey(b)] = object{data: inputs[1]}
		_, _, err := log.merge(t.Context(), 1, []File{{FileRef: a}, {FileRef: b}}, t.TempDir())
		if what == "sound" {
			if err != nil {
				t.Error(err)
			}
		} else if !errors.Is(errors.Corrupt, err) || len(store.objects) != 2 {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestMergeTakesWhatStands has the output there before: the same, as another
// session wrote it, damaged, or another history's.
func TestMergeTakesWhatStands(t *testing.T) {
	a, b, out := FileRef{Min: 2, Max: 2}, FileRef{Min: 3, Max: 3}, FileRef{Level: 1, Min: 2, Max: 3}
	store := newMemory(time.Unix(0, 0))
	log := NewLog(store, testFolder)
	store.objects[log.fileKey(a)] = object{data: rawFile(t, a, 5, 1, 3)}
	store.objects[log.fileKey(b)] = object{data: rawFile(t, b, 5, 2, 3)}
	same, other := rawFile(t, out, 5, 1, 2, 3), rawFile(t, out, 5, 1, 2)
	for what, c := range map[string]struct {
		there []byte
		kind  errors.Kind
	}{
		"the same": {same, errors.Other}, "damaged": {same[:len(same)-3], errors.Other}, "another": {other, errors.Corrupt},
	} {
		store.objects[log.fileKey(out)] = object{data: c.there}
		_, places, err := log.merge(t.Context(), 1, []File{{FileRef: a}, {FileRef: b}}, "")
		if errors.KindOf(err) != c.kind {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil {
			continue
		}
		_, want, err := log.decode(t.Context(), out)
		if err != nil || len(want) != 3 || !samePages(want, places) || want[3] != places[3] {
			t.Errorf("%s: places %v, want %v: %v", what, places, want, err)
		}
	}
}

// TestMergeLeavesOutLockPage merges growth over the lock page, which no file has:
// the page behind it was never written and becomes zero, it does not.
func TestMergeLeavesOutLockPage(t *testing.T) {
	const size = 65536
	lock := journal.LockPage(size)
	store := newMemory(time.Unix(0, 0))
	log := NewLog(store, testFolder)
	data := make([]byte, size)
	put := func(txid TXID, pages uint32, from, to uint32) File {
		var file bytes.Buffer
		_, err := Encode(&file, Commit{PageSize: size, Pages: pages, TXID: txid}, func(yield func(Page, error) bool) {
			for p := from; p <= to; p++ {
				data[0] = byte(txid)
				if p != lock && !yield(Page{p, data}, nil) {
					return
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		ref := FileRef{Min: txid, Max: txid}
		store.objects[log.fileKey(ref)] = object{data: file.Bytes()}
		return File{FileRef: ref}
	}
	_, places, err := log.merge(t.Context(), 1, []File{put(2, lock-1, lock-1, lock-1), put(3, lock+3, lock+2, lock+3)}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := places[lock]; ok || len(places) != 4 || places[lock+1].Length == 0 {
		t.Errorf("%d places, lock page %v", len(places), ok)
	}
}

// FuzzMerge merges a sound file with anything, on either side of it.
func FuzzMerge(f *testing.F) {
	a, b := FileRef{Min: 2, Max: 2}, FileRef{Min: 3, Max: 3}
	f.Add(rawFile(f, b, 5, 1, 3), false)
	f.Add(rawFile(f, a, 7, 2, 7), true)
	f.Add([]byte(strings.Repeat("LTX1", 40)), true)
	f.Fuzz(func(t *testing.T, data []byte, first bool) {
		store := newMemory(time.Unix(0, 0))
		log := NewLog(store, testFolder)
		store.objects[log.fileKey(a)] = object{data: rawFile(t, a, 5, 1, 3)}
		store.objects[log.fileKey(b)] = object{data: rawFile(t, b, 5, 2, 3)}
		if first {
			store.objects[log.fileKey(a)] = object{data: data}
		} else {
			store.objects[log.fileKey(b)] = object{data: data}
		}
		out, places, err := log.merge(t.Context(), 1, []File{{FileRef: a}, {FileRef: b}}, "")
		if err != nil {
			if len(store.objects) != 2 {
				t.Errorf("failed with %v, and put something", err)
			}
			return
		}
		if _, theirs, err := log.decode(t.Context(), out.FileRef); err != nil || !samePages(theirs, places) {
			t.Errorf("an output that is not sound: %v", err)
		}
	})
}
