package control

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"atc/fs/errors"
)

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if path := os.Getenv("CONTROL_TEST_LISTEN"); path != "" {
		if _, err := Listen(path); err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		os.Stdout.WriteString("listening\n")
		time.Sleep(time.Hour)
	}
	os.Exit(m.Run())
}

func TestSocketOfAKilledProcessIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), "CONTROL_TEST_LISTEN="+path)
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer other.Wait()
	defer other.Process.Kill()
	if _, err := out.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); !errors.Is(errors.Busy, err) {
		t.Fatalf("while another process listens: %v", err)
	}
	other.Process.Kill()
	other.Wait()
	if _, err := os.Lstat(path); err != nil {
		t.Fatalf("the test needs a stale socket: %v", err)
	}
	if _, err := Dial(context.Background(), path); !errors.Is(errors.NotExist, err) {
		t.Errorf("Dial to a stale socket: %v", err)
	}
	start(t, path, &Server{})
	connect(t, path)
}

func TestOtherFilesAreNotReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); !errors.Is(errors.Exist, err) {
		t.Errorf("got %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("the file now holds %q", b)
	}
	if _, err := Listen(filepath.Join(t.TempDir(), "no", "folder")); err == nil {
		t.Error("listened in a folder that does not exist")
	}
}

// However open the process's umask is, the socket is its owner's alone.
func TestSocketMode(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	path := filepath.Join(t.TempDir(), SocketName)
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestLongPaths(t *testing.T) {
	for _, length := range []int{maxSocketPath - 1, maxSocketPath, maxSocketPath + 1, 300, 2000} {
		folder := t.TempDir()
		for length-len(folder)-1-len(SocketName) > 1 {
			n := min(length-len(folder)-2-len(SocketName), 200)
			folder = filepath.Join(folder, strings.Repeat("d", n))
		}
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(folder, SocketName)
		stop := start(t, path, &Server{Health: Health{PID: length}})
		if h, err := connect(t, path).Health(context.Background()); err != nil || h.PID != length {
			t.Errorf("%d bytes: %+v %v", len(path), h, err)
		}
		if _, err := Listen(path); !errors.Is(errors.Busy, err) {
			t.Errorf("%d bytes: a second listener: %v", len(path), err)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%d bytes: the socket is left behind", len(path))
		}
	}
	long := filepath.Join(t.TempDir(), strings.Repeat("d", 150))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	for range 50 {
		_, done, err := shorten(filepath.Join(long, SocketName))
		if err != nil {
			t.Fatal(err)
		}
		done()
	}
	if after := descriptors(t); after > before+10 {
		t.Errorf("%d descriptors were left open", after-before)
	}
	if _, err := Listen(filepath.Join(t.TempDir(), strings.Repeat("s", 200))); !errors.Is(errors.Unsupported, err) {
		t.Errorf("a name that cannot be shortened: %v", err)
	}
}

// Of many that find the same stale socket, exactly one gets it.
func TestOneOfManyListens(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	var won atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			l, err := Listen(path)
			if err == nil {
				won.Add(1)
				t.Cleanup(func() { l.Close() })
			} else if !errors.Is(errors.Busy, err) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d listeners", won.Load())
	}
}

// A listener that was replaced does not remove its successor's socket.
func TestCloseLeavesASuccessor(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	first, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	start(t, path, &Server{})
	first.Close()
	connect(t, path)
}

func descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}
