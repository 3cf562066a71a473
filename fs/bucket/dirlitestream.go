package bucket

import (
	stderrors "errors"
	"os"
	"path/filepath"
	"strconv"
)

// Why a directory store can be restored by Litestream as it is. Litestream
// names the levels of a replica 0000 to 0009 in a bucket, but ltx/0 to ltx/9 in
// a directory. So a level's folder, when it appears, gets a link under that
// name beside it:
//
//	litestream restore -o out.db file:///store/tenants/acme/db/main.sqlite3-1a2b
//
// Links are no objects and never listed. They are relative: the store can be
// moved.

// levelLink returns the link and its target for a level's folder, or nothing
// for any other.
func levelLink(folder string) (link, target string) {
	name := filepath.Base(folder)
	level, err := strconv.ParseUint(name, 16, 8)
	if err != nil || len(name) != 4 || level > 9 {
		return "", ""
	}
	return filepath.Join(filepath.Dir(folder), "ltx", strconv.FormatUint(level, 10)), filepath.Join("..", name)
}

// exposeLevel makes the link if folder is a level's. It is called with the
// store's lock, for each object, because a crash may have come between.
func exposeLevel(folder string) error {
	link, target := levelLink(folder)
	if link == "" {
		return nil
	}
	if _, err := os.Lstat(link); err == nil {
		return nil
	}
	if err := makeFolder(filepath.Dir(link)); err != nil {
		return err
	}
	if err := os.Symlink(target, link); err != nil && !stderrors.Is(err, os.ErrExist) {
		return err
	}
	return syncFolder(filepath.Dir(link))
}

// hideLevel removes the link of a folder that is gone, and the links' folder
// with the last of them.
func hideLevel(folder string) {
	if link, _ := levelLink(folder); link != "" {
		if st, err := os.Lstat(link); err == nil && st.Mode()&os.ModeSymlink != 0 {
			os.Remove(link)
			os.Remove(filepath.Dir(link)) // fails while there are others
		}
	}
}
