// Package historytest puts SQLite databases into histories, for tests.
package historytest

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/history"
	"atc/fs/journal"
)

// Database is a local database whose states are put into a history.
type Database struct {
	Path  string
	Log   *history.Log
	Index *history.Index
	last  []byte // the file as it was shipped
}

// New returns an empty database with a history in folder.
func New(t testing.TB, b bucket.Bucket, folder string) *Database {
	return &Database{
		Path: t.TempDir() + "/main.sqlite3",
		Log:  history.NewLog(b, folder), Index: history.NewIndex(),
	}
}

// Exec runs statements on the local file with the sqlite3 command.
func (d *Database) Exec(t testing.TB, sql string) {
	t.Helper()
	cmd := exec.Command("sqlite3", "-bail", d.Path)
	cmd.Stdin = strings.NewReader(sql)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s\n%s", err, out, sql)
	}
}

// Ship puts what changed in the local file as one transaction with the time.
func (d *Database) Ship(t testing.TB, at time.Time) history.TXID {
	t.Helper()
	content, err := os.ReadFile(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	h, ok := journal.ParseHeader(content)
	if !ok {
		t.Fatal("no database")
	}
	var file bytes.Buffer
	c := history.Commit{
		PageSize: h.PageSize, Pages: uint32(len(content) / h.PageSize),
		TXID: d.Index.TXID() + 1, Time: at, Epoch: 1,
	}
	places, err := history.Encode(&file, c, func(yield func(history.Page, error) bool) {
		for p := uint32(1); p <= c.Pages; p++ {
			begin := int(p-1) * h.PageSize
			data := content[begin:][:h.PageSize]
			same := begin+h.PageSize <= len(d.last) && bytes.Equal(d.last[begin:][:h.PageSize], data)
			if !same && p != journal.LockPage(h.PageSize) && !yield(history.Page{Number: p, Data: data}, nil) {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := d.Log.Append(t.Context(), c, bytes.NewReader(file.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Index.Apply(ref, c, places); err != nil {
		t.Fatal(err)
	}
	d.last = content
	return c.TXID
}
