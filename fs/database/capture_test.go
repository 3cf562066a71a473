package database

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"testing"

	"atc/fs/bucket"
	"atc/fs/bucket/faulty"
	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/journal"
)

// TestGrowthWithoutWritingIsZeros ships a commit by which the database grew over
// pages that nobody wrote: a restore wants each of them.
func TestGrowthWithoutWritingIsZeros(t *testing.T) {
	s, err := newSpool(t.TempDir(), 2)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	page := bytes.Repeat([]byte{7}, 512)
	off, err := s.write(page)
	if err != nil {
		t.Fatal(err)
	}
	s.commit(map[uint32]int64{4: off}, 5)
	var numbers []uint32
	for p, err := range s.sequence(512) {
		if err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, p.Number)
		if zero := bytes.Equal(p.Data, make([]byte, 512)); zero != (p.Number != 4) {
			t.Errorf("page %d: zeros %v", p.Number, zero)
		}
	}
	if len(numbers) != 3 || numbers[0] != 3 || numbers[2] != 5 {
		t.Errorf("pages %v, want 3 to 5", numbers)
	}
	// Cut below what the bucket has and grown again, its pages are new ones.
	s.commit(nil, 1)
	s.commit(nil, 3)
	numbers = nil
	for p := range s.sequence(512) {
		numbers = append(numbers, p.Number)
	}
	if len(numbers) != 2 || numbers[0] != 2 {
		t.Errorf("pages %v, want 2 and 3", numbers)
	}
}

