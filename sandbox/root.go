package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// This file builds the filesystem that the program sees. It runs in the init,
// in the new mount namespace, in two halves: first every source is opened as a
// detached mount in the old root, then the root is exchanged and the mounts are
// attached in the new one, where no symlink can lead outside.

// imageFolders are the host's folders that every program may read.
var imageFolders = []string{"/usr", "/bin", "/sbin", "/etc", "/opt", "/srv"}

// rootSize bounds the root's tmpfs, which holds mount points and symlinks.
const rootSize = 1 << 20

// bound is one host path with its detached copy and where it goes.
type bound struct {
	source, target string // real host path; path inside
	tree           tree
}

// root is everything that was opened in the old root.
type root struct {
	binds   []bound
	links   map[string]string // path inside to symlink's target
	cover   []string          // paths inside that must not be seen
	data    tree
	proc    tree
	devices []bound
	program *bound // the command's own file, for when no bind shows it

	programHidden string // the hidden folder that the program's file is in
}

// buildRoot leaves the init in the finished root.
func buildRoot(p *plan) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts private: %w", err)
	}
	r, err := openSources(p)
	if err != nil {
		return err
	}
	if err := exchangeRoot(); err != nil {
		return err
	}
	return r.attach(p)
}

func openSources(p *plan) (*root, error) {
	r := &root{links: map[string]string{"/var/tmp": "/tmp"}}
	var err error
	// Before anything is covered: in a user namespace the kernel gives a new
	// /proc only to who sees a whole one already.
	if r.proc, err = newProc(); err != nil {
		return nil, err
	}
	if r.devices, err = openDevices(); err != nil {
		return nil, err
	}
	if err := r.openImage(); err != nil {
		return nil, err
	}
	for _, b := range p.Binds {
		if err := r.open(b.Source, b.Target); err != nil {
			return nil, err
		}
	}
	if r.data, err = cloneTree(p.Dir, private); err != nil {
		return nil, fmt.Errorf("the tenant's folder: %w", err)
	}
	if !r.data.folder {
		return nil, fmt.Errorf("the tenant's folder: %s: %w", p.Dir, unix.ENOTDIR)
	}
	if err := r.openProgram(p.Command[0]); err != nil {
		return nil, err
	}
	return r, r.hide(p.Hide)
}

// openImage takes the image's folders; one that is a symlink (/bin on most
// systems) becomes the same symlink.
func (r *root) openImage() error {
	libs, err := filepath.Glob("/lib*")
	if err != nil {
		return err
	}
	for _, name := range append(slices.Clone(imageFolders), libs...) {
		st, err := os.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if st.Mode()&fs.ModeSymlink == 0 {
			if err := r.open(name, name); err != nil {
				return err
			}
			continue
		}
		if r.links[name], err = os.Readlink(name); err != nil {
			return err
		}
	}
	return nil
}

func (r *root) open(source, target string) error {
	fail := func(err error) error { return fmt.Errorf("bind %s at %s: %w", source, target, err) }
	t, err := cloneTree(source, sealed)
	if err != nil {
		return fail(err)
	}
	real, err := filepath.EvalSymlinks(source)
	if err != nil {
		return fail(err)
	}
	r.binds = append(r.binds, bound{real, target, t})
	return nil
}

// openProgram takes the command's file by itself. A file that does not exist
// here may exist inside, under a bind's other name.
func (r *root) openProgram(path string) error {
	if !filepath.IsAbs(path) {
		return nil
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil
	}
	t, err := cloneTree(real, sealed)
	if err != nil || t.folder {
		return err
	}
	r.program = &bound{real, filepath.Clean(path), t}
	return nil
}

// hide finds where the binds would show what must not be seen. A bind that
// comes from inside a hidden folder is refused.
func (r *root) hide(paths []string) error {
	for _, path := range paths {
		hidden, err := filepath.EvalSymlinks(path)
		if err != nil {
			return fmt.Errorf("hide %s: %w", path, err)
		}
		if r.program != nil && within(hidden, r.program.source) {
			r.programHidden = path
		}
		for _, b := range r.binds {
			switch {
			case within(b.source, hidden):
				r.cover = append(r.cover, b.target+strings.TrimPrefix(hidden, b.source))
			case within(hidden, b.source):
				return fmt.Errorf("bind %s at %s: %w: it is inside %s, which is hidden", b.source, b.target, unix.EACCES, path)
			}
		}
	}
	return nil
}

