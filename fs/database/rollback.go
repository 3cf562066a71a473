package database

import (
	"io"
	"os"

	"atc/fs/journal"
)

// This file defines what the rollback journal beside the local file tells.

// journalHead is the beginning of the rollback journal, as much as there is of
// it, and the journal, which the caller closes; neither where there is none.
func (db *DB) journalHead() (f *os.File, head []byte, err error) {
	if f, err = db.openSidecar(journal.Rollback); f == nil || err != nil {
		return nil, nil, err
	}
	head = make([]byte, journal.RollbackHeaderLength)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		f.Close()
		return nil, nil, err
	}
	return f, head[:n], nil
}

// journalActive reports whether a rollback journal is in force, so that the
// file is in the middle of a transaction.
func (db *DB) journalActive() bool {
	f, head, err := db.journalHead()
	if f == nil || err != nil {
		return false
	}
	defer f.Close()
	return journal.RollbackActive(head)
}

// journalEnded reports whether there is no rollback journal, or one whose
// transaction has ended.
func (db *DB) journalEnded() bool {
	f, head, err := db.journalHead()
	if f == nil || err != nil {
		return err == nil
	}
	defer f.Close()
	return journal.RollbackEnded(head)
}

// SuperJournal is the name of the super-journal that the rollback journal names;
// empty if it names none, or is not in force.
func (db *DB) SuperJournal() string {
	f, head, err := db.journalHead()
	if f == nil || err != nil {
		return ""
	}
	defer f.Close()
	if !journal.RollbackActive(head) {
		return ""
	}
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	name, _ := journal.SuperJournal(f, info.Size())
	return name
}
