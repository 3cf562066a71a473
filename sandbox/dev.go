package sandbox

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// This file makes /dev. It is bound node by node from the host's, and not made
// with mknod, because that also works in a user namespace.

// deviceNames are the nodes that a program without a terminal expects.
var deviceNames = []string{"null", "zero", "full", "random", "urandom"}

// shmSize bounds /dev/shm, which POSIX shared memory uses.
const shmSize = 64 << 20

func openDevices() ([]bound, error) {
	var all []bound
	for _, name := range deviceNames {
		path := "/dev/" + name
		// Read-only concerns the node itself; a device can still be written to.
		t, err := cloneTree(path, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
		if err != nil {
			return nil, err
		}
		all = append(all, bound{path, path, t})
	}
	return all, nil
}

func attachDevices(all []bound) error {
	for _, d := range all {
		if err := d.tree.attachNew(d.target); err != nil {
			return err
		}
	}
	for name, to := range map[string]string{"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"} {
		if err := os.Symlink("/proc/self/fd"+to, "/dev/"+name); err != nil {
			return err
		}
	}
	if err := attachTmpfs("/dev/shm", shmSize); err != nil {
		return fmt.Errorf("/dev/shm: %w", err)
	}
	return nil
}
