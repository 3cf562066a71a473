package history

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/superfly/ltx"

	"atc/fs/bucket"
	"atc/fs/errors"
)

// This file defines how heads and index objects are found in the bucket, and
// how they are left there. Both are named by their TXID. A head replaces the one
// before; an index object stays as long as a head stands on it, or for good
// where it describes a snapshot.

const (
	headSuffix  = ".head"
	indexSuffix = ".index"
)

func (l *Log) headKey(txid TXID) string {
	return fmt.Sprintf("%s/atc/%s%s", l.folder, txid, headSuffix)
}

func (l *Log) indexKey(txid TXID) string {
	return fmt.Sprintf("%s/atc/%s%s", l.folder, txid, indexSuffix)
}

// Load returns the index of the whole history. at and headSize are what the
// record says: a history that was left behind cleanly at that TXID needs no
// listing, and one GET; a headSize of 0 is unknown. With at 0, or when that head
// is not there or damaged, it takes the newest head or index object that is sound
// and reads the LTX files behind it.
func (l *Log) Load(ctx context.Context, at TXID, headSize int64) (*Index, error) {
	x, err := l.load(ctx, at, headSize)
	if err != nil {
		return nil, err
	}
	x.log = l
	return x, nil
}

func (l *Log) load(ctx context.Context, at TXID, headSize int64) (*Index, error) {
	if at != 0 {
		x, err := l.openHead(ctx, at, headSize)
		if err == nil {
			return x, nil
		}
		if !errors.Is(errors.NotExist, err) && !errors.Is(errors.Corrupt, err) {
			return nil, err
		}
	}
	x, err := l.newestIndex(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.CatchUp(ctx, x); err != nil {
		return nil, err
	}
	return x, l.learnLast(ctx, x)
}

// learnLast reads when and by whom the last commit was made out of a file that
// ends with it, where x began with an index object alone, which does not say so:
// by that the next commit's time is chosen, and a barrier refused.
func (l *Log) learnLast(ctx context.Context, x *Index) error {
	x.mu.Lock()
	at, known := x.txid, x.txid == 0 || !x.time.IsZero()
	x.mu.Unlock()
	if known {
		return nil
	}
	return l.relisting(func() error {
		found, err := l.list(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(found.files, func(f File) bool { return f.Max == at })
		if i < 0 {
			return nil // it is lost; reading its pages will tell
		}
		h, err := l.listedHeader(ctx, found.files[i])
		if err != nil {
			return err
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.txid == at {
			x.time, x.epoch = time.UnixMilli(h.Timestamp), h.NodeID
		}
		return nil
	})
}

// openHead reads the head of a TXID, whose size is known or 0.
func (l *Log) openHead(ctx context.Context, at TXID, size int64) (*Index, error) {
	key := l.headKey(at)
	b, err := l.readWhole(ctx, key, size)
	if err != nil {
		return nil, err
	}
	x, err := l.decodeHead(key, b)
	if err == nil && x.txid != at {
		return nil, errors.E("read head", key, errors.Corrupt, fmt.Errorf("it is of %s", x.txid))
	}
	return x, err
}

// readWhole reads an object of maxHead bytes at most.
func (l *Log) readWhole(ctx context.Context, key string, size int64) ([]byte, error) {
	if size > 0 && size <= maxHead {
		b, _, err := l.bucket.GetRange(ctx, key, 0, size, "")
		return b, err
	}
	body, info, err := l.bucket.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	if info.Size > maxHead {
		return nil, errors.E("read head", key, errors.Corrupt, fmt.Errorf("it has %d bytes", info.Size))
	}
	b := make([]byte, info.Size)
	if _, err := io.ReadFull(body, b); err != nil {
		return nil, errors.E("read head", key, errors.Unavailable, err)
	}
	return b, nil
}

// newestIndex opens the newest sound head or index object; without any, the
// index of an empty history.
func (l *Log) newestIndex(ctx context.Context) (*Index, error) {
	type candidate struct {
		head, base bool
		size       int64 // of the head
	}
	found := make(map[TXID]candidate)
	prefix := l.folder + "/atc/"
	for e, err := range l.bucket.List(ctx, prefix, bucket.ListOptions{}) {
		if err != nil {
			return nil, err
		}
		name := e.Key[len(prefix):]
		txid, err := ltx.ParseTXID(strings.TrimSuffix(strings.TrimSuffix(name, headSuffix), indexSuffix))
		if err != nil {
			continue
		}
		c := found[txid]
		switch {
		case strings.HasSuffix(name, headSuffix):
			c.head, c.size = true, e.Size
		case strings.HasSuffix(name, indexSuffix):
			c.base = true
		default:
			continue
		}
		found[txid] = c
	}
	var behind []string
	txids := slices.Sorted(maps.Keys(found))
	for i := len(txids) - 1; i >= 0; i-- {
		var x *Index
		err := error(nil)
		if found[txids[i]].head {
			x, err = l.openHead(ctx, txids[i], found[txids[i]].size)
		}
		if x == nil && found[txids[i]].base {
			x, err = openIndex(ctx, l.bucket, l.indexKey(txids[i]))
		}
		if err == nil {
			for _, older := range txids[:i] {
				if found[older].head {
					behind = append(behind, l.headKey(older))
				}
			}
			x.saved.others = behind
			return x, nil
		}
		if !errors.Is(errors.Corrupt, err) && !errors.Is(errors.NotExist, err) {
			return nil, err
		}
		if found[txids[i]].head {
			behind = append(behind, l.headKey(txids[i]))
		}
	}
	x := NewIndex()
	x.saved.others = behind
	return x, nil
}

// SaveIndex writes x without a hot pack, so that the next Load begins there.
func (l *Log) SaveIndex(ctx context.Context, x *Index) (TXID, error) {
	return l.SaveHead(ctx, x, Hot{})
}

// SaveHead leaves x in the bucket, so that the next Load begins there: a head,
// and under it a new index object when too much has changed since the last one.
// What it replaces is deleted then; that a deletion fails is no failure, since
// nothing reads what is left. It returns the TXID that was saved.
func (l *Log) SaveHead(ctx context.Context, x *Index, hot Hot) (TXID, error) {
	if x.crowded() {
		if err := x.LoadAll(ctx); err != nil {
			return 0, err
		}
		if err := x.rebase(l); err != nil {
			return 0, err
		}
	}
	base, err := l.putBase(ctx, x)
	if err != nil {
		return 0, err
	}
	at, head := x.makeHead(hot)
	key := l.headKey(at)
	if _, err := l.bucket.Put(ctx, key, bytes.NewReader(head), bucket.PutOptions{}); err != nil {
		return 0, err
	}
	x.mu.Lock()
	behind := x.saved.others
	if was := x.saved; was.size > 0 && was.txid != at {
		behind = append(behind, l.headKey(was.txid))
	}
	x.saved = savedHead{txid: at, size: int64(len(head))}
	x.log = l
	x.mu.Unlock()
	for _, old := range behind {
		if old == key || base != nil && old == base.key {
			continue // it was damaged, and is whole again
		}
		if err := l.bucket.Delete(ctx, old); err != nil {
			x.mu.Lock()
			x.saved.others = append(x.saved.others, old)
			x.mu.Unlock()
		}
	}
	return at, nil
}

// putBase writes the index object under x, if it does not stand yet, and returns
// it; nil for none.
func (l *Log) putBase(ctx context.Context, x *Index) (*indexObject, error) {
	x.mu.Lock()
	base := x.base
	x.mu.Unlock()
	if base == nil || base.unsaved == nil {
		return base, nil
	}
	if _, err := l.bucket.Put(ctx, base.key, bytes.NewReader(base.unsaved), bucket.PutOptions{}); err != nil {
		return nil, err
	}
	x.mu.Lock()
	base.unsaved = nil
	x.mu.Unlock()
	return base, nil
}

// saveBase leaves the whole of x in the bucket as an index object, without a
// head: x is that of a snapshot, from which time travel begins.
func (l *Log) saveBase(ctx context.Context, x *Index) error {
	if err := x.rebase(l); err != nil {
		return err
	}
	_, err := l.putBase(ctx, x)
	return err
}

// Standing are the TXIDs of the objects that a cold open of x reads: its head,
// and the index object under that.
func (x *Index) Standing() []TXID {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.saved.txid == 0 {
		return nil
	}
	standing := []TXID{x.saved.txid}
	if x.base != nil {
		standing = append(standing, x.base.txid)
	}
	return standing
}

// makeHead encodes the head of x as it is at one moment.
func (x *Index) makeHead(hot Hot) (TXID, []byte) {
	for {
		x.mu.Lock()
		tables, at := x.appendTables(nil), x.txid
		x.mu.Unlock()
		room := headGoal - headHeaderSize - len(tables)
		pack := x.packHot(hot, max(0, min(room, hotGoal)))
		x.mu.Lock()
		if x.txid == at { // else a commit came in between
			head := x.encodeHead(tables, pack)
			if pack != nil {
				x.hot.read(at, x.pageSize, x.pages, pack)
				x.hot.pack = nil
			}
			x.mu.Unlock()
			return at, head
		}
		x.mu.Unlock()
	}
}
