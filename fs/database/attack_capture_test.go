package database

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/history"
)

// sql runs the sqlite3 command. Its connection ends without a checkpoint, as
// that of a killed program does.
func sql(t testing.TB, path, statements string) string {
	t.Helper()
	cmd := exec.Command("sqlite3", path)
	cmd.Stdin = strings.NewReader(".dbconfig no_ckpt_on_close on\n" + statements)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("sqlite3: %v\n%s", err, out)
	}
	lines := strings.SplitN(strings.TrimSpace(string(out)), "\n", 2)
	if len(lines) < 2 {
		return ""
	}
	return lines[1]
}

func copyDatabase(t *testing.T, from, to string) {
	t.Helper()
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(from + suffix)
		if err == nil {
			err = os.WriteFile(to+suffix, b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// opened opens a local file that the bucket does not know.
func opened(t *testing.T, path string) (*DB, *history.Log) {
	t.Helper()
	b, err := bucket.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	log := history.NewLog(b, "db")
	return openedOn(t, path, log, true), log
}

// openedOn opens a local file on a log, as a new database or as a cold one.
func openedOn(t *testing.T, path string, log *history.Log, isNew bool) *DB {
	t.Helper()
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	db, err := Open(t.Context(), Options{
		Name: "test", Root: root, Path: filepath.Base(path), Dir: t.TempDir(), Log: log, New: isNew, Keep: isNew,
		Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// restored writes what the bucket holds and returns its path.
func restored(t *testing.T, log *history.Log) string {
	t.Helper()
	ctx := context.Background()
	index, err := log.Load(ctx, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	var file []byte
	size, pages := index.Size()
	for page := uint32(1); page <= pages; page++ {
		data, err := log.ReadPage(ctx, index, page)
		if err != nil {
			t.Fatal(err)
		}
		file = append(file, data[:size]...)
	}
	path := filepath.Join(t.TempDir(), "restored.sqlite3")
	if err := os.WriteFile(path, file, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRewoundLog has a writer that dies between its commit frame and its
// publication in the log's index, after the frame was taken: the next writer
// overwrites the beginning of its frames with a shorter transaction.
func TestRewoundLog(t *testing.T) {
	dir := t.TempDir()
	base := filepath.Join(dir, "base.sqlite3")
	sql(t, base, `pragma journal_mode=wal; create table t(i integer primary key, a, v);
		with recursive r(i) as (select 1 union all select i+1 from r where i<60) insert into t select i, 'base', randomblob(900) from r;`)
	died, next := filepath.Join(dir, "died.sqlite3"), filepath.Join(dir, "next.sqlite3")
	copyDatabase(t, base, died)
	copyDatabase(t, base, next)
	sql(t, died, "update t set a='died';")
	sql(t, next, "update t set a='next' where i=1;")

	path := filepath.Join(dir, "main.sqlite3")
	copyDatabase(t, base, path)
	db, log := opened(t, path)
	if err := db.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	copyDatabase(t, died, path)
	if err := db.WALSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	over, err := os.ReadFile(next + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path+"-wal", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(over, 0); err != nil {
		t.Fatal(err)
	}
	if err := db.WALSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := db.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := sql(t, restored(t, log), "pragma journal_mode; pragma integrity_check; select a, count(*) from t group by a order by a;"); !strings.HasSuffix(got, "ok\nbase|59\nnext|1") {
		t.Errorf("the bucket holds %q", got)
	}
	if err := db.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestOpenTransactionInTheLog has a long transaction whose frames are in the log
// and not committed: looking at it again and again costs no space.
func TestOpenTransactionInTheLog(t *testing.T) {
	dir := t.TempDir()
	base := filepath.Join(dir, "base.sqlite3")
	sql(t, base, "pragma journal_mode=wal; create table t(a);")
	path := filepath.Join(dir, "main.sqlite3")
	copyDatabase(t, base, path)
	db, _ := opened(t, path)
	sql(t, base, "with recursive r(i) as (select 1 union all select i+1 from r where i<1000) insert into t select randomblob(900) from r;")
	log, err := os.ReadFile(base + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+"-wal", log[:len(log)-1000], 0o644); err != nil { // the commit frame is not whole
		t.Fatal(err)
	}
	for range 20 {
		if err := db.Tick(); err != nil {
			t.Fatal(err)
		}
	}
	if size := db.spool.size; size > 2*int64(len(log)) {
		t.Errorf("the spool has %d bytes after 20 looks at a log of %d", size, len(log))
	}
	if err := db.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestPresenceThatCouldNotBeWritten has a full disk: a page that was noted in
// memory only would count as missing after a restart, and be fetched over what
// the application wrote.
func TestPresenceThatCouldNotBeWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "present")
	p, err := openPresence(path, 100)
	if err != nil {
		t.Fatal(err)
	}
	good := p.file
	if p.file, err = os.Open(path); err != nil { // writes fail
		t.Fatal(err)
	}
	if err := p.add(7, 7); err == nil {
		t.Fatal("a write to a read-only file did not fail")
	}
	p.file.Close()
	p.file = good
	if err := p.add(7, 7); err != nil { // there is space again
		t.Fatal(err)
	}
	if err := p.close(); err != nil {
		t.Fatal(err)
	}
	again, err := openPresence(path, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	if !again.has(7) {
		t.Error("page 7 is missing after a restart")
	}
	if fmt.Sprint(again.missing) != "99" {
		t.Errorf("%d pages are missing", again.missing)
	}
}
