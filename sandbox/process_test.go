package sandbox

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"atc/fs/errors"
)

func TestEnvironmentIsTheSpecs(t *testing.T) {
	nothingLeft(t)
	t.Setenv("AWS_SECRET_ACCESS_KEY", "the caller's")
	spec := newWorld(t).spec(t, "environ")
	spec.Env = []string{"HOME=/tmp", "GREETING=a b=c"}
	spec.Port = 3000
	got := strings.Fields(strings.ReplaceAll(output(t, spec), "a b", "a_b"))
	slices.Sort(got)
	want := []string{"GREETING=a_b=c", "HOME=/tmp", "PATH=" + DefaultPath, "PORT=3000"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestDialReachesTheProgramAndNoOther(t *testing.T) {
	nothingLeft(t)
	w := newWorld(t)
	globex := w.spec(t, "serve")
	globex.Name, globex.Dir = "globex", w.tenant("globex")
	for _, spec := range []Spec{w.spec(t, "serve"), globex} {
		p := start(t, spec)
		var conns int
		client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (conn net.Conn, err error) {
			eventually(t, "the program listens", func() bool { conn, err = p.Dial(ctx); return err == nil })
			conns++
			return conn, err
		}}}
		for range 3 {
			res, err := client.Get("http://" + spec.Name)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if want := spec.Name + "'s secret <nil>"; string(b) != want {
				t.Errorf("%s answered %q, want %q", spec.Name, b, want)
			}
		}
		if conns != 1 {
			t.Errorf("%d connections for 3 requests", conns)
		}
		client.CloseIdleConnections()
	}
}

func TestDialFailsClearly(t *testing.T) {
	nothingLeft(t)
	p := start(t, newWorld(t).spec(t, "deaf"))
	_, err := p.Dial(context.Background())
	if !errors.Is(errors.Unavailable, err) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("nobody listens: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err = p.Dial(ctx); !errors.Is(errors.Canceled, err) {
		t.Errorf("canceled: %v", err)
	}
	if err := p.Stop(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
	if _, err = p.Dial(context.Background()); err == nil || !strings.Contains(err.Error(), "killed by SIGKILL") {
		t.Errorf("stopped: %v", err)
	}
}

func TestExit(t *testing.T) {
	nothingLeft(t)
	w := newWorld(t)
	for _, c := range []struct {
		command []string
		want    string
	}{
		{[]string{"true"}, "<nil>"},
		{[]string{"sh", "-c", "exit 7"}, "exit status 7"},
		{[]string{"sh", "-c", "kill -SEGV $$"}, "killed by SIGSEGV"},
		{[]string{"sh", "-c", "kill -9 $$"}, "killed by SIGKILL"},
		{[]string{"sh", "-c", "kill -TERM 1; kill -9 1; kill -QUIT 1; kill -ABRT 1; kill -HUP 1; kill -INT 1; exit 3"}, "exit status 3"},
	} {
		spec := w.spec(t)
		spec.Command = c.command
		p := start(t, spec)
		wait(t, p)
		if got := fmt.Sprint(p.Err()); got != c.want {
			t.Errorf("%q: %s, want %s", c.command, got, c.want)
		}
	}
}

func TestStop(t *testing.T) {
	nothingLeft(t)
	w := newWorld(t)
	for _, c := range []struct {
		role  string
		grace time.Duration
		want  string
	}{
		{"serve", time.Minute, "killed by SIGTERM"},
		{"deaf", 20 * time.Millisecond, "killed by SIGKILL"},
		{"serve", 0, "killed by SIGKILL"},
	} {
		var out buffer
		spec := w.spec(t, c.role)
		spec.Stdout = &out
		p := start(t, spec)
		if c.role == "deaf" {
			eventually(t, "the program is deaf", func() bool { return out.String() != "" })
		}
		if err := p.Stop(context.Background(), c.grace); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(p.Err()); got != c.want {
			t.Errorf("%s: %s, want %s", c.role, got, c.want)
		}
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("signal after the end: %v", err)
		}
	}
	p := start(t, w.spec(t, "deaf"))
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := p.Stop(ctx, time.Hour); err != nil || p.Err() == nil {
		t.Errorf("a canceled Stop: %v, process %v", err, p.Err())
	}
}

