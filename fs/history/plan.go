package history

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/superfly/ltx"

	"atc/fs/bucket"
	"atc/fs/errors"
)

// This file defines which LTX files lead to a transaction. It is pure: a listing
// goes in, a plan comes out. Files may overlap, as an interrupted compaction or
// one of a former owner leaves them: a file applied over a state inside its own
// range leads to the state at its end all the same, since it holds the newest
// version of every page that changed in the range.

const (
	// snapshotLevel is where Litestream 0.5 keeps snapshots.
	snapshotLevel = 9

	levels = snapshotLevel + 1
)

// File is an LTX file as a listing shows it.
type File struct {
	FileRef
	Size     int64     // in bytes
	Modified time.Time // by the store's clock
}

// covers reports whether all transactions of other are in f.
func (f FileRef) covers(other FileRef) bool { return f.Min <= other.Min && other.Max <= f.Max }

// listing is what a database's folder holds.
type listing struct {
	files   []File // in the order of level, first and last transaction
	indexes []TXID // of atc/<TXID>.index, ascending
	heads   []TXID // of atc/<TXID>.head, ascending
}

// list reads the whole folder: one request for each thousand objects.
func (l *Log) list(ctx context.Context) (listing, error) {
	var found listing
	prefix := l.folder + "/"
	for e, err := range l.bucket.List(ctx, prefix, bucket.ListOptions{}) {
		if err != nil {
			return found, err
		}
		name := e.Key[len(prefix):]
		if ref, ok := parseName(name); ok {
			found.files = append(found.files, File{ref, e.Size, e.Modified})
		} else if txid, ok := parseSidecar(name, ".index"); ok {
			found.indexes = append(found.indexes, txid)
		} else if txid, ok := parseSidecar(name, ".head"); ok {
			found.heads = append(found.heads, txid)
		}
	}
	return found, nil
}

// parseName reads "0001/<min>-<max>.ltx", and nothing else: neither another
// spelling of the same numbers nor a snapshot that does not begin at 1.
func parseName(name string) (FileRef, bool) {
	folder, file, ok := strings.Cut(name, "/")
	if !ok {
		return FileRef{}, false
	}
	level, err := strconv.ParseUint(folder, 16, 16)
	if err != nil || level >= levels {
		return FileRef{}, false
	}
	first, last, err := ltx.ParseFilename(file)
	ref := FileRef{Level: int(level), Min: first, Max: last}
	if err != nil || first == 0 || first > last || ref.Level == snapshotLevel && first != 1 || ref.name() != name {
		return FileRef{}, false
	}
	return ref, true
}

// name is the file's key below the database's folder.
func (f FileRef) name() string {
	return fmt.Sprintf("%04x/%s", f.Level, ltx.FormatFilename(f.Min, f.Max))
}

func parseSidecar(name, suffix string) (TXID, bool) {
	name, ok := strings.CutPrefix(name, "atc/")
	text, ok2 := strings.CutSuffix(name, suffix)
	if !ok || !ok2 {
		return 0, false
	}
	txid, err := ltx.ParseTXID(text)
	return txid, err == nil && txid.String() == text
}

// Plan returns the files that lead from nothing to exactly transaction to, in
// the order in which they are applied: the newest snapshot not behind it, then
// each time the file that leads furthest. It is what `litestream restore` takes.
// Without a way there it is NotExist, and names the nearest transactions.
func Plan(files []File, to TXID) ([]File, error) {
	var begin []File
	for _, f := range files {
		if f.Level == snapshotLevel && f.Min == 1 && f.Max <= to && (begin == nil || f.Max > begin[0].Max) {
			begin = []File{f}
		}
	}
	at := TXID(0)
	if begin != nil {
		at = begin[0].Max
	}
	rest, at := way(files, at, to)
	if at != to || to == 0 {
		return nil, notRestorable(files, to)
	}
	return append(begin, rest...), nil
}

// way goes from at towards to by the files that lead furthest each time, and
// says how far they lead. No file goes beyond to.
func way(files []File, at, to TXID) ([]File, TXID) {
	usable := slices.DeleteFunc(slices.Clone(files), func(f File) bool { return f.Max > to })
	slices.SortStableFunc(usable, func(a, b File) int { return cmp.Compare(a.Min, b.Min) })
	var taken []File
	for next := 0; at < to; {
		var best File
		for ; next < len(usable) && usable[next].Min <= at+1; next++ {
			if better(usable[next].FileRef, best.FileRef) {
				best = usable[next]
			}
		}
		if best.Max <= at {
			break
		}
		taken = append(taken, best)
		at = best.Max
	}
	return taken, at
}

// better prefers what leads further, then what replaces more files.
func better(a, b FileRef) bool {
	return cmp.Or(cmp.Compare(a.Max, b.Max), cmp.Compare(b.Min, a.Min), cmp.Compare(a.Level, b.Level)) > 0
}

// restorable returns a file for each transaction that a plan leads to, by
// ascending transaction; each file ends with it.
func restorable(files []File) []File {
	sorted := slices.Clone(files)
	slices.SortStableFunc(sorted, func(a, b File) int {
		return cmp.Or(cmp.Compare(a.Max, b.Max), cmp.Compare(b.Level, a.Level))
	})
	var reached []File
	before := TXID(0) // the last one reached that is smaller than the file's
	for _, f := range sorted {
		n := len(reached)
		if n > 0 && reached[n-1].Max < f.Max {
			before = reached[n-1].Max
		}
		if n > 0 && reached[n-1].Max == f.Max {
			continue
		}
		if f.Min <= before+1 {
			reached = append(reached, f)
		}
	}
	return reached
}

// notRestorable is NotExist with the transactions around to that are.
func notRestorable(files []File, to TXID) error {
	points := restorable(files)
	at, _ := slices.BinarySearchFunc(points, to, func(f File, to TXID) int { return cmp.Compare(f.Max, to) })
	var near []string
	if at > 0 {
		near = append(near, points[at-1].Max.String())
	}
	if at < len(points) {
		near = append(near, points[at].Max.String())
	}
	err := fmt.Errorf("nothing can be restored here")
	if len(near) > 0 {
		err = fmt.Errorf("the nearest that can be restored: %s", strings.Join(near, ", "))
	}
	return errors.E("restore", "transaction "+to.String(), errors.NotExist, err)
}
