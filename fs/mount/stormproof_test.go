package mount_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/superfly/ltx"

	"atc/fs/bucket"
	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/mount/mounttest"
	"atc/fs/tenant"
)

// This file defines the proof behind each story of the storm.

// prove ends the storm and looks at what is in the bucket: by way of the index,
// by reading every file of the log, on a machine that has nothing else, and here
// and there with litestream.
func (s *story) prove() {
	h := s.now
	if s.random.IntN(2) == 0 {
		s.kill(h)
	} else {
		s.stop(h)
	}
	s.chaos.Calm()
	s.note("calm")
	tokens := s.look()
	if h.alone && s.random.IntN(2) == 0 {
		s.boot(h, s.bare, true) // what it had and the bucket has not
		s.connect(h)
		s.endInOrder(h)
		tokens = s.look()
		if h.acked != 0 {
			s.holds(tokens, h.acked, "committed on a machine that released the tenant")
		}
	}
	fresh := &host{name: "fresh", cache: filepath.Join(s.dir, "fresh"), tip: -1}
	s.hosts = append(s.hosts, fresh)
	s.boot(fresh, s.bare, false)
	s.connect(fresh)
	if got, err := s.model.sequence(fresh.app); err != nil || !slices.Equal(got, tokens) {
		s.fail("a machine with nothing but the bucket reads %v (%v), the log holds %v", got, err, tokens)
	}
	if err := s.model.sound(fresh.app, tokens); err != nil {
		s.fail("a machine with nothing but the bucket: %v", err)
	}
	s.commits(fresh, 1)
	s.endInOrder(fresh)
	if got := s.look(); len(got) != len(tokens)+1 {
		s.fail("after one more commit there are %v, before %v", got, tokens)
	}
	if s.seed%20 == 0 {
		path := mounttest.LitestreamRestore(s.t, "file://"+filepath.Join(s.dir, "bucket"), "acme", "main.sqlite3")
		s.open(path, "litestream's copy")
	}
}

func (s *story) endInOrder(h *host) {
	s.disconnect(h)
	ctx, cancel := context.WithTimeout(context.Background(), stormLimit)
	defer cancel()
	if err := h.volume.Close(ctx); err != nil {
		s.fail("without faults %s ends with %v", h.name, err)
	}
	h.volume = nil
	if h.acked != 0 {
		s.confirmed = append(s.confirmed, h.acked)
	}
}

// look restores the database in both ways and returns its transactions.
func (s *story) look() []int {
	ctx := context.Background()
	held, err := tenant.NewRegistry(s.bare, nil, nil, time.Now).Load(ctx, "acme")
	if err != nil && !errors.Is(errors.NotExist, err) {
		s.fail("the record: %v", err)
	}
	if held == nil || held.Databases["main.sqlite3"] == nil {
		if len(s.confirmed) > 0 {
			s.fail("there is no database, and %v were confirmed", s.confirmed)
		}
		return nil
	}
	d := held.Databases["main.sqlite3"]
	folder := tenant.DatabaseFolder("acme", d.Folder)
	log := history.NewLog(s.bare, folder)
	index, err := log.Load(ctx, 0, 0)
	if err != nil {
		s.fail("load the history: %v", err)
	}
	if held.Owner == nil {
		short, err := log.Load(ctx, d.TXID, 0)
		if err != nil || short.TXID() != index.TXID() {
			s.fail("the record was released at %v, the log ends at %v (%v)", d.TXID, index.TXID(), err)
		}
	}
	byIndex := s.pages(ctx, log, index)
	byLog := s.replay(ctx, folder)
	if !bytes.Equal(byIndex, byLog) {
		s.fail("the index leads to another database than the log: %d and %d bytes", len(byIndex), len(byLog))
	}
	path := filepath.Join(s.dir, "looked.sqlite3")
	if err := os.WriteFile(path, byIndex, 0o644); err != nil {
		s.fail("%v", err)
	}
	if len(byIndex) == 0 {
		return nil
	}
	return s.open(path, "what the bucket holds")
}

