// Package mount shows a volume to the kernel through FUSE.
//
//	m, err := mount.Mount(ctx, "/data", v, mount.Options{})
//	defer m.Unmount(ctx)
//
// The root's folders are the tenants; what is below one is answered by
// volume.Tenant, and nothing is decided here but what the kernel may cache and
// which files it may pass through.
//
// Two mount options decide about correctness and speed, see RATIONALE.md:
// explicit control of the data cache, without which SQLite reads stale pages,
// and no extended attributes, without which every write asks for one first.
// Locks stay in the kernel: all processes of one machine share this mount.
package mount

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"atc/fs/errors"
	"atc/fs/volume"
)

// Options configure a mount.
type Options struct {
	// Name is shown as the mount's source, so that tools find the cache folder
	// by the mountpoint: see [Source].
	Name string
	// NoPassthrough serves every file through the daemon, as on a kernel before
	// 6.9 or without CAP_SYS_ADMIN.
	NoPassthrough bool
	// Untouched says that this process opens nothing on the mount itself. Then it
	// can be killed at any moment: a thread that waits for an answer of its own
	// process keeps that from ending, and the connection with it.
	Untouched bool
	Logger    *slog.Logger
	// Debug logs every FUSE message to standard error.
	Debug bool
}

// Type is the filesystem type of the mount, as in /proc/self/mountinfo.
const Type = "fuse.atc"

// Mounted is a mounted volume.
type Mounted struct {
	dir    string
	server *fuse.Server
	logger *slog.Logger
	ops    *operations
}

// Mount mounts v on dir, which is made if it is not there. A mount that a killed
// run of atc left on dir is removed first.
func Mount(ctx context.Context, dir string, v *volume.Volume, opts Options) (*Mounted, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if err := clearStale(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, errors.E("mount", dir, errors.Other, err)
	}
	ops := &operations{volume: v, logger: opts.Logger}
	top := &root{ops: ops}
	absent := absentTimeout
	raw := fs.NewNodeFS(top, &fs.Options{NullPermissions: true, FirstAutomaticIno: 1 << 62, NegativeTimeout: &absent})
	var server *fuse.Server
	err := withDevice(func() (err error) {
		server, err = fuse.NewServer(counting{raw, ops}, dir, &fuse.MountOptions{
			FsName:                   opts.Name,
			Name:                     strings.TrimPrefix(Type, "fuse."),
			AllowOther:               true,
			DirectMountStrict:        true,
			ExplicitDataCacheControl: true,
			DisableXAttrs:            true,
			MaxStackDepth:            1,
			MaxWrite:                 1 << 20,
			EnableSymlinkCaching:     true,
			Debug:                    opts.Debug,
		})
		return err
	})
	if err != nil {
		return nil, errors.E("mount", dir, errors.Unsupported, explain(err))
	}
	go server.Serve()
	if !opts.Untouched {
		// It opens a file on the mount, so that the kernel learns that we do not
		// poll, which Go's runtime tries with every file.
		if err := server.WaitMount(); err != nil {
			return nil, errors.E("mount", dir, errors.Other, err)
		}
	}
	m := &Mounted{dir: dir, server: server, logger: opts.Logger, ops: ops}
	v.OnRelease(top.forget)
	v.SetPassthrough(!opts.NoPassthrough && m.passes())
	return m, nil
}

// explain says what is missing when the kernel refuses to mount.
func explain(err error) error {
	if _, statErr := os.Stat("/dev/fuse"); statErr != nil {
		return fmt.Errorf("%w: /dev/fuse is not there: load the fuse module, or give the container the device", err)
	}
	f, openErr := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if openErr != nil {
		return fmt.Errorf("%w: %w: this user may not open the device", err, openErr)
	}
	f.Close()
	return fmt.Errorf("%w: mounting needs CAP_SYS_ADMIN, at least in a user namespace", err)
}

// clearStale removes mounts whose server is gone. A mount that still answers is
// another atc's. The question is statfs(2), since the kernel answers stat(2) of
// a dead mount's root out of its cache.
func clearStale(dir string) error {
	for {
		if _, mounted := Source(dir); !mounted {
			return nil
		}
		var st unix.Statfs_t
		switch err := unix.Statfs(dir, &st); err {
		case unix.ENOTCONN, unix.ECONNABORTED:
		case nil:
			return errors.E("mount", dir, errors.Busy, fmt.Errorf("another atc is mounted there"))
		default:
			return errors.E("mount", dir, errors.Other, err)
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return errors.E("remove the mount of a run that was killed", dir, errors.Other, err)
		}
	}
}

