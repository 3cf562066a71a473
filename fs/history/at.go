package history

import (
	"context"
	stderrors "errors"
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/superfly/ltx"

	"atc/fs/bucket"
	"atc/fs/errors"
)

// This file defines how an index is loaded as of any transaction, and how a time
// becomes one. It needs nothing below atc/, so that a replica that Litestream
// has written can be read, too.

// Position is one point of a history.
type Position struct {
	TXID TXID
	Time time.Time // of its commit, by its writer's clock, precise to a millisecond
}

const (
	// loadParallel is how many files of a plan are fetched at once.
	loadParallel = 8

	// loadAttempts is how often a plan is made anew when one of its files has
	// gone since it was listed.
	loadAttempts = 3
)

// Range returns the first and the last position that can be restored, with one
// listing and two small reads. It is NotExist for a history without any.
func (l *Log) Range(ctx context.Context) (first, last Position, err error) {
	err = l.relisting(func() error {
		points, err := l.points(ctx)
		if err != nil {
			return err
		}
		first, last, err = l.ends(ctx, points)
		return err
	})
	return first, last, err
}

// ends are the positions of the first and the last of some points.
func (l *Log) ends(ctx context.Context, points []File) (first, last Position, err error) {
	if first, err = l.position(ctx, points[0]); err == nil {
		last, err = l.position(ctx, points[len(points)-1])
	}
	return first, last, err
}

// errGone is that a file has gone since it was listed.
var errGone = stderrors.New("it was merged since it was listed")

// relisting does again what met a file that had gone since it was listed. That
// is not NotExist, which would say that there is no such point.
func (l *Log) relisting(do func() error) error {
	for attempt := 1; ; attempt++ {
		err := do()
		if !stderrors.Is(err, errGone) || attempt == loadAttempts {
			return err
		}
	}
}

// Find returns the last position that can be restored and is not later than
// at. A time before the first is NotExist and names the range; one behind the
// last is the last, since nothing was committed in between. It costs a listing
// and a small read for each halving of the positions.
func (l *Log) Find(ctx context.Context, at time.Time) (found Position, err error) {
	err = l.relisting(func() error {
		found, err = l.find(ctx, at)
		return err
	})
	return found, err
}

