package backup

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/ncruces/go-sqlite3"

	"atc/fs/errors"
	"atc/fs/journal"
)

// This file defines what happens to a database that was not closed cleanly: what
// stands in its log or its journal belongs to it, and only SQLite knows how. So
// it gets a copy of all three, and the source stays as it is.

// recovered opens a database with everything that was committed in it. Done
// closes it and removes what was made for it.
func recovered(ctx context.Context, root *os.Root, p string) (in *os.File, done func(), err error) {
	var beside []string
	for _, role := range []journal.Sidecar{journal.WAL, journal.Rollback} {
		info, err := root.Lstat(p + role.Suffix())
		if err == nil && info.Mode().IsRegular() && info.Size() > 0 {
			beside = append(beside, role.Suffix())
		} else if err != nil && !os.IsNotExist(err) {
			return nil, nil, err
		}
	}
	if len(beside) == 0 {
		if in, err = root.Open(p); err != nil {
			return nil, nil, err
		}
		return in, func() { in.Close() }, nil
	}
	dir, err := os.MkdirTemp("", "atc-import-*")
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	// The same file name, since a journal may name its database.
	local := filepath.Join(dir, filepath.Base(p))
	for _, suffix := range append([]string{""}, beside...) {
		if err := copyOut(ctx, root, p+suffix, local+suffix); err != nil {
			return nil, nil, err
		}
	}
	if err := recover(ctx, local); err != nil {
		return nil, nil, errors.E("recover", p, errors.Other, err)
	}
	if in, err = os.Open(local); err != nil {
		return nil, nil, err
	}
	return in, func() { in.Close(); os.RemoveAll(dir) }, nil
}

// recover lets SQLite roll a hot journal back, or read a log, and put it into the
// database.
func recover(ctx context.Context, path string) error {
	conn, err := sqlite3.OpenFlags(path, sqlite3.OPEN_READWRITE)
	if err != nil {
		return err
	}
	conn.SetInterrupt(ctx)
	// Reading is what makes SQLite recover; the checkpoint is nothing to a
	// database in rollback mode.
	err = conn.Exec("select count(*) from sqlite_schema; pragma wal_checkpoint(truncate)")
	if closeErr := conn.Close(); err == nil {
		err = closeErr
	}
	return err
}

// copyOut copies a file, which must not change meanwhile.
func copyOut(ctx context.Context, root *os.Root, from, to string) error {
	in, err := root.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	before, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, reader{ctx, in}); err != nil {
		return err
	}
	after, err := in.Stat()
	if err != nil {
		return err
	}
	if after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		return changed()
	}
	return out.Close()
}

// reader ends when its context does.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