// passes finds out whether this kernel lets files be passed through, by trying.
func (m *Mounted) passes() bool {
	f, err := os.CreateTemp(m.ops.volume.CacheDir(), "probe-*")
	if err != nil {
		return false
	}
	defer f.Close()
	os.Remove(f.Name())
	id, errno := m.server.RegisterBackingFd(&fuse.BackingMap{Fd: int32(f.Fd())})
	if errno != 0 {
		m.logger.Info("files are served through the daemon", "reason", "the kernel offers no passthrough here", "err", errno)
		return false
	}
	m.server.UnregisterBackingFd(id)
	return true
}

// Requests is how many requests the kernel has sent so far.
func (m *Mounted) Requests() int64 { return m.ops.requests.Load() }

// Dir is the mountpoint.
func (m *Mounted) Dir() string { return m.dir }

// Wait returns when the filesystem is unmounted, by whomever.
func (m *Mounted) Wait() { m.server.Wait() }

// Unmount ends the mount. While files are open it waits until ctx ends; then it
// detaches the mount and cuts the connection, and whoever still has a file open
// gets errors.
func (m *Mounted) Unmount(ctx context.Context) error {
	const pause = 50 * time.Millisecond
	dev := m.device()
	for {
		err := unix.Unmount(m.dir, 0)
		if err == nil || err == unix.EINVAL { // EINVAL: it is no mountpoint any more
			break
		}
		if err != unix.EBUSY {
			return errors.E("unmount", m.dir, errors.Other, err)
		}
		select {
		case <-time.After(pause):
			continue
		case <-ctx.Done():
		}
		m.logger.Warn("files are still open; detaching the mount", "mountpoint", m.dir)
		m.ops.volume.EndWaits()
		if err := unix.Unmount(m.dir, unix.MNT_DETACH); err != nil {
			return errors.E("unmount", m.dir, errors.Other, err)
		}
		if err := abort(dev); err != nil {
			return errors.E("cut the connection of", m.dir, errors.Other, err)
		}
		break
	}
	m.ops.volume.EndWaits() // the server ends when all requests are answered
	m.server.Wait()
	return nil
}

// device is the minor number of the mount, by which the kernel names its
// connection in /sys/fs/fuse/connections.
func (m *Mounted) device() uint32 {
	device := uint32(0)
	eachMount(func(mountpoint, _ string, minor uint32) {
		if mountpoint == m.dir {
			device = minor
		}
	})
	return device
}

// abort makes the kernel give up a connection whose mount is detached, so that
// the server ends although files are open.
func abort(dev uint32) error {
	const connections = "/sys/fs/fuse/connections"
	name := filepath.Join(fmt.Sprint(dev), "abort")
	err := os.WriteFile(filepath.Join(connections, name), []byte("1"), 0)
	if !os.IsNotExist(err) {
		return err
	}
	// The control filesystem is not mounted, as in most containers.
	dir, err := os.MkdirTemp("", "atc-fusectl-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := unix.Mount("fusectl", dir, "fusectl", 0, ""); err != nil {
		return err
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	err = os.WriteFile(filepath.Join(dir, name), []byte("1"), 0)
	if os.IsNotExist(err) {
		return nil // the last file was closed meanwhile, and that ended it
	}
	return err
}

// Source returns the Name that the mount on dir was given, if atc mounted it.
func Source(dir string) (string, bool) {
	source, found := "", false
	eachMount(func(mountpoint, name string, _ uint32) {
		if mountpoint == dir {
			source, found = name, true // the last one is on top
		}
	})
	return source, found
}

// Sources returns the Names of all mounts of atc that are visible here.
func Sources() []string {
	var names []string
	eachMount(func(_, name string, _ uint32) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	})
	return names
}

// eachMount reads /proc/self/mountinfo (Documentation/filesystems/proc.rst,
// section 3.5).
func eachMount(fn func(mountpoint, name string, minor uint32)) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(b)) {
		before, after, ok := strings.Cut(line, " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		if ok && len(fields) > 4 && len(rest) > 1 && rest[0] == Type {
			_, minor, _ := strings.Cut(fields[2], ":")
			n, _ := strconv.ParseUint(minor, 10, 32)
			fn(unescape(fields[4]), unescape(rest[1]), uint32(n))
		}
	}
}

// unescape undoes what the kernel does to blanks in mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