func (l *Log) find(ctx context.Context, at time.Time) (Position, error) {
	points, err := l.points(ctx)
	if err != nil {
		return Position{}, err
	}
	// Times of one history do not go backwards. Where clocks have made them do
	// so, what is found is still a position whose time is not later than at.
	var found Position
	n := sort.Search(len(points), func(i int) bool {
		if err != nil {
			return true
		}
		var p Position
		if p, err = l.position(ctx, points[i]); err != nil || p.Time.After(at) {
			return true
		}
		found = p // the search only goes up from here
		return false
	})
	if err != nil {
		return Position{}, err
	}
	if n == 0 {
		first, last, err := l.ends(ctx, points)
		if err != nil {
			return Position{}, err
		}
		return Position{}, errors.E("restore", fmt.Sprintf("%s at %s", l.folder, stamp(at)), errors.NotExist,
			fmt.Errorf("the history reaches from %s to %s", stamp(first.Time), stamp(last.Time)))
	}
	return found, nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// points lists the transactions that can be restored, as files that end there.
func (l *Log) points(ctx context.Context) ([]File, error) {
	found, err := l.list(ctx)
	if err != nil {
		return nil, err
	}
	points := restorable(found.files)
	if len(points) == 0 {
		return nil, errors.E("restore", l.folder, errors.NotExist, fmt.Errorf("there is no history"))
	}
	return points, nil
}

// position reads the time of a file's last transaction out of its header.
func (l *Log) position(ctx context.Context, f File) (Position, error) {
	h, err := l.listedHeader(ctx, f)
	if err != nil {
		return Position{}, err
	}
	return Position{f.Max, time.UnixMilli(h.Timestamp)}, nil
}

// listedHeader is header for who listed the file, and lists anew when it has
// gone: see relisting.
func (l *Log) listedHeader(ctx context.Context, f File) (ltx.Header, error) {
	h, _, err := l.header(ctx, f.FileRef)
	if errors.Is(errors.NotExist, err) {
		err = errors.E("read LTX header", l.fileKey(f.FileRef), errors.Unavailable, errGone)
	}
	return h, err
}

// header reads a file's header with a range read of 100 bytes.
func (l *Log) header(ctx context.Context, ref FileRef) (h ltx.Header, info bucket.Info, err error) {
	key := l.fileKey(ref)
	b, info, err := l.bucket.GetRange(ctx, key, 0, ltx.HeaderSize, "")
	if err != nil {
		return h, info, err
	}
	if err = h.UnmarshalBinary(b); err == nil {
		err = h.Validate()
	}
	if err == nil && (h.MinTXID != ref.Min || h.MaxTXID != ref.Max) {
		err = fmt.Errorf("it contains transactions %s to %s", h.MinTXID, h.MaxTXID)
	}
	if err != nil {
		err = errors.E("read LTX header", key, errors.Corrupt, err)
	}
	return h, info, err
}

// LoadAt returns the index of the database as it was after transaction txid; it
// is the caller's alone and stays there. Where the plan's snapshot has a page
// index, no byte of the snapshot is read; every other file is read whole, since
// only that shows its pages' hashes. NotExist names the nearest transactions
// that can be restored.
func (l *Log) LoadAt(ctx context.Context, txid TXID) (*Index, error) {
	for attempt := 1; ; attempt++ {
		found, err := l.list(ctx)
		if err != nil {
			return nil, err
		}
		plan, err := Plan(found.files, txid)
		if err != nil {
			return nil, err
		}
		x := NewIndex()
		if b, err := l.snapshotIndex(ctx, found, plan[0].FileRef); err != nil {
			return nil, err
		} else if b != nil {
			x, plan = b, plan[1:]
		}
		err = l.applyAll(ctx, x, plan)
		if err == nil {
			return x, nil
		}
		// A file was merged and deleted between listing and reading.
		if !errors.Is(errors.NotExist, err) || attempt == loadAttempts {
			return nil, err
		}
	}
}

// snapshotIndex opens the page index that was saved along with a snapshot. It
// returns nil where there is none, or one that is damaged or another's.
func (l *Log) snapshotIndex(ctx context.Context, found listing, snapshot FileRef) (*Index, error) {
	at := sort.Search(len(found.indexes), func(i int) bool { return found.indexes[i] >= snapshot.Max })
	if at == len(found.indexes) || found.indexes[at] != snapshot.Max {
		return nil, nil
	}
	x, err := openIndex(ctx, l.bucket, l.indexKey(snapshot.Max))
	if errors.Is(errors.Corrupt, err) || errors.Is(errors.NotExist, err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if x.txid != snapshot.Max || len(x.files) != 1 || x.files[0] != snapshot {
		return nil, nil
	}
	return x, nil
}

// applyAll reads the files of a plan, several at once, and applies them.
func (l *Log) applyAll(ctx context.Context, x *Index, plan []File) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type contents struct {
		c      Commit
		places map[uint32]Place
		err    error
	}
	read := make([]chan contents, len(plan))
	slots := make(chan struct{}, loadParallel)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for i := range plan {
		read[i] = make(chan contents, 1)
	}
	wg.Go(func() {
		for i, f := range plan {
			select {
			case slots <- struct{}{}: // given back when the file is applied, which bounds what waits in memory
			case <-ctx.Done():
				return
			}
			wg.Go(func() {
				c, places, err := l.decode(ctx, f.FileRef)
				read[i] <- contents{c, places, err}
			})
		}
	})
	for i, f := range plan {
		select {
		case got := <-read[i]:
			if got.err != nil {
				return got.err
			}
			if err := x.applyOver(f.FileRef, got.c, got.places); err != nil {
				return errors.E("load history", l.fileKey(f.FileRef), errors.Corrupt, err)
			}
			<-slots
		case <-ctx.Done():
			return errors.E("load history", l.folder, errors.Other, ctx.Err())
		}
	}
	return nil
}

// decode reads a whole file, and checks it.
func (l *Log) decode(ctx context.Context, ref FileRef) (Commit, map[uint32]Place, error) {
	key := l.fileKey(ref)
	body, info, err := l.bucket.Get(ctx, key)
	if err != nil {
		return Commit{}, nil, err
	}
	defer body.Close()
	places := make(map[uint32]Place)
	c, err := Decode(body, info.Size, func(p Page, at Place) error {
		places[p.Number] = at
		return nil
	})
	if err != nil {
		return c, nil, errors.E("load history", key, errors.Other, err)
	}
	if c.First != ref.Min || c.TXID != ref.Max {
		return c, nil, errors.E("load history", key, errors.Corrupt, fmt.Errorf("it contains transactions %s to %s", c.First, c.TXID))
	}
	return c, places, nil
}

// advance brings x to the end of the history by the files of any level. What
// lies behind a gap cannot be a state that existed, so that a gap is Corrupt.
func (l *Log) advance(ctx context.Context, x *Index) error {
	for attempt := 1; ; attempt++ {
		found, err := l.list(ctx)
		if err != nil {
			return err
		}
		end := x.TXID()
		for _, f := range found.files {
			end = max(end, f.Max)
		}
		var plan []File
		if x.TXID() == 0 && end != 0 {
			plan, err = Plan(found.files, end)
		} else {
			var reached TXID
			if plan, reached = way(found.files, x.TXID(), end); reached != end {
				err = fmt.Errorf("after transaction %s there is a gap", reached)
			}
		}
		if err != nil {
			return errors.E("load history", l.folder, errors.Corrupt, err)
		}
		err = l.applyAll(ctx, x, plan)
		if err == nil || !errors.Is(errors.NotExist, err) || attempt == loadAttempts {
			return err
		}
	}
}

// Rebuild finds the pages of x anew, at the same transaction, when a file that
// x names has gone: somebody else has merged it.
func (l *Log) Rebuild(ctx context.Context, x *Index) error {
	fresh, err := l.LoadAt(ctx, x.TXID())
	if err != nil {
		return err
	}
	_, err = x.become(fresh)
	return err
}