// Processes that left the session, and were left by their parents, end too.
func TestStopEndsTheWholeTree(t *testing.T) {
	nothingLeft(t)
	mark := fmt.Sprintf("98%d", os.Getpid())
	var out buffer
	spec := newWorld(t).spec(t, "orphans", mark, mark, mark)
	spec.Stdout = &out
	p := start(t, spec)
	eventually(t, "three orphans", func() bool {
		return strings.Contains(out.String(), "left") && len(processes(t, "sleep\x00"+mark)) == 3
	})
	if err := p.Stop(context.Background(), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if left := processes(t, "sleep\x00"+mark); len(left) > 0 {
		t.Errorf("after Stop: %q", left)
	}
}

func TestOrphansAreReaped(t *testing.T) {
	nothingLeft(t)
	spec := newWorld(t).spec(t)
	// Ten orphans that end; an ended one keeps its name until it is reaped.
	spec.Command = []string{"sh", "-c", `
		for i in 1 2 3 4 5 6 7 8 9 10; do sh -c 'env true & exec true'; done
		n=0
		while [ $n -lt 500 ] && grep -l 'Name:.true$' /proc/[0-9]*/status; do n=$((n+1)); sleep 0.01; done >/dev/null 2>&1
		[ $n -lt 500 ] || grep State /proc/[0-9]*/status`}
	if got := output(t, spec); got != "" {
		t.Errorf("zombies: %s", got)
	}
}

// parentRole is a process that starts a sandbox and waits to be killed.
func parentRole(args []string) {
	p, err := Start(context.Background(), Spec{Name: "acme", Dir: args[0], Command: []string{args[1], "role", "orphans", args[2]}, Stdout: os.Stdout})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	<-p.Done()
}

func TestSandboxDiesWithItsParent(t *testing.T) {
	nothingLeft(t)
	mark := fmt.Sprintf("97%d", os.Getpid())
	var out buffer
	exe := executable(t)
	cmd := exec.Command(exe, "role", "parent", newWorld(t).tenant("acme"), exe, mark)
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	eventually(t, "the sandbox runs", func() bool { return len(processes(t, "sleep\x00"+mark)) == 1 })
	inits := processes(t, initName)
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing of the sandbox is left", func() bool {
		if len(processes(t, mark)) > 0 {
			return false
		}
		return !slices.ContainsFunc(inits, func(path string) bool {
			b, err := os.ReadFile(path)
			return err == nil && strings.Contains(string(b), initName)
		})
	})
}

func TestStartSaysWhatFailed(t *testing.T) {
	nothingLeft(t)
	w := newWorld(t)
	hidden := w.tenant("globex", "secret")
	if err := os.Symlink(w.tenant("globex"), w.tenant("link")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*Spec)
		kind   errors.Kind
		want   string
	}{
		{"no command", func(s *Spec) { s.Command = nil }, errors.Invalid, "no command"},
		{"unknown command", func(s *Spec) { s.Command = []string{"nosuch"} }, errors.NotExist, "exec: command not found: nosuch"},
		{"unknown program", func(s *Spec) { s.Command = []string{"/nosuch/file"} }, errors.NotExist, "exec: command not found: /nosuch/file"},
		{"not executable", func(s *Spec) { s.Command = []string{"/etc/passwd"} }, errors.Permission, `"/etc/passwd": permission denied`},
		{"no folder", func(s *Spec) { s.Dir = w.tenant("initech") }, errors.NotExist, "root: the tenant's folder"},
		{"a file as folder", func(s *Spec) { s.Dir = hidden }, errors.Other, "not a directory"},
		{"no bind", func(s *Spec) { s.Binds = []Bind{{Source: "/nosuch"}} }, errors.NotExist, "root: bind /nosuch at /nosuch"},
		{"no mount point", func(s *Spec) { s.Binds = []Bind{{"/usr/share", "/usr/nosuch/point"}} }, errors.Other, "read-only file system"},
		{"bind over the tenant", func(s *Spec) { s.Binds = []Bind{{"/usr", "/data/x"}} }, errors.Invalid, "the tenant's own"},
		{"relative bind", func(s *Spec) { s.Binds = []Bind{{"../globex", "/x"}} }, errors.Invalid, "clean absolute"},
		{"bind of another tenant", func(s *Spec) { s.Binds = []Bind{{w.tenant("globex"), "/x"}} }, errors.Permission, "hidden"},
		{"bind of another tenant by a link", func(s *Spec) { s.Binds = []Bind{{w.tenant("link"), "/x"}} }, errors.Permission, "hidden"},
		{"program of another tenant", func(s *Spec) { s.Command = []string{hidden} }, errors.Permission, "hidden"},
		{"hide nothing", func(s *Spec) { s.Hide = []string{"/nosuch"} }, errors.NotExist, "hide /nosuch"},
		{"environment", func(s *Spec) { s.Env = []string{"A"} }, errors.Invalid, "KEY=value"},
		{"name", func(s *Spec) { s.Name = "a/b" }, errors.Invalid, "name"},
	} {
		spec := w.spec(t, "true")
		c.change(&spec)
		p, err := Start(context.Background(), spec)
		if err == nil {
			p.Stop(context.Background(), 0)
			t.Errorf("%s: started", c.name)
			continue
		}
		if errors.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v (%v), want %q (%v)", c.name, err, errors.KindOf(err), c.want, c.kind)
		}
	}
}

