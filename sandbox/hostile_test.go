package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A hostile program, which knows everything about its surroundings, tries to
// get out of its sandbox. Each way is a row: what it tries, how that must end
// inside, and how it ends for the same program, as root, without a sandbox.
// "" means that the outcome outside depends on the machine.

// target is what the hostile program is told of the world outside.
type target struct {
	World      string // folder of all tenants
	Pid        int    // a process outside
	Port       int    // a TCP listener on the host's loopback
	Abstract   string // an abstract unix socket
	Shm        int    // key of a System V shared memory segment
	Descriptor int    // a descriptor that the parent forgot to close on exec
	Address    string // where this process keeps 8 bytes, in hexadecimal
}

func (w target) outside(path ...string) string {
	return filepath.Join(append([]string{fmt.Sprintf("/proc/%d", w.Pid)}, path...)...)
}

var attempts = []struct {
	name            string
	try             func(target) error
	inside, outside string
}{
	// Files of another tenant.
	{"path", func(w target) error { return read(w.World + "/globex/secret") }, "ENOENT", "ok"},
	{"dot dot", func(w target) error { return read("../globex/secret") }, "ENOENT", "ok"},
	{"symlink", func(w target) error {
		os.Remove("link")
		return errors.Join(os.Symlink(w.World+"/globex", "link"), read("link/secret"))
	}, "ENOENT", "ok"},
	{"process 1's root", func(w target) error { return read("/proc/1/root" + w.World + "/globex/secret") }, "EPERM", ""},
	{"outside process's root", func(w target) error { return read(w.outside("root", w.World, "globex/secret")) }, "ENOENT", "ok"},
	{"outside process's folder", func(w target) error { return read(w.outside("cwd")) }, "ENOENT", "EISDIR"},
	{"file handle", fileHandle, "EPERM", "ok"},
	{"list of all processes", func(w target) error { return seen(w.Pid) }, "ESRCH", "ok"},
	{"chroot", func(target) error { return syscall.Chroot("/") }, "EPERM", "ok"},
	{"unix socket of another tenant", func(w target) error { return dial("unix", w.World+"/globex/socket") }, "ENOENT", "ok"},

	// Mounts, devices, namespaces.
	{"mount", func(w target) error { return mountAndUndo("none", "sub", "tmpfs", 0) }, "EPERM", "ok"},
	{"bind mount", func(w target) error { return mountAndUndo("/", "sub", "", unix.MS_BIND) }, "EPERM", "ok"},
	{"new mount calls", func(target) error { return closing(unix.Fsopen("tmpfs", 0)) }, "EPERM", "ok"},
	{"write to the image", func(target) error { return write("/etc/hostname") }, "EROFS", "ok"},
	{"write to the root", func(target) error { return create("/atc-hostile") }, "EROFS", "ok"},
	{"remount the image writable", func(target) error {
		return unix.Mount("", "/etc", "", unix.MS_REMOUNT|unix.MS_BIND, "")
	}, "EPERM", ""},
	{"uncover /proc", func(target) error { return unix.Unmount("/proc/sys", unix.MNT_DETACH) }, "EPERM", ""},
	{"make a device", func(target) error { return mknod(unix.S_IFCHR, 1, 1) }, "EPERM", "ok"},
	{"make a disk", func(target) error { return mknod(unix.S_IFBLK, 254, 0) }, "EPERM", "ok"},
	{"disks", func(target) error { return firstDisk() }, "ENOENT", ""},
	{"kernel log device", func(target) error { return open("/dev/kmsg") }, "ENOENT", ""},
	{"terminal of the host", func(target) error { return open("/dev/console") }, "ENOENT", ""},
	{"new user namespace", func(target) error { return inNew(unix.CLONE_NEWUSER) }, "EPERM", "ok"},
	{"new mount namespace", func(target) error { return inNew(unix.CLONE_NEWNS) }, "EPERM", "ok"},
	{"new network namespace", func(target) error { return inNew(unix.CLONE_NEWNET) }, "EPERM", "ok"},
	{"enter the host's network", func(w target) error { return enter(w.outside("ns/net")) }, "ENOENT", "ok"},

	// The kernel's own files, which user 0 owns.
	{"core_pattern", func(target) error { return write("/proc/sys/kernel/core_pattern") }, "EROFS", "ok"},
	{"system requests", func(target) error { return refused(write("/proc/sysrq-trigger")) }, "EPERM", ""},
	{"host's timers", func(target) error { return readSomething("/proc/timer_list") }, "ENODATA", "ok"},
	{"host's memory use", func(target) error { return readSomething("/proc/slabinfo") }, "ENODATA", "ok"},
	{"keys", func(target) error { return readSomething("/proc/keys") }, "ENODATA", ""},
	{"memory types", func(target) error { return write("/proc/mtrr") }, "EROFS", ""},

	// Processes outside.
	{"signal", func(w target) error { return syscall.Kill(w.Pid, 0) }, "ESRCH", "ok"},
	{"trace", func(w target) error { return trace(w.Pid) }, "ESRCH", "ok"},
	{"read memory", readMemory, "ESRCH", "ok"},
	{"process descriptor", func(w target) error { return closing(unix.PidfdOpen(w.Pid, 0)) }, "ESRCH", "ok"},
	{"trace the init", func(w target) error { return trace(1) }, "EPERM", ""},
	{"init's environment", func(w target) error { return read("/proc/1/environ") }, "EPERM", ""},
	{"outside environment", func(w target) error { return read(w.outside("environ")) }, "ENOENT", "ok"},
	{"own environment", func(target) error { return environment("ATC_TEST_SECRET") }, "ENOENT", "ok"},
	{"inherited descriptor", func(w target) error { return descriptor(w.Descriptor) }, "EBADF", "ok"},
	{"more than three descriptors", func(target) error { return extraDescriptors() }, "ENOENT", "ok"},
	{"parent is gone from view", func(target) error { return parent() }, "ESRCH", "ok"},

	// Networks and other ways to talk.
	{"host's loopback", func(w target) error { return dial("tcp", "127.0.0.1:"+strconv.Itoa(w.Port)) }, "ECONNREFUSED", "ok"},
	{"host's loopback, IPv6 mapped", func(w target) error { return dial("tcp", "[::ffff:127.0.0.1]:"+strconv.Itoa(w.Port)) }, "ECONNREFUSED", "ok"},
	{"metadata service", func(target) error { return dial("tcp", "169.254.169.254:80") }, "ENETUNREACH", ""},
	{"somewhere else", func(target) error { return dial("udp", "192.0.2.1:53") }, "ENETUNREACH", ""},
	{"raw socket", func(target) error { return closing(unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)) }, "EPERM", "ok"},
	{"packet socket", func(target) error { return closing(unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)) }, "EPERM", "ok"},
	{"abstract socket", func(w target) error { return dial("unix", "@"+w.Abstract) }, "ECONNREFUSED", "ok"},
	{"System V shared memory", func(w target) error { return closing(unix.SysvShmGet(w.Shm, 0, 0)) }, "ENOENT", "ok"},
	{"POSIX shared memory", func(w target) error { return read("/dev/shm/" + w.Abstract + ".shared") }, "ENOENT", "ok"},
	{"temporary files", func(w target) error { return read("/tmp/" + w.Abstract + ".shared") }, "ENOENT", "ok"},
	{"session keyring", func(w target) error {
		_, err := unix.KeyctlSearch(unix.KEY_SPEC_SESSION_KEYRING, "user", w.Abstract, 0)
		return err
	}, "ENOKEY", "ok"},

	// Privileges.
	{"host name", func(target) error { return setHostname() }, "EPERM", "ok"},
	{"take another user's id", func(target) error { return setuidInThread(4242) }, "EPERM", "ok"},
	{"give a file another user's id", func(target) error { return chown() }, "EPERM", "ok"},
	{"more open files", func(target) error {
		return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: maxOpenFiles + 1, Max: maxOpenFiles + 1})
	}, "EPERM", ""},
	{"capabilities", func(target) error { return status("CapPrm", "CapEff", "CapBnd", "CapAmb", "CapInh") }, "ENOENT", "ok"},
	{"set-user-id programs", func(target) error { return privilegesByExec() }, "EPERM", "ok"},
}

