package database

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/bucket/faulty"
	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/journal"
)

// The tests of this file open a database whose pages are all in the bucket, and
// count what it takes to read some of them.

// stored is a database in a bucket, with the file that it was made of.
type stored struct {
	bucket *faulty.Bucket
	counts *bucket.Counters
	file   []byte
	path   string
	head   int64
	txid   history.TXID
}

const storedFolder = "tenants/acme/db/main"

func (s *stored) log() *history.Log {
	return history.NewLog(bucket.Count(s.bucket, s.counts), storedFolder)
}

// store makes a database with SQLite and puts it into a new bucket.
func store(t testing.TB, script string) *stored {
	t.Helper()
	return storeIn(t, "file://"+t.TempDir(), script)
}

func storeIn(t testing.TB, url, script string) *stored {
	t.Helper()
	path := filepath.Join(t.TempDir(), "main.sqlite3")
	sql(t, path, "pragma journal_mode=off; pragma synchronous=off;"+script)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := bucket.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	s := &stored{bucket: faulty.Wrap(b), counts: new(bucket.Counters), file: file, path: path}
	s.ship(t, path)
	return s
}

// ship opens the database at path as a new one, ships and closes it.
func (s *stored) ship(t testing.TB, path string) {
	t.Helper()
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	db, err := Open(t.Context(), Options{
		Name: "test", Root: root, Path: filepath.Base(path), Dir: t.TempDir(), Log: s.log(), New: true, Keep: true,
		Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Idle(); err != nil {
		t.Fatal(err)
	}
	s.close(t, db)
}

func (s *stored) close(t testing.TB, db *DB) {
	t.Helper()
	if err := db.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.txid, _, _ = db.Position()
	s.head = db.HeadSize()
}

// cold opens it where nothing is local.
func (s *stored) cold(t testing.TB) *DB {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.sqlite3"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return s.open(t, dir, false)
}

func (s *stored) open(t testing.TB, dir string, keep bool) *DB {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	if err := os.MkdirAll(filepath.Join(dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	db, err := Open(t.Context(), Options{
		Name: "test", Root: root, Path: "main.sqlite3", Dir: filepath.Join(dir, "state"), Log: s.log(),
		At: s.txid, Head: s.head, Keep: keep, Clean: keep,
		Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// read reads a range as the application would, and compares.
func (s *stored) read(t testing.TB, db *DB, off, length int64) {
	t.Helper()
	if err := db.Ensure(t.Context(), off, length); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, length)
	n, err := db.File().ReadAt(b, off)
	if err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if !bytes.Equal(b[:n], s.file[off:off+int64(n)]) {
		t.Fatalf("bytes %d to %d are others than in the bucket", off, off+length)
	}
}

// search reads the pages on the way from a root to a leaf: at each interior page
// the child in the middle. It returns the leaf.
func (s *stored) search(t testing.TB, db *DB, page uint32) uint32 {
	t.Helper()
	const size = 4096
	for {
		off := int64(page-1) * size
		s.read(t, db, off, size)
		children := journal.Children(page, s.file[off:off+size])
		if children == nil {
			return page
		}
		page = children[len(children)*2/3]
	}
}

// rows is a script for a table t whose rows, of some 200 bytes that do not
// compress, come in the order of their keys; its root is page 2.
func rows(n int) string {
	return fmt.Sprintf(`create table t(id integer primary key, v blob);
		with recursive r(n) as (select 1 union all select n+1 from r where n<%d) insert into t select n, randomblob(195) from r;`, n)
}

// shuffled is a script for such a table whose rows come in no order.
func shuffled(n int) string {
	return fmt.Sprintf(`create table t(id integer primary key, v blob);
		with recursive r(n) as (select 1 union all select n+1 from r where n<%d)
		insert into t select (n*2654435761)%%4294967296, randomblob(195) from r;`, n)
}

// TestColdSearchTakesTwoRoundTrips opens a database of 64 MiB cold and finds one
// row, with a bucket whose every answer takes a while: one trip for the head, and
// one for the leaf, whose index block comes beside it.
func TestColdSearchTakesTwoRoundTrips(t *testing.T) {
	const latency = 250 * time.Millisecond // far more than a busy processor takes for the rest
	s := store(t, rows(320_000))
	if len(s.file) < 64<<20 {
		t.Fatalf("%d bytes", len(s.file))
	}
	before := s.counts.Snapshot()
	s.bucket.Inject(faulty.Fault{Latency: latency})
	began := time.Now()
	db := s.cold(t)
	opened := time.Since(began)
	s.read(t, db, 0, 4096)
	leaf := s.search(t, db, 2)
	took := time.Since(began)
	used := s.counts.Snapshot().Sub(before)
	cold := db.Stat().Cold
	t.Logf("open %v, with leaf %d %v, head %d bytes, %+v, %+v", opened, leaf, took, s.head, used, cold)
	if took >= 3*latency {
		t.Errorf("a cold search took %v, want less than three times %v", took, latency)
	}
	if used.Get != 3 || used.List != 0 || used.BytesIn > 1<<20 {
		t.Errorf("%+v, want the head, an index block and a range, of 1 MiB together", used)
	}
	if cold.RoundTrips != 2 || cold.Requests != 3 || cold.Bytes != used.BytesIn || cold.FirstFault < latency || cold.Index < latency || cold.HotPages < 40 {
		t.Errorf("breakdown %+v", cold)
	}
	s.close(t, db)
}

// TestColdScanReadsLargeRanges scans a database cold in reads of 128 KiB, as the
// kernel does.
func TestColdScanReadsLargeRanges(t *testing.T) {
	s := store(t, rows(320_000))
	mib := int64(len(s.file)) >> 20
	before := s.counts.Snapshot()
	s.bucket.Inject(faulty.Fault{Latency: 10 * time.Millisecond})
	db := s.cold(t)
	began := time.Now()
	for off := int64(0); off < int64(len(s.file)); off += 128 << 10 {
		s.read(t, db, off, min(128<<10, int64(len(s.file))-off))
	}
	used := s.counts.Snapshot().Sub(before)
	stat := db.Stat()
	t.Logf("%d MiB in %v: %+v, %d faults", mib, time.Since(began), used, stat.Faults)
	if used.Get > mib/2+30 {
		t.Errorf("%d requests for %d MiB", used.Get, mib)
	}
	if !db.Complete() || stat.FetchedPages > int64(len(s.file)/4096) {
		t.Errorf("complete %v, %d pages were fetched of %d", db.Complete(), stat.FetchedPages, len(s.file)/4096)
	}
	s.close(t, db)
}

// TestSecondOpenFetchesNoPage reads what was read before after a restart.
func TestSecondOpenFetchesNoPage(t *testing.T) {
	s := store(t, rows(60_000))
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.sqlite3"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	db := s.open(t, dir, false)
	s.search(t, db, 2)
	s.close(t, db)
	db = s.open(t, dir, true)
	s.search(t, db, 2)
	if stat := db.Stat(); stat.FetchedPages != 0 || stat.Faults != 0 {
		t.Errorf("%d pages were fetched by %d faults", stat.FetchedPages, stat.Faults)
	}
	s.close(t, db)
}

// TestTouchedPagesAreInTheNextPack has a session read some pages, and the next
// find them in the hot pack.
func TestTouchedPagesAreInTheNextPack(t *testing.T) {
	s := store(t, rows(60_000))
	pages := []uint32{1, 700, 1500, 2100, 2101, 900}
	for round := range 2 {
		db := s.cold(t)
		before := s.counts.Snapshot()
		for _, page := range pages {
			s.read(t, db, int64(page-1)*4096, 4096)
		}
		if used := s.counts.Snapshot().Sub(before); round == 1 && used.Requests() != 0 {
			t.Errorf("what was touched before took %+v", used)
		}
		s.close(t, db)
	}
}

// TestNothingIsFetchedTwice reads from several goroutines, in order, at random
// and by hydration, while the application writes: each page comes once, and what
// was written stays.
func TestNothingIsFetchedTwice(t *testing.T) {
	s := store(t, rows(100_000))
	db := s.cold(t)
	pages := len(s.file) / 4096
	hot := db.Stat().Cold.HotPages
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(n)))
			for i := range 400 {
				page := r.IntN(pages)
				if n == 0 {
					page = i
				}
				if err := db.Ensure(context.Background(), int64(page)*4096, 4096); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		if err := db.Hydrate(context.Background()); err != nil {
			t.Error(err)
		}
	})
	ours := bytes.Repeat([]byte{7}, 4096)
	if _, err := db.WriteAt(t.Context(), ours, 5000*4096); err != nil {
		t.Fatal(err)
	}
	copy(s.file[5000*4096:], ours)
	wg.Wait()
	if !db.Complete() {
		t.Fatal("not complete")
	}
	if got := db.Stat().FetchedPages; got+int64(hot) > int64(pages) || hot == 0 {
		t.Errorf("%d pages were fetched of %d, and %d were in the hot pack", got, pages, hot)
	}
	used := db.opts.Log.Counts()
	if max := int64(len(s.file)) + 2<<20; used.BytesIn > max {
		t.Errorf("%d bytes came for %d of pages", used.BytesIn, len(s.file))
	}
	s.read(t, db, 0, int64(len(s.file)))
	if err := db.Abandon(); err != nil {
		t.Error(err)
	}
}

// TestSiblingsArePrefetchedInKeyOrder reads the leaves of a table, whose rows came
// in no order, by their keys.
func TestSiblingsArePrefetchedInKeyOrder(t *testing.T) {
	s := store(t, shuffled(100_000))
	db := s.cold(t)
	const size = 4096
	root := journal.Children(2, s.file[size:2*size])
	parent := root[0]
	s.read(t, db, size, size)
	s.read(t, db, int64(parent-1)*size, size)
	leaves := journal.Children(parent, s.file[int64(parent-1)*size:][:size])
	if inOrder(leaves) {
		t.Skip("the pages follow each other")
	}
	for _, leaf := range leaves {
		s.read(t, db, int64(leaf-1)*size, size)
		time.Sleep(time.Millisecond) // as long as the application needs for a page
	}
	if faults := db.Stat().Faults; faults > int64(len(leaves)/4) {
		t.Errorf("%d of %d leaves had to be waited for", faults, len(leaves))
	}
	s.close(t, db)
}

// TestCompactedFileIsFoundAgain takes a file away that the index names: one look
// at the bucket finds where its pages are now; where nothing does, they are lost.
func TestCompactedFileIsFoundAgain(t *testing.T) {
	s := store(t, rows(60_000))
	db := s.cold(t)
	s.bucket.Inject(faulty.Fault{Key: "*.ltx", Times: 1, Before: errors.NotExist})
	s.search(t, db, 2)
	lost := s.bucket.Inject(faulty.Fault{Key: "*.ltx", Before: errors.NotExist})
	if err := db.Ensure(t.Context(), 2_000*4096, 1); !errors.Is(errors.Corrupt, err) {
		t.Errorf("a file that is lost: %v", err)
	}
	if lost.Hits() != 2 {
		t.Errorf("looked for %d times", lost.Hits())
	}
	lost.Remove()
	s.close(t, db)
}

// TestSmallDatabaseComesWithItsHead opens a database of some pages: the hot pack
// has them all.
func TestSmallDatabaseComesWithItsHead(t *testing.T) {
	s := store(t, rows(500))
	before := s.counts.Snapshot()
	db := s.cold(t)
	s.read(t, db, 0, int64(len(s.file)))
	if used := s.counts.Snapshot().Sub(before); used.Requests() != 1 || !db.Complete() {
		t.Errorf("%+v, complete %v", used, db.Complete())
	}
	s.close(t, db)
}

// TestHydrationKeepsItsBudget hydrates with a bound.
func TestHydrationKeepsItsBudget(t *testing.T) {
	s := store(t, rows(100_000))
	db := s.cold(t)
	db.opts.HydrateBudget = 40 << 20
	began := time.Now()
	if err := db.Hydrate(t.Context()); err != nil || !db.Complete() {
		t.Fatalf("complete %v: %v", db.Complete(), err)
	}
	if least := time.Duration(len(s.file)-8<<20) * time.Second / (40 << 20); time.Since(began) < least {
		t.Errorf("%d bytes in %v", len(s.file), time.Since(began))
	}
	s.close(t, db)
}

// TestHydrationWaitsForRoom hydrates while the disk is full, and then not.
func TestHydrationWaitsForRoom(t *testing.T) {
	s := store(t, rows(100_000))
	db := s.cold(t)
	var crowded atomic.Bool
	crowded.Store(true)
	db.opts.Crowded = crowded.Load
	before := s.counts.Snapshot()
	db.HydrateAfter(0)
	time.Sleep(crowdedPause + 100*time.Millisecond)
	if used := s.counts.Snapshot().Sub(before); used.Get != 0 {
		t.Errorf("%d requests without room", used.Get)
	}
	s.read(t, db, 5<<20, 4096) // what is asked for comes all the same
	crowded.Store(false)
	for deadline := time.Now().Add(10 * time.Second); !db.Complete(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not go on")
		}
	}
	s.close(t, db)
}

// TestReadOnAfterAFaultFetchesNothingTwice reads the beginning of a file as the
// kernel does, whose second read follows the first.
func TestReadOnAfterAFaultFetchesNothingTwice(t *testing.T) {
	s := store(t, rows(320_000))
	db := s.cold(t)
	s.read(t, db, 0, 4096)      // which the hot pack had
	s.read(t, db, 4096, 32<<10) // of which it had the first page
	s.close(t, db)              // which waits for the background
	fetched, pages := db.stats.fetchedBytes.Load(), db.stats.fetchedPages.Load()
	t.Logf("%d bytes for %d pages", fetched, pages)
	if fetched > (pages+8)*4200 {
		t.Errorf("%d bytes came for %d pages", fetched, pages)
	}
}

// TestCommitTimesNeverGoBack ships with a clock that does.
func TestCommitTimesNeverGoBack(t *testing.T) {
	s := store(t, rows(100))
	db := s.cold(t)
	before := db.index.Time()
	if before.IsZero() {
		t.Fatal("the head has no time")
	}
	db.opts.Now = func() time.Time { return time.Unix(1000, 0) }
	for range 2 {
		if _, err := db.WriteAt(t.Context(), s.file[:4096], 0); err != nil {
			t.Fatal(err)
		}
		if err := db.JournalEnd(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := db.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if now := db.index.Time(); !now.After(before) {
			t.Errorf("a commit at %v after one at %v", now, before)
		} else {
			before = now
		}
	}
	s.close(t, db)
	if db = s.cold(t); db.index.Time().Before(before.Truncate(time.Millisecond)) || db.index.TXID() != 3 {
		t.Errorf("at %v %s after %v", db.index.Time(), db.index.TXID(), before)
	}
	s.close(t, db)
}
