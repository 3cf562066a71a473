package database_test

import (
	"strings"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/database"
	"atc/fs/errors"
	"atc/fs/history/historytest"
)

// TestBarrierComesTooLate puts one behind a commit of a later owner, of which
// nothing but the page index tells: the head beside it was never written.
func TestBarrierComesTooLate(t *testing.T) {
	b, err := bucket.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d := historytest.New(t, b, "db")
	d.Exec(t, "pragma page_size=512; create table t(a); insert into t values(zeroblob(3000000))")
	d.Ship(t, time.Now())
	if _, err := d.Log.SaveIndex(t.Context(), d.Index); err != nil {
		t.Fatal(err)
	}
	kept := 0
	for e, err := range b.List(t.Context(), "db/atc/", bucket.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(e.Key, ".head") {
			err = b.Delete(t.Context(), e.Key)
		} else {
			kept++
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if kept != 1 {
		t.Fatalf("there are %d index objects", kept)
	}
	x, err := d.Log.Load(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	const before = 0 // what is shipped here is of epoch 1
	if err := database.PutBarrier(t.Context(), d.Log, x, before, time.Now); !errors.Is(errors.Fenced, err) || x.TXID() != 1 {
		t.Errorf("%v, and the history ends at %s", err, x.TXID())
	}
	if err := database.PutBarrier(t.Context(), d.Log, x, 2, time.Now); err != nil || x.TXID() != 2 {
		t.Errorf("%v, and the history ends at %s", err, x.TXID())
	}
}