func TestHostile(t *testing.T) {
	nothingLeft(t)
	runtime.LockOSThread() // a session keyring belongs to a thread, and to what it forks
	t.Setenv("ATC_TEST_SECRET", "the caller's")
	w := newWorld(t)
	if err := os.Mkdir(w.tenant("acme", "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	where := surroundings(t, w)
	args, err := json.Marshal(where)
	if err != nil {
		t.Fatal(err)
	}
	inside := outcomes(t, output(t, w.spec(t, "hostile", string(args))))
	outside := map[string]string{}
	if !rootless() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, executable(t), "role", "hostile", string(args))
		cmd.Dir = w.tenant("acme")
		b, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		outside = outcomes(t, string(b))
	}
	for _, a := range attempts {
		want := a.inside
		switch {
		case rootless() && want == "EPERM" && strings.Contains(a.name, "another user's id"):
			want = "EINVAL" // there is no other id
		case nobody() && want == "EROFS" && a.name != "write to the root":
			want = "EACCES" // the file's permissions refuse before the mount does
		}
		if inside[a.name] != want {
			t.Errorf("%s: %s inside, want %s", a.name, inside[a.name], want)
		}
		if a.outside != "" && !rootless() && outside[a.name] != a.outside {
			t.Errorf("%s: %s outside, want %s", a.name, outside[a.name], a.outside)
		}
	}
}
