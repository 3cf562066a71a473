package sandbox

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// The tests of this package run twice more in a user namespace in which one id
// is mapped: to that of an unprivileged user, as a program without root makes
// one for itself, and to root's, as in a container that has little else.

const rootlessMark = "ATC_TEST_ROOTLESS"

func rootless() bool { return os.Getenv(rootlessMark) != "" }

// nobody reports whether user 0 here is an unprivileged one outside.
func nobody() bool { return os.Getenv(rootlessMark) == "65534" }

func TestRootless(t *testing.T) {
	if rootless() {
		return // this is that other time
	}
	if os.Getuid() != 0 {
		t.Skip("not root: cannot become another user before the namespace is made")
	}
	dir, err := os.MkdirTemp("", "sandbox-rootless-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "sandbox.test")
	copyFile(t, executable(t), program)
	for _, id := range []int{65534, 0} {
		t.Run(strconv.Itoa(id), func(t *testing.T) {
			cmd := exec.Command(program, "-test.v", "-test.timeout=4m")
			cmd.Env = append(os.Environ(), rootlessMark+"="+strconv.Itoa(id))
			cmd.Dir = "/"
			one := []syscall.SysProcIDMap{{ContainerID: 0, HostID: id, Size: 1}}
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
				UidMappings: one,
				GidMappings: one,
				Credential:  &syscall.Credential{Uid: 0, Gid: 0, NoSetGroups: true},
			}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("%s", out)
		})
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if cerr := out.Close(); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
}
