package sandbox

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// The tenant's folder is on a FUSE mount that this very process serves, and
// many sandboxes start at once while it does. A Start that waited for the mount
// where the mount must wait for it would never return.
func TestFolderServedByThisProcess(t *testing.T) {
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err == nil {
		f.Close()
	} else if nobody() {
		t.Skipf("an unprivileged user may not mount FUSE on this machine: %v", err)
	}
	w := newWorld(t)
	mountpoint := filepath.Join(w.dir, "mnt")
	if err := os.Mkdir(mountpoint, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := fs.NewLoopbackRoot(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	server, err := fs.Mount(mountpoint, root, &fs.Options{MountOptions: fuse.MountOptions{AllowOther: true, DirectMountStrict: true, FsName: "sandbox-test"}})
	if err != nil {
		t.Fatalf("mounting: %v", err)
	}
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for i := range 24 {
		all.Add(1)
		go func() {
			defer all.Done()
			name := []string{"acme", "globex"}[i%2]
			var out buffer
			p, err := Start(ctx, Spec{
				Name: name, Dir: filepath.Join(mountpoint, name), Stdout: &out, Stderr: &out,
				Command: []string{"sh", "-c", "cat secret; echo $$ > mine." + fmt.Sprint(i)},
			})
			if err != nil {
				t.Error(err)
				return
			}
			<-p.Done()
			if want := name + "'s secret"; out.String() != want || p.Err() != nil {
				t.Errorf("%s: %q, %v", name, out.String(), p.Err())
			}
		}()
	}
	all.Wait()
	for _, tenant := range []string{"acme", "globex"} {
		written, err := filepath.Glob(w.tenant(tenant, "mine.*"))
		if err != nil || len(written) != 12 {
			t.Errorf("%s wrote %d files: %v", tenant, len(written), err)
		}
	}
}
