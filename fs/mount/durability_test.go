package mount_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"atc/fs/bucket/faulty"
	"atc/fs/errors"
	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// TestDurabilityOfATenant has tenants on one machine of which some wait for the
// bucket and some do not.
func TestDurabilityOfATenant(t *testing.T) {
	for _, all := range []bool{false, true} {
		t.Run(fmt.Sprintf("others wait %v", all), func(t *testing.T) {
			dir := t.TempDir()
			b := faulty.Wrap(openBucket(t, dir))
			o := volume.Options{FaultTimeout: 2 * time.Second}
			o.Commit, o.CommitOf = all, map[string]bool{"waits": true, "does-not": false}
			m := boot(t, dir, b, o, true)
			for tenant, waits := range map[string]bool{"waits": true, "does-not": false, "other": all} {
				name := tenant + ".sqlite3"
				s := connect(t, filepath.Join(m.MakeTenant(t, tenant), name))
				s.exec("pragma journal_mode=wal; create table t(a);")
				before := stat(m, name).TXID
				if out := s.exec("insert into t values(1);"); out != "" {
					t.Fatal(out)
				}
				if after := stat(m, name).TXID; (after > before) != waits {
					t.Errorf("%s: an insert returned at %s, before it %s", tenant, after, before)
				}
				away := b.Inject(faulty.Fault{Op: faulty.Put, Key: "*.ltx", Before: errors.Unavailable})
				if out := s.exec("insert into t values(2);"); (out != "") != waits {
					t.Errorf("%s: while the bucket is away it says %q", tenant, out)
				}
				away.Remove()
				s.leave()
			}
			m.stop(t)
			for tenant, want := range map[string]string{"waits": "1", "does-not": "1,2"} {
				if got := state(t, b, tenant, tenant+".sqlite3", "select group_concat(a) from t"); got != "ok\n"+want {
					t.Errorf("the bucket holds %q of %s", got, tenant)
				}
			}
		})
	}
}

// TestCommitsOfTenantsGoOutTogether has a bucket that answers slowly: the commits
// of several tenants, and those of several databases of one, are on their way at
// the same time.
func TestCommitsOfTenantsGoOutTogether(t *testing.T) {
	const (
		tenants = 4
		latency = 2 * time.Second
	)
	dir := t.TempDir()
	b := faulty.Wrap(openBucket(t, dir))
	m := boot(t, dir, b, sure(volume.Options{Commit: true}), true)
	var sessions []*session
	for i := range tenants {
		home := m.MakeTenant(t, fmt.Sprint("t", i))
		for _, mode := range []string{"wal", "delete"} {
			s := connect(t, filepath.Join(home, mode+".sqlite3"))
			s.exec("pragma journal_mode=" + mode + "; create table t(a);")
			sessions = append(sessions, s)
		}
	}
	slow := b.Inject(faulty.Fault{Op: faulty.Put, Key: "*.ltx", Latency: latency})
	began := time.Now()
	var wg sync.WaitGroup
	for _, s := range sessions {
		wg.Go(func() {
			if out := s.exec("insert into t values(1);"); out != "" {
				t.Error(out)
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	t.Logf("%d commits took %s, a request %s", len(sessions), took, latency)
	if slow.Hits() < len(sessions) || took < latency {
		t.Errorf("%d requests in %s: they did not wait for the bucket", slow.Hits(), took)
	}
	if took > latency*time.Duration(len(sessions))/2 {
		t.Errorf("%d commits took %s, one after the other", len(sessions), took)
	}
	slow.Remove()
	for _, s := range sessions {
		s.leave()
	}
	m.stop(t)
}

// TestCommitGivesUpBehindARecord has a commit that waits until the tenant's record
// is written, which hangs.
func TestCommitGivesUpBehindARecord(t *testing.T) {
	dir := t.TempDir()
	b := faulty.Wrap(openBucket(t, dir))
	o := sure(commits())
	o.ShipInterval = tick
	m := boot(t, dir, b, o, true)
	db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
	s := connect(t, db)
	s.exec("pragma journal_mode=wal; create table t(a);")
	m.WaitShipped(t, "acme")
	hangs := b.Inject(faulty.Fault{Op: faulty.Put, Key: "tenants/acme/tenant.json", Block: true})
	if err := os.Chmod(db, 0o600); err != nil { // which the record says
		t.Fatal(err)
	}
	<-hangs.Reached()
	answered := make(chan string, 1)
	go func() { answered <- s.exec("insert into t values(1);") }()
	select {
	case out := <-answered:
		if !strings.Contains(out, "rror") {
			t.Errorf("a commit that the bucket did not confirm: %q", out)
		}
	case <-time.After(20 * time.Second):
		t.Error("the commit waits without a limit")
	}
	hangs.Remove()
	eventually(t, "commits go on", func() bool { return s.exec("insert into t values(2);") == "" })
	s.leave()
	m.stop(t)
	if got := state(t, b, "acme", "main.sqlite3", "select group_concat(a) from t"); got != "ok\n2" {
		t.Errorf("the bucket holds %q", got)
	}
}

// TestRequestGivesUpBehindARelease asks for a tenant whose release hangs: it is
// told so after a time, and served when the release has ended.
func TestRequestGivesUpBehindARelease(t *testing.T) {
	dir := t.TempDir()
	b := faulty.Wrap(openBucket(t, dir))
	o := sure(volume.Options{ShipInterval: tick, CloseAfter: tick, ReleaseAfter: tick, FaultTimeout: 300 * time.Millisecond})
	m := boot(t, dir, b, o, true)
	home := m.MakeTenant(t, "acme")
	s := connect(t, filepath.Join(home, "main.sqlite3"))
	s.exec("create table t(a);")
	m.WaitShipped(t, "acme")
	// The next write of the record is that of the release.
	hangs := b.Inject(faulty.Fault{Op: faulty.Put, Key: "tenants/acme/tenant.json", Block: true})
	s.leave()
	<-hangs.Reached()
	answered := make(chan error, 1)
	go func() {
		ctx := context.WithoutCancel(t.Context())
		answered <- m.Volume.Do(ctx, "acme", func(tenant *volume.Tenant) error {
			_, err := tenant.ReadDir(ctx, "")
			return err
		})
	}()
	select {
	case err := <-answered:
		if !errors.Is(errors.Unavailable, err) || !strings.Contains(err.Error(), "it is being released, and the bucket did not confirm that within 300ms") {
			t.Errorf("it is refused with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it waits without a limit")
	}
	hangs.Remove()
	eventually(t, "it is served again", func() bool {
		_, err := mounttest.TrySQL(filepath.Join(home, "main.sqlite3"), "insert into t values(1);")
		return err == nil
	})
	m.stop(t)
}
