package mount_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"atc/fs/errors"
	"atc/fs/mount/mounttest"
)

// TestFileOperations does what programs do with files and folders, and compares
// what that leaves with what another machine gets.
func TestFileOperations(t *testing.T) {
	for _, mode := range []struct {
		name   string
		daemon bool
	}{{"passthrough", false}, {"daemon", true}} {
		t.Run(mode.name, func(t *testing.T) { testFileOperations(t, mode.daemon) })
	}
}

func testFileOperations(t *testing.T, daemon bool) {
	dir := t.TempDir()
	f := mounttest.Start(t, mounttest.Options{Dir: dir, NoPassthrough: daemon})
	acme := f.MakeTenant(t, "acme")
	at := func(p string) string { return filepath.Join(acme, p) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fails := func(what string, err error, want syscall.Errno) {
		t.Helper()
		if err == nil || errors.Errno(err) != want {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	write := func(p, content string) { t.Helper(); must(os.WriteFile(at(p), []byte(content), 0o644)) }
	holds := func(p, want string) {
		t.Helper()
		if got, err := os.ReadFile(at(p)); err != nil || string(got) != want {
			t.Errorf("%s holds %.60q, %v; want %.60q", p, got, err, want)
		}
	}

	// Folders, and what mkdir and rmdir refuse.
	must(os.MkdirAll(at("a/b/c/d"), 0o755))
	write("a/b/c/d/deep", "deep")
	fails("mkdir of what is there", os.Mkdir(at("a"), 0o755), syscall.EEXIST)
	fails("mkdir below nothing", os.Mkdir(at("x/y"), 0o755), syscall.ENOENT)
	fails("mkdir below a file", os.Mkdir(at("a/b/c/d/deep/x"), 0o755), syscall.ENOTDIR)
	fails("rmdir of a full folder", unix.Rmdir(at("a/b")), syscall.ENOTEMPTY)
	fails("rmdir of nothing", unix.Rmdir(at("x")), syscall.ENOENT)
	fails("rmdir of a file", unix.Rmdir(at("a/b/c/d/deep")), syscall.ENOTDIR)
	fails("unlink of a folder", unix.Unlink(at("a")), syscall.EISDIR)

	// Renames.
	write("one", "one")
	write("two", "two")
	must(os.Rename(at("one"), at("two")))
	holds("two", "one")
	must(os.Rename(at("a/b"), at("moved")))
	holds("moved/c/d/deep", "deep")
	must(os.Mkdir(at("empty"), 0o755))
	must(unix.Rename(at("moved"), at("empty")))
	holds("empty/c/d/deep", "deep")
	must(os.MkdirAll(at("full/x"), 0o755))
	fails("rename over a full folder", unix.Rename(at("empty"), at("full")), syscall.ENOTEMPTY)
	fails("rename into itself", unix.Rename(at("empty"), at("empty/c/x")), syscall.EINVAL)
	fails("rename of a file over a folder", unix.Rename(at("two"), at("full")), syscall.EISDIR)
	fails("rename of a folder over a file", unix.Rename(at("full"), at("two")), syscall.ENOTDIR)
	fails("rename that may not replace", unix.Renameat2(unix.AT_FDCWD, at("two"), unix.AT_FDCWD, at("full"), unix.RENAME_NOREPLACE), syscall.EEXIST)

	// A database, its log left by a killed process, and both moved.
	s := connect(t, at("main.db"))
	s.exec("pragma journal_mode=wal; create table t(a); insert into t values('logged');")
	s.kill()
	must(os.Mkdir(at("db"), 0o755))
	for _, suffix := range []string{"", "-wal"} {
		must(os.Rename(at("main.db"+suffix), at("db/renamed.db"+suffix)))
	}
	os.Remove(at("main.db-shm"))
	if got := mounttest.SQL(t, at("db/renamed.db"), "select a from t; insert into t values('after');"); got != "logged" {
		t.Errorf("the moved database holds %q", got)
	}
	must(os.Rename(at("db"), at("databases")))
	mounttest.SQL(t, at("other.db"), "create table t(a); insert into t values('replaced');")
	mounttest.SQL(t, at("replacing.db"), "create table t(a); insert into t values('replacing');")
	must(os.Rename(at("replacing.db"), at("other.db")))

	// Sizes.
	write("cut", "0123456789")
	must(os.Truncate(at("cut"), 4))
	must(os.Truncate(at("cut"), 6))
	holds("cut", "0123\x00\x00")
	for _, part := range []string{"first\n", "second\n"} {
		a, err := os.OpenFile(at("appended"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
		must(err)
		_, err = a.WriteString(part)
		must(err)
		must(a.Close())
	}
	sparse, err := os.Create(at("sparse"))
	must(err)
	_, err = sparse.WriteAt([]byte("end"), 3<<20)
	must(err)
	must(sparse.Close())
	var st unix.Stat_t
	if must(unix.Stat(at("sparse"), &st)); st.Size != 3<<20+3 || st.Blocks*512 > 1<<20 {
		t.Errorf("the sparse file has %d bytes in %d blocks", st.Size, st.Blocks)
	}

	// Attributes and symlinks.
	must(os.Chmod(at("two"), 0o604))
	must(os.Chtimes(at("two"), time.Unix(1e9, 5), time.Unix(1e9, 6)))
	must(os.Chown(at("two"), 1000, 1000)) // and nothing changes
	must(os.Symlink("empty/c/d/deep", at("inside")))
	must(os.Symlink("/etc/hostname", at("outside")))
	must(os.Symlink("nowhere", at("dangling")))
	holds("inside", "deep")
	fails("reading a dangling symlink", unix.Access(at("dangling"), unix.R_OK), syscall.ENOENT)

	// A file lives as long as it is open.
	write("unlinked", "before")
	open, err := os.OpenFile(at("unlinked"), os.O_RDWR, 0)
	must(err)
	must(os.Remove(at("unlinked")))
	_, err = open.WriteAt([]byte("BE"), 0)
	must(err)
	b := make([]byte, 6)
	if _, err := open.ReadAt(b, 0); err != nil || string(b) != "BEfore" {
		t.Errorf("the unlinked file holds %q, %v", b, err)
	}
	write("unlinked", "another")
	must(open.Truncate(0))
	must(open.Close())
	holds("unlinked", "another")

	want := fileTree(t, acme)
	f.WaitShipped(t, "acme")
	f.Stop(t)
	must(os.RemoveAll(f.Cache))
	f = mounttest.Start(t, mounttest.Options{Dir: dir, NoPassthrough: daemon})
	sameTree(t, "on an empty cache", fileTree(t, acme), want)
	for p, w := range map[string]string{"databases/renamed.db": "logged\nafter", "other.db": "replacing"} {
		if got := mounttest.SQL(t, at(p), "select a from t"); got != w {
			t.Errorf("%s holds %q, want %q", p, got, w)
		}
	}
	f.Stop(t)
}

// TestRefusals asks for what there is not, and gets the errors by which programs
// know that they have to do without.
func TestRefusals(t *testing.T) {
	f := mounttest.Start(t, mounttest.Options{})
	acme := f.MakeTenant(t, "acme")
	file := filepath.Join(acme, "file")
	if err := os.WriteFile(file, []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(acme, "other")
	if err := os.WriteFile(other, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	open, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		err  error
		want syscall.Errno
	}{
		{"link", unix.Link(file, file+"2"), syscall.EPERM},
		{"mkfifo", unix.Mkfifo(file+"3", 0o644), syscall.EPERM},
		{"mknod of a device", unix.Mknod(file+"4", unix.S_IFCHR|0o644, 0x103), syscall.EPERM},
		{"setxattr", unix.Setxattr(file, "user.a", []byte("b"), 0), syscall.EOPNOTSUPP},
		{"getxattr", second(unix.Getxattr(file, "user.a", nil)), syscall.EOPNOTSUPP},
		{"listxattr", second(unix.Listxattr(file, nil)), syscall.EOPNOTSUPP},
		{"removexattr", unix.Removexattr(file, "user.a"), syscall.EOPNOTSUPP},
		{"open with O_TMPFILE", second(unix.Open(acme, unix.O_TMPFILE|unix.O_RDWR, 0o600)), syscall.EOPNOTSUPP},
		{"exchange of two names", unix.Renameat2(unix.AT_FDCWD, file, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE), syscall.EINVAL},
		{"punching a hole", unix.Fallocate(int(open.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4), syscall.EOPNOTSUPP},
		{"rename to another tenant", unix.Rename(file, filepath.Join(f.MakeTenant(t, "other"), "file")), syscall.EXDEV},
	} {
		if c.err != c.want {
			t.Errorf("%s: %v, want %v", c.what, c.err, c.want)
		}
	}
	if err := open.Close(); err != nil {
		t.Fatal(err)
	}
	f.Stop(t)
}

func second[T any](_ T, err error) error { return err }

// TestTools copies a tree with the programs that people use, which are to end with
// status 0.
func TestTools(t *testing.T) {
	source := t.TempDir()
	for _, step := range []error{
		os.MkdirAll(filepath.Join(source, "dir", "empty"), 0o750),
		os.WriteFile(filepath.Join(source, "dir", "file"), bytes.Repeat([]byte("x"), 100_000), 0o640),
		os.WriteFile(filepath.Join(source, "ünïcode and blanks"), []byte("y"), 0o444),
		os.Symlink("dir/file", filepath.Join(source, "link")),
		os.Truncate(filepath.Join(source, "dir", "file"), 5<<20),
		os.Chtimes(filepath.Join(source, "dir", "file"), time.Unix(1e9, 0), time.Unix(1e9, 7)),
		os.Chmod(filepath.Join(source, "dir"), 0o711),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	want := fileTree(t, source)
	dir := t.TempDir()
	f := mounttest.Start(t, mounttest.Options{Dir: dir})
	tools := map[string]string{
		"cp":    `cp -a "$1/." "$2"`,
		"tar":   `tar -C "$1" -cf - . | tar -C "$2" -xpf -`,
		"rsync": `rsync -a "$1/" "$2" && rsync -a --delete "$1/" "$2"`,
		"mv":    `cp -a "$1" "$1.copy" && mv "$1.copy"/* "$2"`,
	}
	for name, script := range tools {
		to := filepath.Join(f.MakeTenant(t, name), "to")
		if err := os.Mkdir(to, 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("bash", "-euo", "pipefail", "-c", script, name, source, to).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		sameTimes(t, name, fileTree(t, to), want)
		f.WaitShipped(t, name)
	}
	f.Stop(t)
	if err := os.RemoveAll(f.Cache); err != nil {
		t.Fatal(err)
	}
	f = mounttest.Start(t, mounttest.Options{Dir: dir})
	for name := range tools {
		sameTimes(t, name+" on an empty cache", fileTree(t, filepath.Join(f.Dir, name, "to")), want)
	}
	f.Stop(t)
}

// sameTimes is sameTree where symlinks may have other times, which tar does not
// keep to the nanosecond.
func sameTimes(t *testing.T, when string, got, want map[string]string) {
	t.Helper()
	rough := func(tree map[string]string) map[string]string {
		out := make(map[string]string)
		for p, s := range tree {
			fields := strings.SplitN(s, " ", 3)
			if at, err := time.Parse(time.RFC3339Nano, fields[1]); err == nil {
				fields[1] = at.Truncate(time.Second).Format(time.RFC3339)
			}
			if strings.HasPrefix(s, fs.ModeSymlink.String()[:1]) {
				fields[1] = ""
			}
			out[p] = strings.Join(fields, " ")
		}
		return out
	}
	sameTree(t, when, rough(got), rough(want))
}

const lockEnv = "ATC_TEST_LOCK"

// TestLockProcess is no test but the body of TestLocks' process.
func TestLockProcess(t *testing.T) {
	path := os.Getenv(lockEnv)
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: 10, Len: 5}); err != nil {
		t.Fatal(err)
	}
	fmt.Println("locked")
	time.Sleep(time.Hour)
}

// TestLocks has one process hold locks, which stop another one until it dies.
func TestLocks(t *testing.T) {
	f := mounttest.Start(t, mounttest.Options{})
	path := filepath.Join(f.MakeTenant(t, "acme"), "lock")
	mine, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestLockProcess$")
	cmd.Env = append(os.Environ(), lockEnv+"="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	flock := func() error { return unix.Flock(int(mine.Fd()), unix.LOCK_EX|unix.LOCK_NB) }
	posix := func(start, length int64) error {
		return unix.FcntlFlock(mine.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: start, Len: length})
	}
	if err := flock(); err != unix.EWOULDBLOCK {
		t.Errorf("flock while another process has it: %v", err)
	}
	if err := posix(14, 10); err != unix.EAGAIN {
		t.Errorf("a lock of bytes that another process has: %v", err)
	}
	if err := posix(15, 10); err != nil {
		t.Errorf("a lock of other bytes: %v", err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	eventually(t, "both locks go with their process", func() bool { return flock() == nil && posix(0, 100) == nil })
	if err := mine.Close(); err != nil {
		t.Fatal(err)
	}
	f.Stop(t)
}
