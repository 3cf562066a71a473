package bucket

import (
	"os"
	"testing"

	"atc/fs/errors"
)

// Between a change and its sync another process may delete the folder's last
// object, and with it the folder. What is to be synced then is further up.
func TestSyncOfAFolderThatIsGone(t *testing.T) {
	root := t.TempDir() + "/store"
	d, err := openDirectory(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.syncChange(d.path("a/b/c")); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	if err := d.syncChange(d.path("a/b/c")); !errors.Is(errors.NotExist, err) {
		t.Errorf("without the store: %v", err)
	}
}
