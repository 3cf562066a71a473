// This file is the application's database: one table, and the two statements it
// needs.

package notes

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	_ "github.com/ncruces/go-sqlite3/driver" // registers "sqlite3"
)

// shown is how many notes the page lists.
const shown = 200

// note is one row.
type note struct {
	Text    string
	Written time.Time // UTC, to the second
}

// store keeps notes. Its methods may be called concurrently.
type store struct{ db *sql.DB }

// openStore opens or creates the database at path, in WAL mode. Other processes
// may have it open.
func openStore(ctx context.Context, path string) (*store, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("notes: %w", err)
	}
	dsn := url.URL{Scheme: "file", Path: abs, RawQuery: url.Values{
		"_pragma": {"busy_timeout(5000)", "journal_mode(wal)", "synchronous(normal)"},
		"_txlock": {"immediate"},
	}.Encode()}
	db, err := sql.Open("sqlite3", dsn.String())
	if err != nil {
		return nil, fmt.Errorf("notes: opening %s: %w", path, err)
	}
	db.SetMaxOpenConns(4)
	const schema = `CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL, written INTEGER NOT NULL)`
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return nil, errors.Join(fmt.Errorf("notes: opening %s: %w", path, err), db.Close())
	}
	return &store{db}, nil
}

func (s *store) add(ctx context.Context, n note) error {
	if _, err := s.db.ExecContext(ctx, `INSERT INTO notes (text, written) VALUES (?, ?)`, n.Text, n.Written.Unix()); err != nil {
		return fmt.Errorf("adding a note: %w", err)
	}
	return nil
}

// list returns the newest notes, newest first.
func (s *store) list(ctx context.Context) ([]note, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT text, written FROM notes ORDER BY id DESC LIMIT ?`, shown)
	if err != nil {
		return nil, fmt.Errorf("listing notes: %w", err)
	}
	defer rows.Close()
	var notes []note
	for rows.Next() {
		var n note
		var written int64
		if err := rows.Scan(&n.Text, &written); err != nil {
			return nil, fmt.Errorf("listing notes: %w", err)
		}
		n.Written = time.Unix(written, 0).UTC()
		notes = append(notes, n)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("listing notes: %w", err)
	}
	return notes, nil
}

// healthy reports whether the database can be read.
func (s *store) healthy(ctx context.Context) error {
	var n int
	return s.db.QueryRowContext(ctx, `SELECT 1 FROM notes LIMIT 1`).Scan(&n)
}

func (s *store) close() error {
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("notes: closing the database: %w", err)
	}
	return nil
}
