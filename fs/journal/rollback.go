package journal

// rollbackMagic begins the header of a rollback journal that is in force (file
// format, section 3). A commit in PERSIST mode overwrites it with zeros.
const rollbackMagic = "\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"

// RollbackHeaderSize is how many bytes of a "-journal" [RollbackActive] wants.
const RollbackHeaderSize = len(rollbackMagic)

// RollbackActive reports whether a journal that begins with b is in force, so
// that what the database holds now is not, or not yet, committed.
func RollbackActive(b []byte) bool {
	return len(b) >= RollbackHeaderSize && string(b[:RollbackHeaderSize]) == rollbackMagic
}
