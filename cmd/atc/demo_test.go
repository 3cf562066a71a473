package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"atc/fs/bucket/s3test"
	"atc/fs/mount/mounttest"
)

// TestNotes is the main job: notes go to their tenant only, survive a kill and
// the loss of the disk as far as they were shipped, and all of them a clean
// stop. The bucket can be read without atc.
func TestNotes(t *testing.T) {
	for _, store := range []string{"file", "s3"} {
		t.Run(store, func(t *testing.T) {
			dir := t.TempDir()
			address := "file://" + filepath.Join(dir, "bucket")
			if store == "s3" {
				address = s3test.Start(t)
			}
			p := startDemo(t, dir, "--store", address)
			for i := range 3 {
				p.post(t, "acme", fmt.Sprintf("acme note %d", i))
			}
			p.post(t, "globex", "globex note")
			if body := p.notes(t, "globex"); strings.Contains(body, "acme note") || !strings.Contains(body, "globex note") {
				t.Errorf("globex sees\n%s", body)
			}
			if body := p.notes(t, "acme"); strings.Contains(body, "globex") {
				t.Errorf("acme sees\n%s", body)
			}
			if status, _ := p.request(t, "GET", "hooli.localhost", "/", nil); status != http.StatusNotFound {
				t.Errorf("unknown tenant: %d", status)
			}
			p.waitShipped(t, "acme")
			p.waitShipped(t, "globex")
			for _, s := range p.stat(t).Tenants {
				if s.Files.Pending != 0 {
					t.Errorf("%s: %+v, though the application has no plain files", s.ID, s.Files)
				}
			}
			out, err := exec.Command(atcPath(t), "fs", "stat", "--mount", filepath.Join(dir, "mnt"), "acme/notes.sqlite3").Output()
			if err != nil || !strings.Contains(string(out), "notes.sqlite3") || strings.Contains(string(out), "globex") {
				t.Errorf("fs stat by the mountpoint: %v\n%s", err, out)
			}
			p.kill()
			killed := time.Now()
			if err := os.RemoveAll(filepath.Join(dir, "cache")); err != nil {
				t.Fatal(err)
			}

			p = startDemo(t, dir, "--store", address)
			p.takesOver(t, "acme", killed)
			body := p.notes(t, "acme")
			for i := range 3 {
				if !strings.Contains(body, fmt.Sprintf("acme note %d", i)) {
					t.Errorf("after a kill and an empty cache note %d is gone:\n%s", i, body)
				}
			}
			p.post(t, "acme", "the last moment")
			p.interrupt(t)
			noMount(t, dir)
			if err := os.RemoveAll(filepath.Join(dir, "cache")); err != nil {
				t.Fatal(err)
			}

			p = startDemo(t, dir, "--store", address)
			if body := p.notes(t, "acme"); !strings.Contains(body, "the last moment") || !strings.Contains(body, "acme note 0") {
				t.Errorf("after a clean stop:\n%s", body)
			}
			p.interrupt(t)

			restored := mounttest.LitestreamRestore(t, address, "acme", "notes.sqlite3")
			if got := mounttest.SQL(t, restored, "pragma integrity_check"); got != "ok" {
				t.Errorf("litestream's copy: %s", got)
			}
			dump := mounttest.SQL(t, restored, ".dump")
			if !strings.Contains(dump, "the last moment") || strings.Contains(dump, "globex") {
				t.Errorf("litestream's copy is\n%s", dump)
			}
		})
	}
}

// TestKillKeepsTheCache takes up the local files of a run that was killed: no
// page is fetched again, and what was not shipped is shipped then.
func TestKillKeepsTheCache(t *testing.T) {
	dir := t.TempDir()
	p := startDemo(t, dir)
	p.post(t, "acme", "shipped")
	p.waitShipped(t, "acme")
	for i := range 20 {
		p.post(t, "acme", fmt.Sprintf("just before the kill %d", i))
	}
	p.kill()

	p = startDemo(t, dir)
	body := p.notes(t, "acme")
	for i := range 20 {
		if !strings.Contains(body, fmt.Sprintf("just before the kill %d<", i)) {
			t.Errorf("note %d is gone:\n%s", i, body)
		}
	}
	for _, s := range p.stat(t).Tenants {
		for _, d := range s.Databases {
			if d.Faults != 0 || d.FaultedBytes != 0 {
				t.Errorf("%s/%s: %d faults, %d bytes fetched although the cache was kept", s.ID, d.Path, d.Faults, d.FaultedBytes)
			}
		}
	}
	p.waitShipped(t, "acme")
	p.kill()
	killed := time.Now()
	if err := os.RemoveAll(filepath.Join(dir, "cache")); err != nil {
		t.Fatal(err)
	}
	p = startDemo(t, dir)
	p.takesOver(t, "acme", killed)
	if body := p.notes(t, "acme"); !strings.Contains(body, "just before the kill 19<") {
		t.Errorf("what the second run took up was not shipped:\n%s", body)
	}
	p.interrupt(t)
}

