package history

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/superfly/ltx"

	"atc/fs/bucket"
	"atc/fs/errors"
)

// This file defines the log: the LTX files of one database in the bucket, in
// order. Appending is the fence between machines.

// timestampKey is the metadata from which Litestream takes a file's time for
// point-in-time restore: RFC 3339 with nanoseconds.
const timestampKey = "litestream-timestamp"

// Log is the history of one database below one folder. Its methods may be
// called concurrently, but only one Append at a time makes sense.
type Log struct {
	bucket bucket.Bucket
	folder string
	counts *bucket.Counters // of this Log's requests
}

// NewLog returns the log in folder, which needs not exist.
func NewLog(b bucket.Bucket, folder string) *Log {
	counts := new(bucket.Counters)
	return &Log{bucket: bucket.Count(b, counts), folder: strings.TrimSuffix(folder, "/"), counts: counts}
}

// Counts is what was asked of the bucket through this Log.
func (l *Log) Counts() bucket.Counts { return l.counts.Snapshot() }

func (l *Log) fileKey(ref FileRef) string {
	return fmt.Sprintf("%s/%04x/%s", l.folder, ref.Level, ltx.FormatFilename(ref.Min, ref.Max))
}

// Append puts the LTX file of commit c. It fails with Fenced when the TXID is
// taken by other bytes: somebody else writes this history now. That the same
// bytes are there already means that an earlier answer was lost, and is success.
// After an Unavailable the outcome is unknown: append the same bytes again.
func (l *Log) Append(ctx context.Context, c Commit, file io.ReadSeeker) (FileRef, error) {
	ref := FileRef{Level: 0, Min: c.TXID, Max: c.TXID}
	key := l.fileKey(ref)
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return ref, fmt.Errorf("rewind LTX file %s: %w", c.TXID, err)
	}
	_, err := l.bucket.Put(ctx, key, file, bucket.PutOptions{
		IfNoneMatch: true,
		Meta:        map[string]string{timestampKey: c.Time.UTC().Format(time.RFC3339Nano)},
	})
	if !errors.Is(errors.Condition, err) {
		return ref, err
	}
	same, err := l.holds(ctx, key, file)
	if err != nil {
		return ref, errors.E("ship", key, errors.Other, fmt.Errorf("comparing what is there: %w", err))
	}
	if !same {
		return ref, errors.E("ship", key, errors.Fenced, fmt.Errorf("another writer has put transaction %s", c.TXID))
	}
	return ref, nil
}

// holds reports whether the object has exactly the bytes of file.
func (l *Log) holds(ctx context.Context, key string, file io.ReadSeeker) (bool, error) {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	body, _, err := l.bucket.Get(ctx, key)
	if err != nil {
		return false, err
	}
	defer body.Close()
	theirs, ours := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(body, theirs)
		m, err2 := io.ReadFull(file, ours)
		if err2 != nil && err2 != io.EOF && err2 != io.ErrUnexpectedEOF {
			return false, err2
		}
		ended := err == io.EOF || err == io.ErrUnexpectedEOF
		if err != nil && !ended {
			// Before the bytes are compared: half an answer differs from ours,
			// and would have us believe that we are fenced.
			return false, errors.E("get", key, errors.Unavailable, err)
		}
		if !bytes.Equal(theirs[:n], ours[:m]) {
			return false, nil
		}
		if ended {
			return true, nil
		}
	}
}

// ReadPages fetches the bytes that lie at [offset, offset+length) of a file.
func (l *Log) ReadPages(ctx context.Context, ref FileRef, offset, length int64) ([]byte, error) {
	b, _, err := l.bucket.GetRange(ctx, l.fileKey(ref), offset, length, "")
	return b, err
}

// ReadPage reads one page of the database that x describes, and checks it. It
// fails with NotExist for a page that no file holds.
func (l *Log) ReadPage(ctx context.Context, x *Index, page uint32) ([]byte, error) {
	pageSize, _ := x.Size()
	e, ok, err := x.Lookup(ctx, page)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errors.E("read page", fmt.Sprintf("%s page %d", l.folder, page), errors.NotExist, fmt.Errorf("no file holds it"))
	}
	frame, err := l.ReadPages(ctx, e.File, e.Offset, int64(e.Length))
	if err != nil {
		return nil, err
	}
	return DecodeFrame(frame, page, pageSize, e.Place)
}

// CatchUp applies to x all files behind its TXID. A gap in them is Corrupt: what
// lies behind it cannot be a state that existed.
func (l *Log) CatchUp(ctx context.Context, x *Index) error {
	if x.TXID() == 0 {
		return l.advance(ctx, x)
	}
	prefix, begin := l.folder+"/0000/", x.TXID()
	after := prefix + ltx.FormatFilename(begin, begin)
	for e, err := range l.bucket.List(ctx, prefix, bucket.ListOptions{After: after}) {
		if err != nil {
			return err
		}
		first, last, err := ltx.ParseFilename(e.Key[len(prefix):])
		if err != nil || last <= x.TXID() {
			continue // not an LTX file, or one that the index covers
		}
		if first > x.TXID()+1 {
			return l.advance(ctx, x) // what lies between was compacted
		}
		err = l.apply(ctx, x, FileRef{Level: 0, Min: first, Max: last})
		if errors.Is(errors.NotExist, err) {
			return l.advance(ctx, x) // compacted since it was listed
		}
		if err != nil {
			return err
		}
	}
	if x.TXID() == begin {
		return l.advance(ctx, x) // a copied history may end on another level
	}
	return nil
}

func (l *Log) apply(ctx context.Context, x *Index, ref FileRef) error {
	key := l.fileKey(ref)
	body, info, err := l.bucket.Get(ctx, key)
	if err != nil {
		return err
	}
	defer body.Close()
	places := make(map[uint32]Place)
	c, err := Decode(body, info.Size, func(p Page, at Place) error {
		places[p.Number] = at
		return nil
	})
	if err != nil {
		return errors.E("load history", key, errors.Other, err)
	}
	if c.First != ref.Min || c.TXID != ref.Max {
		return errors.E("load history", key, errors.Corrupt, fmt.Errorf("it contains transactions %s to %s", c.First, c.TXID))
	}
	if err := x.Apply(ref, c, places); err != nil {
		return errors.E("load history", key, errors.Corrupt, err)
	}
	return nil
}
