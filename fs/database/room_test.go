package database

import (
	"context"
	stderrors "errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/bucket/faulty"
	"atc/fs/errors"
	"atc/fs/history"
)

// onFaulty opens a database of one table in journal mode DELETE, which the
// bucket has, on a store with faults.
func onFaulty(t *testing.T) (*DB, *history.Log, *faulty.Bucket) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "main.sqlite3")
	sql(t, path, "create table t(a); insert into t values(zeroblob(100000));")
	b, err := bucket.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	store := faulty.Wrap(b)
	log := history.NewLog(store, "db")
	db := openedOn(t, path, log, true)
	if err := db.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	return db, log, store
}

// writePage writes a page of zeros, but for its last byte, as an application in a
// rollback mode does.
func writePage(t *testing.T, db *DB, page int64, value byte) {
	t.Helper()
	data := make([]byte, 4096)
	data[4095] = value
	if _, err := db.WriteAt(t.Context(), data, (page-1)*4096); err != nil {
		t.Fatal(err)
	}
}

// waiting returns when so many writers wait for room.
func waiting(t *testing.T, db *DB, writers int) Wait {
	t.Helper()
	for range 3000 {
		if w := db.Stat().Waits; len(w) == 1 && w[0].Writers == writers {
			return w[0]
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%d writers do not wait: %+v", writers, db.Stat().Waits)
	return Wait{}
}

// TestBacklogIsMerged overwrites the same pages while the bucket is away: the
// scratch file does not grow with the number of commits.
func TestBacklogIsMerged(t *testing.T) {
	db, log, store := onFaulty(t)
	away := store.Inject(faulty.Fault{Op: faulty.Put, Before: errors.Unavailable})
	for i := range 500 {
		writePage(t, db, 5+int64(i%3), byte(i))
		if err := db.JournalEnd(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			if err := db.Ship(t.Context()); !errors.Retryable(err) {
				t.Fatal(err)
			}
		}
	}
	if db.spool.size > 4*4096 {
		t.Errorf("the spool takes %d bytes for 3 pages", db.spool.size)
	}
	away.Remove()
	if err := db.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(restored(t, log))
	if err != nil {
		t.Fatal(err)
	}
	for page, value := range map[int]byte{5: 498 % 256, 6: 499 % 256, 7: 497 % 256} {
		if b := got[page*4096-1]; b != value {
			t.Errorf("page %d ends with %d, want %d", page, b, value)
		}
	}
	if err := db.Abandon(); err != nil {
		t.Error(err)
	}
}

// TestJournalEndWaitsForRoom fills the spool while the bucket is away: the next
// commit waits, says why, keeps nobody else waiting, and goes on when the bucket
// is back.
func TestJournalEndWaitsForRoom(t *testing.T) {
	db, log, store := onFaulty(t)
	db.opts.SpoolLimit = 2 * 4096
	away := store.Inject(faulty.Fault{Op: faulty.Put, Before: errors.Unavailable})
	for page := range int64(2) {
		writePage(t, db, 5+page, 1)
		if err := db.JournalEnd(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	writePage(t, db, 7, 1)
	ended := make(chan error, 1)
	go func() { ended <- db.JournalEnd(t.Context()) }()
	w := waiting(t, db, 1)
	for !strings.Contains(w.Why, "the spool is full (8192 bytes) because the bucket does not answer: ship test transaction") {
		if time.Since(w.Since) > 20*time.Second {
			t.Fatalf("it waits: %s", w.Why)
		}
		w = waiting(t, db, 1)
	}
	if s := db.Stat(); s.PendingBytes != 2*4096 {
		t.Errorf("%d bytes were taken", s.PendingBytes)
	}
	select {
	case err := <-ended:
		t.Fatalf("it did not wait: %v", err)
	default:
	}
	away.Remove()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if w := db.Stat().Waits; len(w) != 0 {
		t.Errorf("still waiting: %+v", w)
	}
	if err := db.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(restored(t, log))
	if err != nil || got[7*4096-1] != 1 {
		t.Errorf("the bucket does not have what waited: %v", err)
	}
	// A transaction that is larger than the limit passes all the same.
	for page := range int64(10) {
		writePage(t, db, 5+page, 2)
	}
	if err := db.JournalEnd(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := db.Stat(); s.PendingBytes != 10*4096 {
		t.Errorf("%d bytes were taken", s.PendingBytes)
	}
	if err := db.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestWaitsEnd has a writer wait for room until it may not any more.
func TestWaitsEnd(t *testing.T) {
	var gone atomic.Bool
	for name, end := range map[string]func(*DB){
		"the tenant may not be served": func(db *DB) {},
		"the writer is killed":         func(*DB) { gone.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			db, _, store := onFaulty(t)
			db.opts.SpoolLimit = 4096
			why := stderrors.New("the lease has lapsed")
			var lapsed atomic.Bool
			db.opts.MayWait = func() error {
				if lapsed.Load() {
					return errors.E("use", "test", errors.Unavailable, why)
				}
				return nil
			}
			store.Inject(faulty.Fault{Op: faulty.Put, Block: true}) // not only failing
			writePage(t, db, 5, 1)
			if err := db.JournalEnd(t.Context()); err != nil {
				t.Fatal(err)
			}
			writePage(t, db, 6, 1)
			gone.Store(false)
			ctx, cancel := context.WithCancel(WithAsker(t.Context(), gone.Load))
			cancel() // a signal that the writer handles
			ended := make(chan error, 1)
			go func() { ended <- db.JournalEnd(ctx) }()
			waiting(t, db, 1)
			time.Sleep(2 * roomLook)
			select {
			case err := <-ended:
				t.Fatalf("a signal has ended the commit: %v", err)
			default:
			}
			kind := errors.Canceled
			if end(db); !gone.Load() {
				lapsed.Store(true)
				kind = errors.Unavailable
			}
			if err := <-ended; !errors.Is(kind, err) || !strings.Contains(err.Error(), "the spool is full") || lapsed.Load() && !stderrors.Is(err, why) {
				t.Errorf("it ends with %v", err)
			}
			// What was not taken is taken later.
			db.opts.MayWait, db.opts.SpoolLimit = nil, 0
			if err := db.JournalEnd(t.Context()); err != nil {
				t.Fatal(err)
			}
			if pages := db.Unshipped(); pages != 2 {
				t.Errorf("%d pages wait for the bucket", pages)
			}
			if err := db.Abandon(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestLogIsTakenInPortions has a log that holds far more than the spool may: it is
// taken by transactions as there is room, and ticks do not wait.
func TestLogIsTakenInPortions(t *testing.T) {
	dir := t.TempDir()
	base := filepath.Join(dir, "base.sqlite3")
	sql(t, base, "pragma journal_mode=wal; create table t(a);")
	path := filepath.Join(dir, "main.sqlite3")
	copyDatabase(t, base, path)
	b, err := bucket.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	store := faulty.Wrap(b)
	log := history.NewLog(store, "db")
	db := openedOn(t, path, log, true)
	if err := db.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	const limit = 8 * 4096
	db.opts.SpoolLimit = limit
	away := store.Inject(faulty.Fault{Op: faulty.Put, Before: errors.Unavailable})
	sql(t, base, strings.Repeat("insert into t values(randomblob(9000));\n", 60))
	copyDatabase(t, base, path)
	for range 5 {
		if err := db.Tick(); err != nil {
			t.Fatal(err)
		}
	}
	frame := db.wal.frame
	if s := db.Stat(); s.PendingBytes < limit || s.PendingBytes > limit+5*4096 {
		t.Errorf("ticks took %d bytes", s.PendingBytes)
	}
	ended := make(chan error, 1)
	go func() { ended <- db.WALSync(t.Context()) }()
	waiting(t, db, 1)
	if db.wal.frame != frame {
		t.Errorf("%d frames were taken, then %d", frame, db.wal.frame)
	}
	away.Remove()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if s := db.Stat(); s.PendingBytes > limit+5*4096 || db.index.TXID() < 10 {
		t.Errorf("it was taken in %d portions, the last of %d bytes", db.index.TXID(), s.PendingBytes)
	}
	// Everything is taken: nothing waits although the spool may be full.
	store.Inject(faulty.Fault{Op: faulty.Put, Before: errors.Unavailable, Times: 1})
	if err := db.WALSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := db.Flush(t.Context()); err != nil {
		if err = db.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := sql(t, restored(t, log), "pragma journal_mode; pragma integrity_check; select count(*), sum(length(a)) from t;"); !strings.HasSuffix(got, "ok\n60|540000") {
		t.Errorf("the bucket holds %q", got)
	}
	if err := db.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestCommitGivesUpBehindAShipment has a commit that waits for the bucket while a
// shipment of the same database hangs, which had no limit: the commit has one, and
// what it waited for is said.
func TestCommitGivesUpBehindAShipment(t *testing.T) {
	db, log, store := onFaulty(t)
	hangs := store.Inject(faulty.Fault{Op: faulty.Put, Block: true})
	writePage(t, db, 5, 1)
	if err := db.JournalEnd(t.Context()); err != nil {
		t.Fatal(err)
	}
	shipped := make(chan error, 1)
	go func() { shipped <- db.Ship(t.Context()) }()
	<-hangs.Reached()
	db.opts.Commit, db.opts.FaultTimeout = true, 300*time.Millisecond
	writePage(t, db, 6, 1)
	began := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- db.JournalEnd(t.Context()) }()
	if w := waiting(t, db, 1); w.Why != "durability is commit and the bucket has not confirmed yet" {
		t.Errorf("it waits: %s", w.Why)
	}
	select {
	case err := <-ended:
		if !errors.Is(errors.Unavailable, err) || !strings.Contains(err.Error(), "did not confirm within 300ms: ship test: unavailable: a shipment before it is still under way") {
			t.Errorf("it ends with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it waits without a limit")
	}
	t.Logf("after %s of 300ms", time.Since(began))
	hangs.Remove()
	if err := <-shipped; err != nil {
		t.Fatal(err)
	}
	// Nobody can say whether the bucket has it; it comes to have it.
	if err := db.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(restored(t, log)); err != nil || got[5*4096-1] != 1 || got[6*4096-1] != 1 {
		t.Errorf("the history does not match the file: %v", err)
	}
	if err := db.Abandon(); err != nil {
		t.Error(err)
	}
}
