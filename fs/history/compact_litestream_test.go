package history

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"

	"atc/fs/bucket"
	"atc/fs/bucket/litestreamtest"
	"atc/fs/bucket/s3test"
)

// What Litestream makes of a compacted history, and what is made of one that
// Litestream has written: the real program, on a directory and on S3.

// restoreWith puts the objects of a folder into a real store and restores from
// there.
func restoreWith(t *testing.T, m *memory, url, folder string, args ...string) ([]byte, error) {
	t.Helper()
	b, err := bucket.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	place := fmt.Sprintf("%d", time.Now().UnixNano())
	for key, o := range m.objects {
		if rest, ok := strings.CutPrefix(key, folder+"/"); ok {
			if _, err := b.Put(t.Context(), place+"/"+rest, bytes.NewReader(o.data), bucket.PutOptions{Meta: o.meta}); err != nil {
				t.Fatal(err)
			}
		}
	}
	replica := url + "/" + place
	if strings.HasPrefix(url, "s3:") {
		replica = strings.Replace(url, "?", "/"+place+"?", 1) + "&force-path-style=true"
	}
	out, err := litestreamtest.Restore(t, replica, args...)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(out)
}

// sqlStory is a story told by SQLite.
type sqlStory struct {
	*story
	path string
	db   *sqlite3.Conn
}

