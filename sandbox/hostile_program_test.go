package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
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

// This file is the hostile program itself and what surrounds it: how each row of
// the table in hostile_test.go is tried.

// surroundings prepares everything that the hostile program could find.
func surroundings(t *testing.T, w world) target {
	t.Helper()
	name := filepath.Base(w.dir)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tcp.Close() })
	for _, address := range []string{"@" + name, w.tenant("globex", "socket")} {
		l, err := net.Listen("unix", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
	for _, path := range []string{"/dev/shm/" + name + ".shared", "/tmp/" + name + ".shared"} {
		if err := os.WriteFile(path, []byte("shared"), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(path) })
	}
	key := os.Getpid() << 4
	shm, err := unix.SysvShmGet(key, 4096, unix.IPC_CREAT|0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.SysvShmCtl(shm, unix.IPC_RMID, nil) })

	secret, err := unix.AddKey("user", name, []byte("secret"), unix.KEY_SPEC_SESSION_KEYRING)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.KeyctlInt(unix.KEYCTL_REVOKE, secret, 0, 0, 0) })

	// A process outside, with a secret in its memory, that may be traced.
	victim := exec.Command("sleep", "1000")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { victim.Process.Kill(); victim.Wait() })

	fd, err := unix.Dup(int(os.Stderr.Fd())) // not closed on exec
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return target{
		World: w.dir, Pid: victim.Process.Pid, Port: tcp.Addr().(*net.TCPAddr).Port,
		Abstract: name, Shm: key, Descriptor: fd, Address: mapping(t, victim.Process.Pid),
	}
}

// mapping is the first readable address of a process.
func mapping(t *testing.T, pid int) (address string) {
	t.Helper()
	eventually(t, "the victim runs", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
		address, _, _ = strings.Cut(string(b), "-")
		return err == nil && strings.Contains(string(b), "sleep")
	})
	return address
}

func outcomes(t *testing.T, out string) map[string]string {
	t.Helper()
	m := map[string]string{}
	if err := json.Unmarshal([]byte(out), &m); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	return m
}

// hostileRole tries everything and prints how it ended.
func hostileRole(args []string) {
	var w target
	if err := json.Unmarshal([]byte(args[0]), &w); err != nil {
		fmt.Println(err)
		return
	}
	result := map[string]string{}
	for _, a := range attempts {
		// Some attempts change the thread that they succeed in: it is not used again.
		done := make(chan error)
		go func() {
			runtime.LockOSThread()
			done <- a.try(w)
		}()
		err := <-done
		var errno syscall.Errno
		switch {
		case err == nil:
			result[a.name] = "ok"
		case errors.As(err, &errno):
			result[a.name] = unix.ErrnoName(errno)
		default:
			result[a.name] = err.Error()
		}
	}
	json.NewEncoder(os.Stdout).Encode(result)
}

func read(path string) error {
	_, err := os.ReadFile(path)
	return err
}

func open(path string) error {
	f, err := os.Open(path)
	if err == nil {
		f.Close()
	}
	return err
}

func readSomething(path string) error {
	b, err := os.ReadFile(path)
	if err == nil && len(b) == 0 {
		err = syscall.ENODATA
	}
	return err
}

func write(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		f.Close()
	}
	return err
}

// refused makes one answer of what depends on the kernel and on the user.
func refused(err error) error {
	if errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.ENOENT) {
		return syscall.EPERM
	}
	return err
}

func create(path string) error {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	return os.Remove(path)
}

func closing(fd int, err error) error { return err }

func dial(network, address string) error {
	c, err := net.DialTimeout(network, address, 2*time.Second)
	if err == nil {
		c.Close()
	}
	return err
}

func mountAndUndo(source, at, fstype string, flags uintptr) error {
	if err := unix.Mount(source, at, fstype, flags, ""); err != nil {
		return err
	}
	return unix.Unmount(at, unix.MNT_DETACH)
}

func mknod(kind uint32, major, minor uint32) error {
	if err := unix.Mknod("device", kind|0o600, int(unix.Mkdev(major, minor))); err != nil {
		return err
	}
	return os.Remove("device")
}

func firstDisk() error {
	for _, name := range []string{"/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/mem"} {
		if err := open(name); !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return syscall.ENOENT
}

// fileHandle opens the world by handle, as one can who may ignore permissions.
func fileHandle(w target) error {
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, ".", 0)
	if err != nil {
		return err
	}
	f, err := os.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return closing(unix.OpenByHandleAt(int(f.Fd()), h, unix.O_RDONLY))
}

// seen looks for a process in a listing of /proc.
func seen(pid int) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	others := 0
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil || n == os.Getpid() {
			continue
		}
		others++
		if n == pid {
			return nil
		}
	}
	if others > 0 {
		return fmt.Errorf("%d other processes are seen", others)
	}
	return syscall.ESRCH
}

// inNew runs this program in a new namespace.
func inNew(flag uintptr) error {
	cmd := exec.Command("/proc/self/exe", "role", "newuser")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flag}
	return cmd.Run()
}

func enter(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return unix.Setns(int(f.Fd()), 0)
}

func trace(pid int) error {
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil // let go when the thread ends
}

func readMemory(w target) error {
	address, err := strconv.ParseUint(w.Address, 16, 64)
	if err != nil {
		return err
	}
	buf := make([]byte, 8)
	local := []unix.Iovec{{Base: &buf[0], Len: 8}}
	_, err = unix.ProcessVMReadv(w.Pid, local, []unix.RemoteIovec{{Base: uintptr(address), Len: 8}}, 0)
	return err
}

func environment(key string) error {
	if os.Getenv(key) == "" {
		return syscall.ENOENT
	}
	return nil
}

func descriptor(fd int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err
}

// extraDescriptors looks for descriptors that this program did not open: its
// runtime opens its own close-on-exec.
func extraDescriptors() error {
	for fd := 3; fd < 1000; fd++ {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			return nil
		}
	}
	return syscall.ENOENT
}

func parent() error {
	if _, err := os.ReadDir("/proc/" + strconv.Itoa(os.Getppid())); err != nil || os.Getppid() == 0 {
		return syscall.ESRCH
	}
	return nil
}

func setHostname() error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	return unix.Sethostname([]byte(name))
}

func setuidInThread(uid uintptr) error {
	// The real id only: the thread can still clean up after itself.
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, uid, ^uintptr(0), ^uintptr(0)); errno != 0 {
		return errno
	}
	return nil
}

func chown() error {
	if err := os.WriteFile("mine", nil, 0o600); err != nil {
		return err
	}
	return os.Chown("mine", 4242, 4242)
}

// status succeeds when one of the capability sets has something in it.
func status(keys ...string) error {
	b, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return err
	}
	for _, line := range strings.Split(string(b), "\n") {
		key, value, _ := strings.Cut(line, ":")
		for _, k := range keys {
			if k == key && strings.Trim(strings.TrimSpace(value), "0") != "" {
				return nil
			}
		}
	}
	return syscall.ENOENT
}

// privilegesByExec succeeds unless no_new_privs is set.
func privilegesByExec() error {
	n, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if err == nil && n == 1 {
		err = syscall.EPERM
	}
	return err
}