func TestStartIsCanceled(t *testing.T) {
	nothingLeft(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Start(ctx, newWorld(t).spec(t, "deaf")); !errors.Is(errors.Canceled, err) {
		t.Errorf("got %v", err)
	}
}

func TestHideInsideABind(t *testing.T) {
	nothingLeft(t)
	w := newWorld(t)
	store := w.tenant("store")
	for _, dir := range []string{"store/tenants/acme", "store/cache", "store/public"} {
		if err := os.MkdirAll(w.tenant(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"store/cache/page", "store/public/page", "store/config"} {
		if err := os.WriteFile(w.tenant(file), []byte("content"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	spec := w.spec(t)
	spec.Dir = filepath.Join(store, "tenants/acme") // hides store/tenants
	spec.Hide = []string{filepath.Join(store, "cache"), filepath.Join(store, "config")}
	spec.Binds = []Bind{{Source: store, Target: "/shown"}}
	spec.Command = []string{"sh", "-c", "cd /shown; cat cache/page tenants/acme config public/page 2>&1; echo; touch public/x 2>&1"}
	got := output(t, spec)
	if strings.Count(got, "content") != 1 || !strings.Contains(got, "Read-only") {
		t.Errorf("got %s", got)
	}
}

func TestUserAndFolderAreWritable(t *testing.T) {
	if rootless() {
		spec := newWorld(t).spec(t, "true")
		spec.User = &User{1000, 1000}
		if _, err := Start(context.Background(), spec); err == nil || !strings.Contains(err.Error(), "1000 is not mapped") {
			t.Errorf("an unmapped user: %v", err)
		}
		return
	}
	nothingLeft(t)
	w := newWorld(t)
	if err := os.Chown(w.tenant("acme"), 12345, 12346); err != nil {
		t.Fatal(err)
	}
	spec := w.spec(t)
	spec.User = &User{12345, 12346}
	spec.Command = []string{"sh", "-c", "id -u; id -g; id -G; touch /data/mine /tmp/mine /dev/shm/mine && pwd; hostname; cat /proc/1/comm"}
	got := output(t, spec)
	if want := "12345\n12346\n12346\n/data\nacme\n"; !strings.HasPrefix(got, want) || strings.Contains(got, "init") {
		t.Errorf("got %q, want %q", got, want)
	}
	var st unix.Stat_t
	if err := unix.Stat(w.tenant("acme", "mine"), &st); err != nil || st.Uid != 12345 || st.Gid != 12346 {
		t.Errorf("the file belongs to %d:%d: %v", st.Uid, st.Gid, err)
	}
}

func TestManyStartsLeaveNothing(t *testing.T) {
	nothingLeft(t)
	w := newWorld(t)
	for range 30 {
		p, err := Start(context.Background(), w.spec(t, "deaf"))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Stop(context.Background(), 0); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkStart(b *testing.B) {
	w := newWorld(b)
	spec := w.spec(b)
	spec.Command = []string{"true"}
	var times []time.Duration
	for b.Loop() {
		begin := time.Now()
		p, err := Start(context.Background(), spec)
		if err != nil {
			b.Fatal(err)
		}
		times = append(times, time.Since(begin))
		<-p.Done()
	}
	reportMedian(b, "exec-p50-µs", times)
}

func BenchmarkDial(b *testing.B) {
	p := start(b, newWorld(b).spec(b, "serve"))
	var times []time.Duration
	dial := func() time.Duration {
		begin := time.Now()
		conn, err := p.Dial(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		took := time.Since(begin)
		conn.Close()
		return took
	}
	eventually(b, "the program listens", func() bool {
		conn, err := p.Dial(context.Background())
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	for b.Loop() {
		times = append(times, dial())
	}
	reportMedian(b, "dial-p50-µs", times)
}

func reportMedian(b *testing.B, unit string, times []time.Duration) {
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Nanoseconds())/1000, unit)
}
