package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// This file wraps the mount calls of Linux 5.12. They are what makes the root
// simple to build: a mount is made detached, gets its flags before anybody can
// see it, and is then attached in one step, so that the sources can be taken in
// the old root and attached in the new one.

const (
	sealed  = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	private = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
)

// tree is a detached mount. Its descriptor dies with the init's next exec.
type tree struct {
	fd     int
	folder bool
}

// cloneTree copies the mount that shows path and everything mounted below it.
// Below too, because in a user namespace the kernel locks inherited mounts to
// each other and refuses to copy one without what covers it.
func cloneTree(path string, attr uint64) (tree, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return tree{}, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	set := unix.MountAttr{Attr_set: attr, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &set); err != nil {
		return tree{}, &os.PathError{Op: "mount_setattr", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return tree{}, &os.PathError{Op: "fstat", Path: path, Err: err}
	}
	return tree{fd, st.Mode&unix.S_IFMT == unix.S_IFDIR}, nil
}

// newMount makes a detached filesystem; options come as key, value pairs.
func newMount(fstype string, attr int, options ...string) (tree, error) {
	fail := func(err error) (tree, error) { return tree{}, fmt.Errorf("new %s: %w", fstype, err) }
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fs)
	for i := 0; i+1 < len(options); i += 2 {
		if err := unix.FsconfigSetString(fs, options[i], options[i+1]); err != nil {
			return fail(fmt.Errorf("%s=%s: %w", options[i], options[i+1], err))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fail(err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return fail(err)
	}
	return tree{fd, true}, nil
}

func newTmpfs(size int64, mode string) (tree, error) {
	return newMount("tmpfs", private, "size", strconv.FormatInt(size, 10), "mode", mode)
}

// attach puts a detached mount on an existing target.
func (t tree) attach(target string) error {
	if err := unix.MoveMount(t.fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: target, Err: err}
	}
	return unix.Close(t.fd)
}

// attachNew makes the target, a folder or an empty file as the tree needs it,
// and attaches there.
func (t tree) attachNew(target string) error {
	parent := target
	if !t.folder {
		parent = filepath.Dir(target)
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("making the mount point: %w", err)
	}
	if !t.folder {
		f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY|unix.O_NOFOLLOW, 0o444)
		if err != nil {
			return fmt.Errorf("making the mount point: %w", err)
		}
		f.Close()
	}
	return t.attach(target)
}

// seal makes the one mount at path read-only.
func seal(path string) error {
	set := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, path, 0, &set); err != nil {
		return &os.PathError{Op: "mount_setattr", Path: path, Err: err}
	}
	return nil
}
