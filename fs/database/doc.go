// Package database is one open database on this machine: its local file, of
// which pages may still be missing, and the way of its commits to the bucket.
//
// Reading: [DB.Ensure] fetches missing pages (fault.go, fetch.go) through the page
// index of fs/history and notes them as present (presence.go). Pages that are
// probably wanted next come before they are: those of the hot pack (hot.go), what
// follows in the file (readahead.go) or in key order (siblings.go), and in the
// background all the rest (hydrate.go).
//
// Writing: the application writes its files directly. Commits are taken out of
// what it wrote at the moments that SQLite's own protocol guarantees to be
// safe ([DB.WALSync], [DB.JournalEnd], [DB.Idle], [DB.Tick]), collected in a
// spool, and shipped in order by [DB.Ship].
//
// The package knows nothing of FUSE: whoever serves the files calls it at the
// named moments. Of the database's sidecars it reads "-wal", "-shm" and
// "-journal" beside the local file and never writes them.
//
// Limitations: a database in journal_mode OFF or MEMORY with synchronous=OFF is
// captured when its last user closes it, and so is a WAL that restarted without
// a sync; [Stat.Degraded] says so. One
// transaction, and what is found when the last user is gone, may go beyond the
// spool's limit.
package database
