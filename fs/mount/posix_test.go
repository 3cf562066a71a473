package mount_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"atc/fs/mount/mounttest"
)

// notOurs are the tests of posixtest that do not apply, each with the reason.
var notOurs = map[string]string{
	"FcntlFlockLocksFile": "locks of one process do not conflict (fcntl(2)), nor do they on ext4; see TestLocks for those of two",
	"RenameOpenDir":       "a folder that was open while another one took its name cannot be looked at any more; see TestFileOperations",
	"Tmpfile":             "O_TMPFILE is refused, and programs do without; see TestRefusals",
	"Link":                "a file is one path in the bucket: hard links are refused, see TestRefusals",
	"LinkUnlinkRename":    "it makes a hard link, too",
	"XAttr":               "extended attributes are refused, since the kernel would ask for one at every write; see TestRefusals",
	"XAttrLarge":          "extended attributes are refused",
}

// TestPosix runs the tests of go-fuse for what programs expect of a filesystem,
// each in a folder of a tenant, with and without passthrough.
func TestPosix(t *testing.T) {
	for name, why := range notOurs {
		if posixtest.All[name] == nil {
			t.Errorf("there is no %s any more", name)
		}
		t.Logf("%s is left out: %s", name, why)
	}
	for _, mode := range []struct {
		name   string
		daemon bool
	}{{"passthrough", false}, {"daemon", true}} {
		t.Run(mode.name, func(t *testing.T) {
			f := mounttest.Start(t, mounttest.Options{NoPassthrough: mode.daemon})
			acme := f.MakeTenant(t, "acme")
			for _, name := range slices.Sorted(maps.Keys(posixtest.All)) {
				if notOurs[name] != "" {
					continue
				}
				t.Run(name, func(t *testing.T) {
					dir := filepath.Join(acme, strings.ToLower(name))
					if err := os.Mkdir(dir, 0o755); err != nil {
						t.Fatal(err)
					}
					posixtest.All[name](t, dir)
				})
			}
			f.WaitShipped(t, "acme")
			sameTree(t, "after all", indexTree(t, f.Bucket, "acme"), fileTree(t, acme))
			f.Stop(t)
		})
	}
}
