package bucket_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ncruces/go-sqlite3"
	"github.com/superfly/ltx"

	"atc/fs/bucket"
	"atc/fs/bucket/litestreamtest"
	"atc/fs/bucket/s3test"
)

// The program that everybody has to get a database out of a bucket without us:
// it reads what is under a database's keys as it is, in both stores.

func TestLitestreamRestores(t *testing.T) {
	for name, url := range map[string]string{"file": "file://" + t.TempDir(), "s3": s3test.Start(t)} {
		t.Run(name, func(t *testing.T) {
			b := open(t, url)
			const folder = "tenants/acme/db/main.sqlite3-1a2b"
			want := putHistory(t, b, folder)

			replica := url + "/" + folder
			if name == "s3" {
				replica = strings.Replace(url, "?", "/"+folder+"?", 1) + "&force-path-style=true"
			}
			out, err := litestreamtest.Restore(t, replica)
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(out)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("restored %d bytes, not the %d of the database; %v", len(got), len(want), err)
			}
		})
	}
}

// The links that make this possible in a directory are no objects, and leave
// with the levels that they lead to.
func TestLevelLinks(t *testing.T) {
	dir := t.TempDir()
	b := open(t, "file://"+dir)
	keys := []string{"db/0000/1.ltx", "db/0000/2.ltx", "db/0009/1.ltx"}
	for _, key := range keys {
		put(t, b, key, "x")
	}
	put(t, b, "db/00ff/no-level", "x")
	for _, link := range []string{"db/ltx/0/2.ltx", "db/ltx/9/1.ltx"} {
		if _, err := os.Stat(filepath.Join(dir, link)); err != nil {
			t.Error(err)
		}
	}
	for _, delimiter := range []bool{false, true} {
		for e, err := range b.List(t.Context(), "db/", bucket.ListOptions{Delimiter: delimiter}) {
			if err != nil || strings.Contains(e.Key, "ltx/") {
				t.Errorf("listed %q, %v", e.Key, err)
			}
		}
	}
	for i, key := range keys {
		if err := b.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		links, _ := os.ReadDir(filepath.Join(dir, "db/ltx"))
		if want := []int{2, 1, 0}[i]; len(links) != want {
			t.Errorf("without %s there are %d links, want %d", key, len(links), want)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "db/ltx")); !os.IsNotExist(err) {
		t.Errorf("the links' folder: %v", err)
	}
}

// putHistory stores a database as a snapshot and a commit, and returns what it
// is at the end.
func putHistory(t *testing.T, b bucket.Bucket, folder string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	db, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var before, now []byte
	const insert = `INSERT INTO notes WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c LIMIT 100)
		SELECT hex(randomblob(500)) FROM c;`
	for txid, sql := range []string{
		`CREATE TABLE notes (text);` + insert,
		`UPDATE notes SET text = 'changed' WHERE rowid = 50;` + insert,
	} {
		if err := db.Exec(sql); err != nil {
			t.Fatal(err)
		}
		if now, err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
		putCommit(t, b, folder, ltx.TXID(txid+1), before, now)
		before = now
	}
	return now
}

// putCommit stores the pages that differ as the LTX file of one transaction.
func putCommit(t *testing.T, b bucket.Bucket, folder string, txid ltx.TXID, before, now []byte) {
	t.Helper()
	size := int(binary.BigEndian.Uint16(now[16:]))
	var file bytes.Buffer
	enc, err := ltx.NewEncoder(&file)
	if err != nil {
		t.Fatal(err)
	}
	header := ltx.Header{
		Version: ltx.Version, Flags: ltx.HeaderFlagNoChecksum, PageSize: uint32(size),
		Commit: uint32(len(now) / size), MinTXID: txid, MaxTXID: txid, Timestamp: int64(txid),
	}
	if err := enc.EncodeHeader(header); err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(now); at += size {
		page := now[at : at+size]
		if at+size <= len(before) && bytes.Equal(page, before[at:at+size]) {
			continue
		}
		if err := enc.EncodePage(ltx.PageHeader{Pgno: uint32(at/size + 1)}, page); err != nil {
			t.Fatal(err)
		}
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	key := fmt.Sprintf("%s/0000/%s", folder, ltx.FormatFilename(txid, txid))
	if _, err := b.Put(t.Context(), key, bytes.NewReader(file.Bytes()), bucket.PutOptions{IfNoneMatch: true}); err != nil {
		t.Fatal(err)
	}
}