// exchangeRoot leaves the process in an empty root of its own, with nothing of
// the old one attached.
//
// The new root is not the namespace's root but a mount inside it, entered by
// chroot: the kernel refuses a new user namespace, and with it every capability
// that one could give, to a process in a chroot. What is outside of the chroot
// is one empty, read-only folder.
func exchangeRoot() error {
	base, err := newTmpfs(4096, "755")
	if err != nil {
		return err
	}
	if err := unix.MoveMount(base.fd, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attaching the new root: %w", err)
	}
	if err := unix.Fchdir(base.fd); err != nil {
		return fmt.Errorf("entering the new root: %w", err)
	}
	if err := os.Mkdir("root", 0o755); err != nil {
		return fmt.Errorf("in the new root: %w", err)
	}
	top, err := newTmpfs(rootSize, "755")
	if err != nil {
		return err
	}
	if err := top.attach("root"); err != nil {
		return err
	}
	if err := seal("."); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detaching the old root: %w", err)
	}
	if err := unix.Chroot("/root"); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	return os.Chdir("/")
}

func (r *root) attach(p *plan) error {
	// The links come first: a mount point below /lib is one below /usr/lib.
	for path, to := range r.links {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(to, path); err != nil {
			return err
		}
	}
	if err := attachDevices(r.devices); err != nil {
		return err
	}
	slices.SortStableFunc(r.binds, func(a, b bound) int { return cmp.Compare(len(a.target), len(b.target)) })
	for _, b := range r.binds {
		if err := b.tree.attachNew(b.target); err != nil {
			return fmt.Errorf("bind %s at %s: %w", b.source, b.target, err)
		}
	}
	for _, target := range r.cover {
		if err := coverWithNothing(target); err != nil {
			return fmt.Errorf("hide %s: %w", target, err)
		}
	}
	if err := attachTmpfs("/tmp", p.TmpSize); err != nil {
		return err
	}
	if err := attachProc(r.proc); err != nil {
		return err
	}
	if err := r.data.attachNew(p.Mount); err != nil {
		return fmt.Errorf("the tenant's folder: %w", err)
	}
	if err := r.attachProgram(); err != nil {
		return err
	}
	return seal("/")
}

// attachProgram binds the command's file where no folder shows it.
func (r *root) attachProgram() error {
	if r.program == nil {
		return nil
	}
	if _, err := os.Stat(r.program.target); err == nil {
		return unix.Close(r.program.tree.fd)
	}
	if r.programHidden != "" {
		return fmt.Errorf("the program %s: %w: it is inside %s, which is hidden", r.program.target, unix.EACCES, r.programHidden)
	}
	if err := r.program.tree.attachNew(r.program.target); err != nil {
		return fmt.Errorf("the program %s: %w", r.program.target, err)
	}
	return nil
}

// coverWithNothing hides a folder behind an empty one that cannot be entered,
// and a file behind /dev/null.
func coverWithNothing(target string) error {
	st, err := os.Lstat(target)
	if err != nil {
		return err
	}
	cover := func() (tree, error) { return cloneTree("/dev/null", unix.MOUNT_ATTR_RDONLY) }
	if st.IsDir() {
		cover = func() (tree, error) {
			return newMount("tmpfs", sealed|unix.MOUNT_ATTR_NOEXEC, "size", "4096", "mode", "0")
		}
	}
	t, err := cover()
	if err != nil {
		return err
	}
	return t.attach(target)
}

// attachTmpfs puts a bounded folder in memory at path, for everybody to write.
func attachTmpfs(path string, size int64) error {
	t, err := newTmpfs(size, "1777")
	if err != nil {
		return err
	}
	return t.attachNew(path)
}