// TestUnpublishedFramesAreNotTaken has a commit in the log that its index does
// not know: its writer may be dead, and the next one overwrite it.
func TestUnpublishedFramesAreNotTaken(t *testing.T) {
	dir := t.TempDir()
	base := filepath.Join(dir, "base.sqlite3")
	sql(t, base, "pragma journal_mode=wal; create table t(a); insert into t values('base');")
	path := filepath.Join(dir, "main.sqlite3")
	copyDatabase(t, base, path)
	db, _ := opened(t, path)
	if err := db.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	sql(t, base, "insert into t values('one'); insert into t values('two');")
	copyDatabase(t, base, path)
	log, err := os.ReadFile(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	h, ok := journal.ParseWALHeader(log)
	if !ok {
		t.Fatal("no log")
	}
	frames := uint32((len(log) - journal.WALHeaderSize) / (journal.FrameHeaderSize + h.PageSize))
	publish := func(frame uint32) {
		t.Helper()
		if err := os.WriteFile(path+"-shm", walIndex(log, frame), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	db.opts.SharedIndex = true
	db.Opened(journal.SHM)
	defer db.Released(journal.SHM)
	for _, published := range []uint32{frames - 1, frames} {
		publish(published)
		if err := db.Tick(); err != nil {
			t.Fatal(err)
		}
		if db.wal.frame != published {
			t.Errorf("%d of %d frames are published, %d were taken", published, frames, db.wal.frame)
		}
	}
	if err := db.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// walIndex makes the index of a log of few frames as a writer publishes it (wal.c,
// WalIndexHdr and what follows), in the machine's byte order but for the salts.
func walIndex(log []byte, frame uint32) []byte {
	b := make([]byte, 48)
	order := binary.NativeEndian
	order.PutUint32(b, 3007000)
	b[12] = 1
	order.PutUint32(b[16:], frame)
	copy(b[32:], log[16:24])
	s0, s1 := uint32(0), uint32(0)
	for i := 0; i < 40; i += 8 {
		s0 += order.Uint32(b[i:]) + s1
		s1 += order.Uint32(b[i+4:]) + s0
	}
	order.PutUint32(b[40:], s0)
	order.PutUint32(b[44:], s1)
	b = append(b, b...)
	b = append(b, make([]byte, 136-len(b))...) // WalCkptInfo
	h, _ := journal.ParseWALHeader(log)
	for n := uint32(1); int64(len(log)) > h.FrameOffset(n); n++ {
		b = order.AppendUint32(b, binary.BigEndian.Uint32(log[h.FrameOffset(n):]))
	}
	return b
}

// TestWriteBeatsAFault writes a page while it is being fetched: what came from
// the bucket must not replace it.
func TestWriteBeatsAFault(t *testing.T) {
	dir := t.TempDir()
	base := filepath.Join(dir, "base.sqlite3")
	sql(t, base, `create table t(a); with recursive r(i) as (select 1 union all select i+1 from r where i<3000) insert into t select randomblob(3000) from r;`)
	b, err := bucket.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	store := faulty.Wrap(b)
	log := history.NewLog(store, "db")
	if err := openedOn(t, base, log, true).Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	cold := filepath.Join(dir, "cold.sqlite3")
	if err := os.WriteFile(cold, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	db := openedOn(t, cold, log, false)
	const size, page = 4096, 1500
	slow := store.Inject(faulty.Fault{Op: faulty.GetRange, Key: "*.ltx", Block: true})
	fetched := make(chan error, 1)
	go func() { fetched <- db.Ensure(t.Context(), (page-1)*size, size) }()
	<-slow.Reached()
	written := bytes.Repeat([]byte("written "), size/8)
	if _, err := db.WriteAt(t.Context(), written, (page-1)*size); err != nil {
		t.Fatal(err)
	}
	slow.Remove()
	slow.Release()
	if err := <-fetched; err != nil {
		t.Fatal(err)
	}
	got := make([]byte, size)
	if _, err := db.File().ReadAt(got, (page-1)*size); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if !bytes.Equal(got, written) {
		t.Error("the fetched page has replaced the written one")
	}
	if err := db.Abandon(); err != nil {
		t.Error(err)
	}
}

// TestClaimedSizes has files and logs that claim more pages than anybody wrote:
// refused, before the memory or the bucket is full of zeros.
func TestClaimedSizes(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "main.sqlite3")
	sql(t, path, "create table t(a); insert into t values(1);")
	db, _ := opened(t, path)
	if err := db.Truncate(t.Context(), 1<<43); err != nil {
		t.Fatal(err)
	}
	if err := db.JournalEnd(); !errors.Is(errors.Corrupt, err) {
		t.Errorf("a file of 8 TiB without content: %v", err)
	}
	db.spool.commit(map[uint32]int64{1: 0}, 1<<31)
	if err := db.Ship(t.Context()); !errors.Is(errors.Corrupt, err) {
		t.Errorf("a commit of 2^31 pages: %v", err)
	}
	if err := db.Abandon(); err != nil {
		t.Error(err)
	}
}

// TestUncomparedIsNotClean leaves a journal of a transaction over several
// databases, whose outcome only SQLite can decide: the database opens, so that it
// can, and until then closing it is no clean end.
func TestUncomparedIsNotClean(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "main.sqlite3")
	sql(t, path, "create table t(a); insert into t values(1);")
	const magic = "\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
	left := magic + string(make([]byte, 600)) + "main-mj\x00\x00\x00\x00\x07\x00\x00\x00\x00" + magic
	if err := os.WriteFile(path+"-journal", []byte(left), 0o644); err != nil {
		t.Fatal(err)
	}
	db, _ := opened(t, path)
	if err := db.Close(t.Context()); !errors.Is(errors.Unsupported, err) {
		t.Errorf("closed as if everything was captured: %v", err)
	}
}

// TestOnItsWayIsPending holds a shipment back: until the bucket has confirmed it,
// its pages count as pending, and for as long as they have waited.
func TestOnItsWayIsPending(t *testing.T) {
	path := filepath.Join(t.TempDir(), "main.sqlite3")
	sql(t, path, "create table t(a); insert into t values(1);")
	b, err := bucket.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	store := faulty.Wrap(b)
	away := store.Inject(faulty.Fault{Op: faulty.Put, Before: errors.Unavailable})
	db := openedOn(t, path, history.NewLog(store, "db"), true)
	before := db.Stat()
	if before.PendingPages != 2 || before.InFlight || before.PendingSince.IsZero() {
		t.Errorf("captured: %d pages pending since %s, on their way %v", before.PendingPages, before.PendingSince, before.InFlight)
	}
	if err := db.Ship(t.Context()); !errors.Retryable(err) {
		t.Fatalf("shipping to a store that is away: %v", err)
	}
	if s := db.Stat(); s.PendingPages != 2 || s.PendingBytes != 2*4096 || !s.InFlight || !s.PendingSince.Equal(before.PendingSince) {
		t.Errorf("on their way: %d pages, %d bytes since %s (%v)", s.PendingPages, s.PendingBytes, s.PendingSince, s.InFlight)
	}
	away.Remove()
	if err := db.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := db.Stat(); s.PendingPages != 0 || s.PendingBytes != 0 || s.InFlight || !s.PendingSince.IsZero() {
		t.Errorf("shipped: %d pages, %d bytes since %s (%v)", s.PendingPages, s.PendingBytes, s.PendingSince, s.InFlight)
	}
	if err := db.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestIndexThatLies has an index that names pages which the log's frames do not
// hold, or frames that the log has not, as a program can leave one that writes
// files by itself: nothing is taken by it, the database is called degraded, and
// compared when it is closed.
func TestIndexThatLies(t *testing.T) {
	for name, lie := range map[string]func(log, index []byte) []byte{
		"pages":      func(_, index []byte) []byte { index[len(index)-4]++; return index },
		"no pages":   func(_, index []byte) []byte { return index[:136] },
		"more of it": func(log, _ []byte) []byte { return append(walIndex(log, 1000), make([]byte, 4000)...) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			base := filepath.Join(dir, "base.sqlite3")
			sql(t, base, "pragma journal_mode=wal; create table t(a); insert into t values('base');")
			path := filepath.Join(dir, "main.sqlite3")
			copyDatabase(t, base, path)
			db, history := opened(t, path)
			if err := db.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			sql(t, base, "insert into t values('one'); insert into t values('two');")
			copyDatabase(t, base, path)
			log, err := os.ReadFile(path + "-wal")
			if err != nil {
				t.Fatal(err)
			}
			h, _ := journal.ParseWALHeader(log)
			frames := uint32((len(log) - journal.WALHeaderSize) / (journal.FrameHeaderSize + h.PageSize))
			if err := os.WriteFile(path+"-shm", lie(log, walIndex(log, frames)), 0o644); err != nil {
				t.Fatal(err)
			}
			db.opts.SharedIndex = true
			db.Opened(journal.SHM)
			if err := db.Tick(); err != nil {
				t.Error(err)
			}
			if s := db.Stat(); len(s.Degraded) == 0 || s.PendingPages != 0 {
				t.Errorf("%d pages are taken, degraded %v", s.PendingPages, s.Degraded)
			}
			if err := db.WALEnd(); err != nil {
				t.Errorf("the log cannot be removed: %v", err)
			}
			db.Released(journal.SHM)
			if err := os.Remove(path + "-shm"); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := sql(t, restored(t, history), "pragma integrity_check; select group_concat(a) from t"); got != "ok\nbase,one,two" {
				t.Errorf("the bucket holds %q", got)
			}
		})
	}
}
