package vfs_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"

	"atc/fs/bucket"
	"atc/fs/bucket/faulty"
	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/history/historytest"
	"atc/fs/history/pages"
	"atc/fs/history/vfs"
)

func openBucket(t testing.TB) bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// rows makes a table of n rows whose sum is known.
func rows(n int) string {
	return fmt.Sprintf(`create table t(a integer primary key, b blob, c);
		create index by_c on t(c);
		with recursive n(i) as (select 1 union all select i+1 from n where i<%d)
		insert into t select i, randomblob(300), i%%97 from n;`, n)
}

// query returns the first column of the first row.
func query(c *sqlite3.Conn, sql string) (string, error) {
	s, _, err := c.Prepare(sql)
	if err != nil {
		return "", err
	}
	defer s.Close()
	if !s.Step() {
		return "", s.Err()
	}
	return s.ColumnText(0), s.Err()
}

func connect(t testing.TB, d *vfs.Database) *sqlite3.Conn {
	t.Helper()
	c, err := d.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestReadsEveryKind reads databases of every mode and several page sizes, at
// their last transaction and at the one before.
func TestReadsEveryKind(t *testing.T) {
	for _, size := range []int{512, 4096, 65536} {
		for _, mode := range []string{"wal", "delete", "truncate"} {
			for _, vacuum := range []string{"none", "incremental"} {
				t.Run(fmt.Sprint(size, mode, vacuum), func(t *testing.T) {
					d := historytest.New(t, openBucket(t), "tenants/acme/db/main")
					d.Exec(t, fmt.Sprintf("pragma page_size=%d; pragma auto_vacuum=%s; pragma journal_mode=%s;", size, vacuum, mode)+rows(300))
					first := d.Ship(t, time.Now())
					d.Exec(t, "delete from t where a%3=0; pragma incremental_vacuum; update t set b='new' where a<100")
					last := d.Ship(t, time.Now())
					for txid, want := range map[history.TXID]string{first: "300", last: "200"} {
						x, err := d.Log.LoadAt(t.Context(), txid)
						if err != nil {
							t.Fatal(err)
						}
						v := vfs.Open(t.Context(), "acme/main.sqlite3", d.Log, x, pages.Options{Cache: 32 << 10})
						c := connect(t, v)
						for sql, want := range map[string]string{
							"pragma integrity_check":                            "ok",
							"select count(*) from t":                            want,
							"select count(*) from t indexed by by_c where c>=0": want,
						} {
							if got, err := query(c, sql); err != nil || got != want {
								t.Errorf("at %v: %s = %q, %v; want %s", txid, sql, got, err, want)
							}
						}
						if _, err := query(c, "delete from t"); err == nil || !strings.Contains(err.Error(), "readonly") {
							t.Errorf("writing: %v", err)
						}
						if err := v.Err(); err != nil {
							t.Error(err)
						}
						c.Close()
						v.Close()
						if _, err := v.Connect(); err == nil {
							t.Error("it opens after Close")
						}
					}
				})
			}
		}
	}
}

// TestDamagedPage flips a bit in what the bucket answers for one page.
func TestDamagedPage(t *testing.T) {
	b := faulty.Wrap(openBucket(t))
	d := historytest.New(t, b, "tenants/acme/db/main")
	d.Exec(t, rows(3000))
	d.Ship(t, time.Now())
	const page = 40
	e, ok, err := d.Index.Lookup(t.Context(), page)
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	v := vfs.Open(t.Context(), "acme/main.sqlite3", d.Log, d.Index, pages.Options{First: 4096, Most: 4096})
	defer v.Close()
	c := connect(t, v)
	if got, err := query(c, "select count(*) from sqlite_schema"); got != "2" {
		t.Fatal(got, err)
	}
	// Every range of exactly this page's length is damaged; that of its
	// neighbours may be too, but page 40 is among them.
	b.Inject(faulty.Fault{Op: faulty.GetRange, Mangle: func(body []byte) []byte {
		if len(body) == int(e.Length) {
			return faulty.Flip(len(body) / 2)(body)
		}
		return body
	}})
	_, err = query(c, "select sum(length(b)) from t")
	if !errors.Is(errors.Corrupt, v.Err()) || !strings.Contains(fmt.Sprint(v.Err()), "acme/main.sqlite3 page ") {
		t.Errorf("the failure is %v", v.Err())
	}
	var code sqlite3.ExtendedErrorCode
	if s, ok := err.(*sqlite3.Error); ok {
		code = s.ExtendedCode()
	}
	if code != sqlite3.IOERR_DATA {
		t.Errorf("SQLite says %v (%v)", err, code)
	}
}

// TestUnavailable lets the bucket fail: that is an I/O error, and the next try
// reads on.
func TestUnavailable(t *testing.T) {
	b := faulty.Wrap(openBucket(t))
	d := historytest.New(t, b, "tenants/acme/db/main")
	d.Exec(t, rows(3000))
	d.Ship(t, time.Now())
	v := vfs.Open(t.Context(), "acme/main.sqlite3", d.Log, d.Index, pages.Options{})
	defer v.Close()
	c := connect(t, v)
	fault := b.Inject(faulty.Fault{Op: faulty.GetRange, Skip: 3, Before: errors.Unavailable})
	if got, err := query(c, "select sum(length(b)) from t"); err == nil || !errors.Is(errors.Unavailable, v.Err()) {
		t.Errorf("%q, %v; %v", got, err, v.Err())
	}
	fault.Remove()
	if got, err := query(c, "select sum(length(b)) from t"); err != nil || got != "900000" {
		t.Errorf("afterwards %q, %v", got, err)
	}
}

// TestHammer has many connections read with a cache that is too small.
func TestHammer(t *testing.T) {
	d := historytest.New(t, openBucket(t), "tenants/acme/db/main")
	d.Exec(t, "pragma journal_mode=wal;"+rows(1000))
	d.Ship(t, time.Now())
	v := vfs.Open(t.Context(), "acme/main.sqlite3", d.Log, d.Index, pages.Options{Cache: 48 << 10, First: 16 << 10})
	defer v.Close()
	var work sync.WaitGroup
	for n := range 6 {
		c := connect(t, v)
		work.Go(func() {
			random := rand.New(rand.NewPCG(uint64(n), 1))
			for range 40 {
				a := 1 + random.IntN(1000)
				got, err := query(c, fmt.Sprintf("select c from t where a=%d", a))
				if err != nil || got != fmt.Sprint(a%97) {
					t.Errorf("row %d: %q, %v", a, got, err)
					return
				}
			}
			if got, err := query(c, "select sum(length(b)) from t"); err != nil || got != "300000" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	work.Wait()
}

// TestScanIsCoalesced counts the requests of a scan.
func TestScanIsCoalesced(t *testing.T) {
	var counters bucket.Counters
	b := bucket.Count(openBucket(t), &counters)
	d := historytest.New(t, b, "tenants/acme/db/main")
	d.Exec(t, rows(12000)) // 4 MiB
	d.Ship(t, time.Now())
	v := vfs.Open(t.Context(), "acme/main.sqlite3", d.Log, d.Index, pages.Options{})
	defer v.Close()
	before := counters.Snapshot()
	if got, err := query(connect(t, v), "select sum(length(b)) from t"); err != nil || got != "3600000" {
		t.Fatal(got, err)
	}
	used := counters.Snapshot().Sub(before)
	t.Logf("%+v", used)
	if n := used.Requests(); n > 20 {
		t.Errorf("%d requests to scan 4 MiB", n)
	}
}
