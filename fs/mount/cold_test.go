package mount_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// neverHydrate keeps the background from fetching what a test counts.
var neverHydrate = volume.Options{HydrateAfter: -1}

// bigDatabase makes a database of about 64 MiB of incompressible rows in the
// bucket and returns the folder that holds everything.
func bigDatabase(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	f := mounttest.Start(t, mounttest.Options{Dir: dir})
	db := filepath.Join(f.MakeTenant(t, "acme"), "main.sqlite3")
	out, err := exec.Command(mounttest.SQLLoad(t), "fill", db, "620000", "wal").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(db)
	if err != nil || info.Size() < 64<<20 {
		t.Fatalf("the database has %d bytes (%v)", info.Size(), err)
	}
	f.Stop(t)
	return dir
}

func TestColdSelectFetchesLittle(t *testing.T) {
	const limit = 1 << 20
	dir := bigDatabase(t)
	if err := os.RemoveAll(filepath.Join(dir, "cache")); err != nil {
		t.Fatal(err)
	}
	f := mounttest.Start(t, mounttest.Options{Dir: dir, Volume: neverHydrate})
	db := filepath.Join(f.Dir, "acme", "main.sqlite3")
	info, err := os.Stat(db)
	if err != nil || info.Size() < 64<<20 {
		t.Fatalf("cold, stat says %d bytes (%v)", info.Size(), err)
	}
	if got := mounttest.SQL(t, db, "select length(v) from kv where k=333333"); got != "100" {
		t.Fatalf("read %q", got)
	}
	s := f.Volume.Stat("")
	t.Logf("%+v", s.Bucket)
	if s.Bucket.BytesIn >= limit {
		t.Errorf("the first SELECT fetched %d bytes, want less than %d", s.Bucket.BytesIn, limit)
	}
	before := s.Tenants[0].Databases[0]
	if before.Faults == 0 || before.Present == 0 || before.Present >= before.Pages {
		t.Errorf("%d faults, %d of %d pages present", before.Faults, before.Present, before.Pages)
	}
	if o := s.Tenants[0].Opening; !before.Arrived || o.Record <= 0 || o.Acquire <= 0 || o.Took < o.Acquire || before.Cold.Index <= 0 || before.RoundTrips() != 3 {
		t.Errorf("breakdown of the opening: %+v, with the tenant %v, %+v, %d round trips", o, before.Arrived, before.Cold, before.RoundTrips())
	}
	f.Stop(t)

	// What was fetched is there at the next start: no page is asked for again.
	// The kernel may read a little further ahead than the first time.
	f = mounttest.Start(t, mounttest.Options{Dir: dir, Volume: neverHydrate})
	if got := mounttest.SQL(t, db, "select length(v) from kv where k=333333"); got != "100" {
		t.Fatalf("read %q", got)
	}
	if d := f.Volume.Stat("").Tenants[0].Databases[0]; int64(d.Present-before.Present) != d.FetchedPages {
		t.Errorf("after a restart with the cache kept %d pages were fetched, and %d more are present than before", d.FetchedPages, d.Present-before.Present)
	}
	f.Stop(t)
}

