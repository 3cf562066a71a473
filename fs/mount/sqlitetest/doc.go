// Package sqlitetest runs SQLite's own tests through a mount.
//
// Who knows best what SQLite asks of a filesystem are its authors: their tests
// drive locks, shared memory, mappings, hot journals and crashes from several
// processes. Each of them runs in a tenant's folder, once with every file served
// through the daemon and once with files passed through, and in a folder of the
// local filesystem. No test may fail on a mount that does not fail there in the
// same run: some fail anywhere when run by root, who may open what is read-only.
// After that the databases which a test has left must be those that Litestream
// restores from the bucket.
//
//	make test           # the cases of most power, as a part of all tests
//	make sqlite-tests   # all cases, an hour or more
//	ATC_SQLITE_TESTS='wal2.test kvtest*' go test -v -run TestSQLite ./fs/mount/sqlitetest
//
// # Limitations
//
// SQLite's test tree is that of Debian's source package, which .ci/sqlite builds;
// it is not SQLite's newest. What its tests do with file systems of their own
// (test_vfs) reaches the mount only in part.
package sqlitetest