// takesOver waits until the tenant of a killed run, which is another machine's
// to this one, is served: within the lease and two seconds, and what a processor
// that is busy with other tests adds. The protocol by itself is timed with a clock
// of its own in fs/tenant.
func (p *process) takesOver(t *testing.T, tenant string, killed time.Time) {
	t.Helper()
	for {
		status, body := p.request(t, "GET", tenant+".localhost", "/", nil)
		took := time.Since(killed)
		switch {
		case status == http.StatusOK:
			t.Logf("served %s after the kill, with a lease of %s", took.Round(10*time.Millisecond), demoLease)
			return
		case status != http.StatusMisdirectedRequest:
			t.Fatalf("status %d: %s", status, body)
		case took > demoLease+10*time.Second:
			t.Fatalf("not served %s after the kill: %s", took, body)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// TestDemoLeavesNothing runs the demo without --dir.
func TestDemoLeavesNothing(t *testing.T) {
	temp := t.TempDir()
	cmd := exec.Command(atcPath(t), "demo", "--listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	p := start(t, temp, cmd)
	p.post(t, "acme", "hello")
	// A group's interrupt may arrive twice, which is no second one.
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	p.interrupt(t)
	left, err := os.ReadDir(temp)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	noMount(t, temp)
	noProcess(t, atcPath(t))
}

// noProcess fails if a process executes path.
func noProcess(t *testing.T, path string) {
	t.Helper()
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == path {
			t.Errorf("still running: %s", link)
		}
	}
}

// TestDemoRootless runs the demo as a user who may open /dev/fuse and nothing
// else.
func TestDemoRootless(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
	dir, err := os.MkdirTemp("", "atc-rootless-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	bin := filepath.Join(dir, "atc")
	script := `set -e
cp "$1" "$2/atc"
mkdir -p "$2/home"
chown 65534:65534 "$2" "$2/home"
mount --make-rprivate /
mknod "$2/fuse" c 10 229
chmod 666 "$2/fuse"
mount --bind "$2/fuse" /dev/fuse
export HOME="$2/home" TMPDIR="$2/home"
exec setpriv --reuid=65534 --regid=65534 --clear-groups "$2/atc" demo --listen 127.0.0.1:0 --dir "$2/home/demo" --log-level info`
	cmd := exec.Command("unshare", "--mount", "sh", "-c", script, "sh", atcPath(t), dir)
	p := start(t, dir, cmd)
	p.post(t, "acme", "rootless note")
	if body := p.notes(t, "acme"); !strings.Contains(body, "rootless note") {
		t.Errorf("acme sees\n%s", body)
	}
	if body := p.notes(t, "globex"); strings.Contains(body, "rootless note") {
		t.Errorf("globex sees\n%s", body)
	}
	p.interrupt(t)
	noProcess(t, bin)
}

func TestNamesOnTheCommandLineAndInRequests(t *testing.T) {
	dir := t.TempDir()
	p := startDemo(t, dir)
	for _, name := range []string{"../acme", "..", "Acme", "a/../b", strings.Repeat("a", 300), "-x", "a b", ""} {
		if name != "" {
			out, err := exec.Command(atcPath(t), "fs", "stat", "--cache", filepath.Join(dir, "cache"), "--", name).CombinedOutput()
			if name == "a/../b" {
				// a tenant's name and a path below it: the tenant is refused as unknown
				if err == nil || !bytes.Contains(out, []byte("does not exist")) && !bytes.Contains(out, []byte("invalid")) {
					t.Errorf("fs stat %q: %v %s", name, err, out)
				}
			} else if err == nil || !bytes.Contains(out, []byte("invalid")) {
				t.Errorf("fs stat %.20q: %v %s", name, err, out)
			}
		}
		if strings.ContainsAny(name, " /") {
			continue // no host name can have it
		}
		status, _ := p.request(t, "GET", name+".localhost", "/", nil)
		if want := name == "Acme"; (status == http.StatusOK) != want { // host names have no case
			t.Errorf("host %.20q: status %d", name, status)
		}
	}
	p.interrupt(t)
}

func TestTwoSideBySide(t *testing.T) {
	one, two := startDemo(t, t.TempDir()), startDemo(t, t.TempDir())
	one.post(t, "acme", "of the first")
	two.post(t, "acme", "of the second")
	if body := one.notes(t, "acme"); strings.Contains(body, "second") {
		t.Errorf("the first shows\n%s", body)
	}
	if a, b := one.stat(t), two.stat(t); a.Machine == b.Machine || a.Mountpoint == b.Mountpoint {
		t.Errorf("both are %s at %s", a.Machine, a.Mountpoint)
	}
	out, err := exec.Command(atcPath(t), "demo", "--listen", "127.0.0.1:0", "--dir", one.dir).CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("another atc uses it")) {
		t.Errorf("a third on the first's folder: %v %s", err, out)
	}
	one.interrupt(t)
	two.interrupt(t)
}