func TestHydrationCompletes(t *testing.T) {
	dir := bigDatabase(t)
	if err := os.RemoveAll(filepath.Join(dir, "cache")); err != nil {
		t.Fatal(err)
	}
	f := mounttest.Start(t, mounttest.Options{Dir: dir, Volume: volume.Options{HydrateAfter: time.Millisecond, CloseAfter: time.Hour}})
	db := filepath.Join(f.Dir, "acme", "main.sqlite3")
	mounttest.SQL(t, db, "select count(*) from kv where k<10; update kv set v=zeroblob(100) where k=5")
	deadline := time.Now().Add(30 * time.Second)
	for {
		d := f.Volume.Stat("").Tenants[0].Databases[0]
		if d.Present == d.Pages {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d pages present", d.Present, d.Pages)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if got := mounttest.SQL(t, db, "pragma integrity_check; select count(*) from kv; select v=zeroblob(100) from kv where k=5"); got != "ok\n620000\n1" {
		t.Errorf("complete database: %q", got)
	}
	f.Stop(t)

	// At the next start everything is here: the record, the file index and the
	// page index are all that is asked for.
	f = mounttest.Start(t, mounttest.Options{Dir: dir})
	if got := mounttest.SQL(t, db, "pragma integrity_check; select count(*) from kv"); got != "ok\n620000" {
		t.Errorf("after a restart: %q", got)
	}
	s := f.Volume.Stat("")
	if d := s.Tenants[0].Databases[0]; d.Faults != 0 || s.Bucket.Get > 5 || s.Bucket.List != 0 {
		t.Errorf("after a restart with the cache kept: %d faults, %+v", d.Faults, s.Bucket)
	}
	f.Stop(t)
}

// ltxFiles are the LTX objects below a directory bucket, oldest first.
func ltxFiles(t *testing.T, dir string) []string {
	t.Helper()
	out, err := exec.Command("find", dir, "-name", "*.ltx", "-type", "f").Output()
	if err != nil {
		t.Fatal(err)
	}
	files := strings.Fields(string(out))
	if len(files) == 0 {
		t.Fatal("no LTX file in the bucket")
	}
	return files
}

func TestCorruptPageIsAnErrorAndCounted(t *testing.T) {
	dir := bigDatabase(t)
	if err := os.RemoveAll(filepath.Join(dir, "cache")); err != nil {
		t.Fatal(err)
	}
	// Flip a bit in the middle of the largest file: inside some page.
	var largest string
	var size int64
	for _, p := range ltxFiles(t, filepath.Join(dir, "bucket")) {
		if info, err := os.Stat(p); err == nil && info.Size() > size {
			largest, size = p, info.Size()
		}
	}
	flip(t, largest, size/2)
	f := mounttest.Start(t, mounttest.Options{Dir: dir, Volume: neverHydrate})
	db := filepath.Join(f.Dir, "acme", "main.sqlite3")
	// SQLite turns EIO from a read into SQLITE_CORRUPT (os_unix.c, vdbe.c).
	out, err := mounttest.TrySQL(db, "select sum(length(v)) from kv")
	if err == nil || !strings.Contains(out, "malformed") {
		t.Errorf("a scan over the corrupt page: %v %q", err, out)
	}
	if refused := refusedPages(t, db); refused != 1 {
		t.Errorf("%d pages answer EIO, want the one that is corrupt", refused)
	}
	if n := f.Volume.Stat("").Tenants[0].Databases[0].CorruptPages; n == 0 {
		t.Error("the corrupt page was not counted")
	}
	// The pages that are sound can be read.
	if got := mounttest.SQL(t, db, "select length(v) from kv where k=7"); got != "100" {
		t.Errorf("a page beside it: %q", got)
	}
	f.Stop(t)
}

// refusedPages counts the pages of a file that cannot be read.
func refusedPages(t *testing.T, path string) (refused int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page := make([]byte, 4096)
	for at := int64(0); ; at += int64(len(page)) {
		_, err := f.ReadAt(page, at)
		switch {
		case err == io.EOF:
			return refused
		case errors.Errno(err) == syscall.EIO:
			refused++
		case err != nil:
			t.Fatal(err)
		}
	}
}

func flip(t *testing.T, path string, at int64) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var b [1]byte
	if _, err := file.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := file.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// TestTruncatedFilesAreErrors cuts a shipped LTX file at every length and reads
// it the way a machine does that takes over: an error, never a panic, and never
// a commit.
func TestTruncatedFilesAreErrors(t *testing.T) {
	dir := t.TempDir()
	f := mounttest.Start(t, mounttest.Options{Dir: dir})
	db := filepath.Join(f.MakeTenant(t, "acme"), "main.sqlite3")
	mounttest.SQL(t, db, "pragma page_size=512; create table t(a); insert into t values('one');")
	f.WaitShipped(t, "acme")
	f.Stop(t)
	ctx := context.Background()
	b, err := bucket.Open(ctx, "file://"+filepath.Join(dir, "bucket"))
	if err != nil {
		t.Fatal(err)
	}
	var key string
	for e, err := range b.List(ctx, "tenants/acme/db/", bucket.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(e.Key, "/0000/0000000000000001-0000000000000001.ltx") {
			key = e.Key
		}
	}
	body, _, err := b.Get(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := io.ReadAll(body)
	body.Close()
	if err != nil {
		t.Fatal(err)
	}
	read := func(file []byte) (pages int, err error) {
		_, err = history.Decode(bytes.NewReader(file), int64(len(file)), func(history.Page, history.Place) error {
			pages++
			return nil
		})
		return pages, err
	}
	if pages, err := read(whole); err != nil || pages == 0 {
		t.Fatalf("the whole file: %d pages, %v", pages, err)
	}
	for n := range whole {
		if _, err := read(whole[:n]); err == nil {
			t.Errorf("cut to %d of %d bytes it was taken for sound", n, len(whole))
		}
	}
	// And through the mount: no index to begin from, and the log's only file cut.
	folder := strings.TrimSuffix(key, "0000/0000000000000001-0000000000000001.ltx")
	for e, err := range b.List(ctx, folder+"atc/", bucket.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Delete(ctx, e.Key); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Put(ctx, key, bytes.NewReader(whole[:len(whole)-5]), bucket.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(f.Cache); err != nil {
		t.Fatal(err)
	}
	f = mounttest.Start(t, mounttest.Options{Dir: dir})
	if out, err := mounttest.TrySQL(db, "select a from t"); err == nil {
		t.Errorf("read %q from a history that is cut", out)
	}
	f.Stop(t)
}