func newSQLStory(t *testing.T) *sqlStory {
	s := &sqlStory{story: newStory(t, 1), path: filepath.Join(t.TempDir(), "db")}
	db, err := sqlite3.Open(s.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s.db = db
	return s
}

func (s *sqlStory) exec(sql string) {
	s.t.Helper()
	if err := s.db.Exec(sql); err != nil {
		s.t.Fatal(err)
	}
	whole, err := os.ReadFile(s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	size := int(whole[16])<<8 | int(whole[17])
	next := state{pageSize: size, time: s.now, pages: slices.Collect(slices.Chunk(whole, size))}
	written := make(map[int]bool)
	before := s.last()
	for i, page := range next.pages {
		if before.pageSize != size || i >= len(before.pages) || !bytes.Equal(page, before.pages[i]) {
			written[i+1] = true
		}
	}
	s.put(next, written)
}

func TestLitestreamRestoresCompacted(t *testing.T) {
	for name, url := range map[string]string{"file": "file://" + t.TempDir(), "s3": s3test.Start(t)} {
		t.Run(name, func(t *testing.T) {
			s, p := newSQLStory(t), testPolicy(t)
			want := func(what string, folder string, txid int, args ...string) {
				t.Helper()
				got, err := restoreWith(t, s.store, url, folder, args...)
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if !bytes.Equal(got, bytes.Join(s.states[txid].pages, nil)) {
					t.Fatalf("%s: litestream restored %d bytes, not transaction %d", what, len(got), txid)
				}
			}
			last := func() int { return len(s.states) - 1 }
			compact := func() Compaction {
				t.Helper()
				c, err := s.log.Compact(t.Context(), s.index, p, s.now)
				if err != nil {
					t.Fatal(err)
				}
				return c
			}
			const insert = `INSERT INTO notes WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c LIMIT 60) SELECT hex(randomblob(400)) FROM c;`
			s.exec(`PRAGMA page_size=1024; CREATE TABLE notes (text);` + insert)
			work := func(n int, step time.Duration) {
				t.Helper()
				for range n {
					s.exec(insert + `DELETE FROM notes WHERE rowid % 3 = 0`)
					s.step(step)
				}
				s.exec(`VACUUM`)
				s.exec(insert)
			}
			work(6, time.Minute)
			s.step(5 * time.Minute)
			if c := compact(); len(c.Outputs) == 0 || s.store.count(2) != 0 {
				t.Fatalf("%+v", c)
			}
			want("level 1", testFolder, last())
			work(10, 10*time.Minute)
			if compact(); s.store.count(2) == 0 {
				t.Fatal("no level 2")
			}
			want("level 2", testFolder, last())
			s.step(9 * time.Hour)
			s.exec(insert)
			s.step(2 * time.Hour)
			work(1, time.Minute)
			if c := compact(); c.Snapshot == 0 {
				t.Fatalf("no snapshot: %+v", c)
			}
			want("snapshot", testFolder, last())
			if _, r, err := round(t.Context(), s.log, s.index, p, s.now); err != nil || r.Files == 0 {
				t.Fatalf("%+v %v", r, err)
			}
			want("retention", testFolder, last())
			points, err := s.log.points(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			middle := points[len(points)/2].Max
			want("a transaction", testFolder, int(middle), "-txid", middle.String())
			if err := s.log.CopyTo(t.Context(), forkFolder, middle, nil); err != nil {
				t.Fatal(err)
			}
			want("a copy", forkFolder, int(middle))
			// Another page size: a snapshot has to follow.
			s.exec(`PRAGMA page_size=4096; VACUUM`)
			s.exec(insert)
			s.step(10 * time.Minute)
			s.exec(insert)
			if c := compact(); c.Snapshot == 0 {
				t.Fatalf("no snapshot after a change of the page size: %+v", c)
			}
			want("another page size", testFolder, last())
			s.step(p.Keep2 + time.Hour)
			s.exec(insert)
			s.step(2 * time.Hour)
			s.exec(insert)
			if _, r, err := round(t.Context(), s.log, s.index, p, s.now); err != nil || r.Files == 0 {
				t.Fatalf("%+v %v", r, err)
			}
			want("everything expired", testFolder, last())
			s.check("the end", s.log, s.index, p)
		})
	}
}

// TestLitestreamRestoresTime merges files and restores the time of each by their
// metadata, as Litestream and as Find do it. Litestream takes no time before the
// first or behind the last modification of the objects, so the clock is real.
func TestLitestreamRestoresTime(t *testing.T) {
	url := s3test.Start(t)
	b, err := bucket.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	s, p := newStory(t, 1), testPolicy(t)
	s.log = NewLog(b, testFolder)
	p.Window1, p.Window2 = 500*time.Millisecond, time.Hour
	s.now = time.Now().Add(-time.Second)
	s.commit(9, false)
	for time.Since(s.states[1].time) < 4*time.Second {
		time.Sleep(100 * time.Millisecond)
		s.now = time.Now()
		s.commit(9, false, 1, 1+s.random.IntN(9))
	}
	if _, err := s.log.Compact(t.Context(), s.index, p, time.Now()); err != nil {
		t.Fatal(err)
	}
	found, err := s.log.list(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found.files { // only what was merged counts
		if f.Level == 0 && f.Max > 1 && f.Max < s.index.TXID()-10 {
			if err := b.Delete(t.Context(), s.log.fileKey(f.FileRef)); err != nil {
				t.Fatal(err)
			}
		}
	}
	points, err := s.log.points(t.Context())
	if err != nil || len(points) > 25 || len(points) < 8 {
		t.Fatalf("%d positions: %v", len(points), err)
	}
	middle := points[len(points)/4+1].Max
	at := s.states[middle].time.Add(2 * time.Millisecond)
	pos, err := s.log.Find(t.Context(), at)
	if err != nil || pos.TXID != middle {
		t.Fatalf("%+v %v, want %s", pos, err, middle)
	}
	replica := strings.Replace(url, "?", "/"+testFolder+"?", 1) + "&force-path-style=true"
	out, err := litestreamtest.Restore(t, replica, "-timestamp", at.Format(time.RFC3339Nano))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, bytes.Join(s.states[middle].pages, nil)) {
		t.Errorf("litestream restored %d bytes, not transaction %s: %v", len(got), middle, err)
	}
}

// TestLitestreamReplicaLoads has Litestream write a history, and then goes on
// with it: loads it at each transaction, compacts it, and lets Litestream
// restore the result.
func TestLitestreamReplicaLoads(t *testing.T) {
	for _, program := range litestreamtest.Programs(t) {
		t.Run(filepath.Base(filepath.Dir(program)), func(t *testing.T) { replicaLoads(t, program) })
	}
}

func replicaLoads(t *testing.T, program string) {
	dir := t.TempDir()
	path, replica := filepath.Join(dir, "db"), filepath.Join(dir, "replica")
	db, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for i, sql := range []string{
		`PRAGMA journal_mode=WAL; CREATE TABLE notes (text)`, `INSERT INTO notes VALUES (hex(randomblob(20000)))`,
		`UPDATE notes SET text = 'small'`, `VACUUM`, `INSERT INTO notes VALUES (hex(randomblob(9000)))`,
	} {
		if err := db.Exec(sql); err != nil {
			t.Fatal(err)
		}
		args := []string{"replicate", "-once", path, "file://" + replica}
		if i == 2 {
			args = slices.Insert(args, 2, "-force-snapshot")
		}
		if text, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
	}
	store := newMemory(time.Now())
	for level := range levels {
		files, _ := filepath.Glob(filepath.Join(replica, "ltx", fmt.Sprint(level), "*.ltx"))
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if HasBlocks(data) {
				var framed bytes.Buffer
				if _, err := Reframe(&framed, bytes.NewReader(data)); err != nil {
					t.Fatal(err)
				}
				refuseDamage(t, data, framed.Bytes())
				data = framed.Bytes()
			}
			if _, err := store.Put(t.Context(), fmt.Sprintf("%s/%04x/%s", testFolder, level, filepath.Base(f)), bytes.NewReader(data), bucket.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	log := NewLog(store, testFolder)
	first, last, err := log.Range(t.Context())
	if err != nil || last.TXID < 5 {
		t.Fatalf("%+v %+v %v", first, last, err)
	}
	url := "file://" + t.TempDir()
	same := func(what string, txid TXID) {
		t.Helper()
		want, err := restoreWith(t, store, url, testFolder, "-txid", txid.String())
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		x, err := log.LoadAt(t.Context(), txid)
		var got buffer
		if err == nil {
			err = log.WriteTo(t.Context(), x, &got, nil)
		}
		if err != nil || !bytes.Equal(got.data, want) {
			t.Fatalf("%s: transaction %s: %d bytes, Litestream restored %d: %v", what, txid, len(got.data), len(want), err)
		}
	}
	for txid := first.TXID; txid <= last.TXID; txid++ {
		same("as Litestream left it", txid)
	}
	x, err := log.Load(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := log.Compact(t.Context(), x, testPolicy(t), time.Now().Add(2*time.Hour))
	if err != nil || len(c.Outputs) == 0 {
		t.Fatalf("%+v %v", c, err)
	}
	same("compacted", last.TXID)
}

// refuseDamage has a file with blocks cut, and a bit inverted, at many places: it
// is not taken, or its pages are the same all the same. A packed page can be
// another one that unpacks to the same.
func refuseDamage(t *testing.T, data, framed []byte) {
	t.Helper()
	step := max(len(data)/500, 1)
	for at := 0; at < len(data); at += step {
		if _, err := Reframe(io.Discard, bytes.NewReader(data[:at])); err == nil {
			t.Errorf("cut at %d of %d bytes it was taken", at, len(data))
		}
		damaged := bytes.Clone(data)
		damaged[at] ^= 0x10
		var out bytes.Buffer
		if _, err := Reframe(&out, bytes.NewReader(damaged)); err == nil && !bytes.Equal(out.Bytes(), framed) {
			t.Errorf("with byte %d of %d damaged it was taken", at, len(data))
		}
	}
	if _, err := Reframe(io.Discard, bytes.NewReader(append(bytes.Clone(data), 0))); err == nil {
		t.Error("with a byte more it was taken")
	}
}
