package pages_test

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/history"
	"atc/fs/history/historytest"
	"atc/fs/history/pages"
)

// TestReadsOnWhileMerged reads a database to whose end the owner merges and
// deletes what it is read from.
func TestReadsOnWhileMerged(t *testing.T) {
	ctx := t.Context()
	b, err := bucket.Open(ctx, "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d := historytest.New(t, b, "db")
	begin := time.Now().Add(-48 * time.Hour)
	d.Exec(t, "create table t(a, b)")
	for n := range 20 {
		d.Exec(t, "insert into t values(1, randomblob(20000))")
		d.Ship(t, begin.Add(time.Duration(n)*10*time.Minute))
	}
	want, err := os.ReadFile(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	log := history.NewLog(b, "db")
	x, err := log.LoadAt(ctx, d.Index.TXID())
	if err != nil {
		t.Fatal(err)
	}
	f := pages.New("main.sqlite3", log, x, pages.Options{First: 4096, Most: 8192})
	got := make([]byte, len(want))
	read := func(begin, end int) {
		t.Helper()
		if n, err := f.ReadAt(ctx, got[begin:end], int64(begin)); err != nil || n != end-begin {
			t.Fatalf("%d bytes of %d: %v", n, end-begin, err)
		}
	}
	half := len(want) / 2
	read(0, half)

	p := history.DefaultPolicy()
	p.Keep0, p.Keep1, p.Keep2, p.Grace, p.SnapshotEvery, p.Dir = 0, 0, 0, 0, 0, t.TempDir()
	for range 2 {
		if _, err := d.Log.Compact(ctx, d.Index, p, time.Now()); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Log.SaveIndex(ctx, d.Index); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Log.Retain(ctx, d.Index, d.Index.Standing(), p); err != nil {
			t.Fatal(err)
		}
	}
	var left []string
	for e, err := range b.List(ctx, "db/", bucket.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(e.Key, ".ltx") {
			left = append(left, e.Key)
		}
	}
	if len(left) > 4 {
		t.Fatalf("still there: %v", left)
	}
	read(half, len(want))
	if !bytes.Equal(got, want) {
		t.Error("it reads something else")
	}
}
