package mount_test

import (
	"os/exec"
	"strings"
	"testing"

	"atc/fs/mount/mounttest"
)

// TestChildrenDoNotInheritTheDevice starts a program while something is mounted,
// as `atc mount -- COMMAND` does.
func TestChildrenDoNotInheritTheDevice(t *testing.T) {
	f := mounttest.Start(t, mounttest.Options{})
	out, err := exec.Command("sh", "-c", "ls -l /proc/self/fd /proc/$$/fd").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "->") {
		t.Fatalf("%v: %s", err, out)
	}
	if strings.Contains(string(out), "fuse") {
		t.Errorf("a child has the connection to the kernel:\n%s", out)
	}
	f.Stop(t)
}