// pages reads a database page by page.
func (s *story) pages(ctx context.Context, log *history.Log, index *history.Index) (file []byte) {
	size, pages := index.Size()
	for page := uint32(1); page <= pages; page++ {
		data, err := log.ReadPage(ctx, index, page)
		if err != nil || len(data) != size {
			s.fail("page %d of %d by the index: %v", page, pages, err)
		}
		file = append(file, data...)
	}
	return file
}

// replay reads a database as litestream does: files of any level, one behind the
// other. The epochs of their writers never go back: whoever has lost a tenant
// writes no more.
func (s *story) replay(ctx context.Context, folder string) (file []byte) {
	type object struct {
		key         string
		level       string
		first, last ltx.TXID
	}
	var all []object
	for e, err := range s.bare.List(ctx, folder+"/0", bucket.ListOptions{}) {
		if err != nil {
			s.fail("list: %v", err)
		}
		first, last, err := ltx.ParseFilename(filepath.Base(e.Key))
		if err != nil {
			s.fail("%s: %v", e.Key, err)
		}
		all = append(all, object{e.Key, filepath.Base(filepath.Dir(e.Key)), first, last})
	}
	var epoch uint64
	at, pageSize := ltx.TXID(0), 0
	apply := func(o object, fn func(history.Page, history.Place) error) history.Commit {
		body, info, err := s.bare.Get(ctx, o.key)
		if err != nil {
			s.fail("%s: %v", o.key, err)
		}
		defer body.Close()
		c, err := history.Decode(body, info.Size, fn)
		if err != nil {
			s.fail("%s: %v", o.key, err)
		}
		return c
	}
	for _, o := range all { // level 0 comes first, in order
		if o.level != "0000" {
			continue
		}
		c := apply(o, func(history.Page, history.Place) error { return nil })
		if c.Epoch < epoch {
			s.fail("two writers extend one history: %s has epoch %d, one before it %d", o.key, c.Epoch, epoch)
		}
		epoch = c.Epoch
	}
	for {
		next := object{}
		for _, o := range all {
			if o.first <= at+1 && o.last > at && o.last > next.last {
				next = o
			}
		}
		if next.key == "" {
			break
		}
		var size int
		pages := make(map[uint32][]byte)
		c := apply(next, func(p history.Page, _ history.Place) error {
			pages[p.Number] = bytes.Clone(p.Data)
			return nil
		})
		if size = int(c.Pages) * c.PageSize; pageSize != c.PageSize {
			file, pageSize = nil, c.PageSize
		}
		if grow := size - len(file); grow > 0 {
			file = append(file, make([]byte, grow)...)
		}
		file = file[:size]
		for n, data := range pages {
			copy(file[int(n-1)*pageSize:], data)
		}
		at = next.last
	}
	for _, o := range all {
		if o.last > at {
			s.fail("the log ends at %v, and %s lies behind a gap", at, o.key)
		}
	}
	return file
}

// plain is SQLite on an ordinary file.
type plain struct{ onVolume }

// open reads a restored copy and wants everything that was confirmed.
func (s *story) open(path, what string) []int {
	conn, err := sqlite3.Open("file:" + path + "?immutable=1")
	if err != nil {
		s.fail("%s: %v", what, err)
	}
	defer conn.Close()
	a := &plain{}
	a.conn = conn
	if rows, err := a.exec("select count(*) from sqlite_schema where name='t';"); err != nil {
		s.fail("%s: %v", what, err)
	} else if rows[0] == "0" {
		if len(s.confirmed) > 0 {
			s.fail("%s is empty, and %v were confirmed", what, s.confirmed)
		}
		return nil
	}
	tokens, err := s.model.sequence(a)
	if err == nil {
		err = s.model.sound(a, tokens)
	}
	if err != nil {
		s.fail("%s: %v", what, err)
	}
	for _, token := range s.confirmed {
		s.holds(tokens, token, "confirmed")
	}
	return tokens
}

// kept reports whether the beginning of a transaction's row is in any file below
// a folder.
func kept(folder string, token int) bool {
	want, err := hex.DecodeString(content(token)[:32])
	if err != nil {
		return false
	}
	found := false
	_ = filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.Contains(path, "main.sqlite3") {
			return nil
		}
		b, err := os.ReadFile(path)
		found = found || err == nil && bytes.Contains(b, want)
		return nil
	})
	return found
}
