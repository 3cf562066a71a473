// Package apps runs real applications, unchanged, through the whole of atc: a
// server and its tenants' processes, on a machine that is lost and lost again.
// It holds tests only.
package apps

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"atc/fs/bucket/s3test"
	"atc/fs/mount/mounttest"
)

// application is a program that knows nothing of atc.
type application struct {
	app       string   // the table [app] of atc.toml
	databases []string // patterns of the names of each tenant's databases
	visitor   func(tenant string) visitor
}

// visitor is somebody who uses one tenant's application over HTTP, and remembers
// what was written.
type visitor interface {
	// write does what cannot be there twice, for the round's time.
	write(t *testing.T, c *client, round int)
	// read finds everything of the rounds before, and nothing of anybody else.
	read(t *testing.T, c *client, rounds int)
	// kept finds it in the restored databases, whose paths are by pattern.
	kept(t *testing.T, databases map[string]string, rounds int)
}

var tenants = []string{"acme", "globex"}

// TestUnchanged has two tenants use an application on three machines one after
// the other, each of which begins with nothing: the first is stopped, the second
// is killed as soon as it has answered. What was answered is there on the third,
// and in the S3 bucket for whoever has only litestream.
func TestUnchanged(t *testing.T) {
	bucket := s3test.Start(t)
	for name, app := range map[string]func(*testing.T) application{
		"pocketbase": pocketbase, "actual": actual, "guestbook": guestbook,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := app(t)
			m := newMachine(t, strings.Replace(bucket, "?", "/"+name+"?", 1), a.app)
			visitors := map[string]visitor{}
			p := m.start(t, "async")
			for _, id := range tenants {
				visitors[id] = a.visitor(id)
				if err := os.Mkdir(filepath.Join(m.dir, "mnt", id), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			each := func(do func(v visitor, id string)) {
				for _, id := range tenants {
					do(visitors[id], id)
				}
			}
			each(func(v visitor, id string) { v.write(t, p.client(id), 0) })
			each(func(v visitor, id string) { v.read(t, p.client(id), 1) })
			p.stop(t)
			m.loseDisk(t)

			p = m.start(t, "commit")
			each(func(v visitor, id string) { v.read(t, p.client(id), 1) })
			each(func(v visitor, id string) { v.write(t, p.client(id), 1) })
			p.waitFiles(t)
			p.kill()
			m.loseDisk(t)

			p = m.start(t, "async")
			each(func(v visitor, id string) { v.read(t, p.client(id), 2) })
			p.stop(t)
			each(func(v visitor, id string) { v.kept(t, restore(t, m.store, id, a.databases), 2) })
		})
	}
}

// restore restores all databases of a tenant with nothing but litestream, checks
// them, and returns their paths by pattern.
func restore(t *testing.T, store, tenant string, patterns []string) map[string]string {
	t.Helper()
	restored := map[string]string{}
	for _, path := range mounttest.Databases(t, store, tenant) {
		i := slices.IndexFunc(patterns, func(p string) bool { ok, _ := filepath.Match(p, filepath.Base(path)); return ok })
		if i < 0 {
			t.Errorf("%s has a database %s", tenant, path)
			continue
		}
		if restored[patterns[i]] != "" {
			t.Errorf("%s has two databases like %s", tenant, patterns[i])
		}
		restored[patterns[i]] = mounttest.LitestreamRestore(t, store, tenant, filepath.Base(path))
		if got := mounttest.SQL(t, restored[patterns[i]], "pragma integrity_check"); got != "ok" {
			t.Errorf("%s of %s: %s", path, tenant, got)
		}
	}
	for _, p := range patterns {
		if restored[p] == "" {
			t.Fatalf("%s has no database like %s", tenant, p)
		}
	}
	return restored
}

// tool is the path of what `make tools` has installed.
func tool(t *testing.T, name string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cache, "atc", "bin", name)
	if _, err := os.Stat(path); err != nil {
		missing(t, err)
	}
	return path
}

// node is the path of Node.js.
func node(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("node")
	if err != nil {
		missing(t, err)
	}
	return path
}

func missing(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%v; run `make tools`", err)
	}
	t.Skipf("%v; run `make tools`", err)
}
