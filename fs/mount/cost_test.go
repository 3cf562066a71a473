package mount_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/mount/mounttest"
	"atc/fs/tenant"
	"atc/fs/volume"
)

// This file defines what things may cost: requests to the bucket, bytes, memory,
// descriptors and time. Figures are printed by -v.

// scaled is a duration, in full only with ATC_COST (`make soak`).
func scaled(full, short time.Duration) time.Duration {
	if testing.Short() || os.Getenv("ATC_COST") == "" {
		return short
	}
	return full
}

// cpu is the processor time that this process has used.
func cpu() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// TestBusyDatabaseCost has 20 commits a second in one database: at most one PUT a
// second for the whole tenant.
func TestBusyDatabaseCost(t *testing.T) {
	lasts := scaled(time.Minute, 15*time.Second)
	m := boot(t, t.TempDir(), openBucket(t, t.TempDir()), volume.Options{ShipInterval: time.Second}, true)
	db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
	s := connect(t, db)
	s.exec("pragma journal_mode=wal; pragma synchronous=normal; create table t(n integer primary key, v);")
	m.WaitShipped(t, "acme")
	before, used := m.Volume.Stat("acme").Tenants[0].Bucket, cpu()
	commits := 0
	began := time.Now()
	for tick := time.Tick(50 * time.Millisecond); time.Since(began) < lasts; commits++ {
		<-tick
		s.exec("insert into t(v) values(randomblob(200));")
	}
	m.WaitShipped(t, "acme")
	cost := m.Volume.Stat("acme").Tenants[0].Bucket.Sub(before)
	t.Logf("%d commits in %v: %+v, %v of CPU", commits, lasts, cost, cpu()-used)
	if limit := int64(time.Since(began)/time.Second) + 1; cost.Put > limit || cost.Get+cost.List+cost.Copy+cost.Delete > 0 {
		t.Errorf("%d PUTs in %v, want at most %d and nothing else: %+v", cost.Put, lasts, limit, cost)
	}
	s.leave()
	m.stop(t)
}

// TestFirstShipWritesEachByteOnce copies a database of 64 MiB in, which cannot be
// compressed: its way into the bucket is one copy of it.
func TestFirstShipWritesEachByteOnce(t *testing.T) {
	made := filepath.Join(t.TempDir(), "made.sqlite3")
	mounttest.SQL(t, made, `create table t(n integer primary key, v);
		with recursive r(i) as (select 1 union all select i+1 from r where i<17000) insert into t select i, randomblob(3900) from r;`)
	whole, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	if len(whole) < 64<<20 {
		t.Fatalf("the database has %d bytes", len(whole))
	}
	m := boot(t, t.TempDir(), openBucket(t, t.TempDir()), volume.Options{ShipInterval: 100 * time.Millisecond, CloseAfter: 100 * time.Millisecond}, true)
	db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
	if err := os.WriteFile(db, whole, 0o644); err != nil { // as cp does
		t.Fatal(err)
	}
	mounttest.SQL(t, db, "select count(*) from t")
	m.WaitShipped(t, "acme")
	eventually(t, "the database is closed", func() bool { return !isOpen(m, "main.sqlite3") })
	m.stop(t)
	c := m.Volume.Stat("").Bucket
	t.Logf("a database of %d bytes: %d bytes out in %d PUTs, %d bytes in", len(whole), c.BytesOut, c.Put, c.BytesIn)
	if limit := int64(len(whole)) * 102 / 100; c.BytesOut > limit {
		t.Errorf("%d bytes were written for a database of %d, want at most %d", c.BytesOut, len(whole), limit)
	}
}

// TestManyBusyTenants has 500 tenants that commit once a second each: 99 of 100
// commits are in the bucket within 2 seconds. It drives the volume without a
// mount, and SQLite in this process, whose time is in the figures.
func TestManyBusyTenants(t *testing.T) {
	tenants, lasts := 500, scaled(30*time.Second, 15*time.Second)
	if testing.Short() {
		tenants = 50
	}
	if raceDetector {
		tenants /= 5 // what is measured is not what it is without
	}
	dir, err := os.MkdirTemp(memoryFolder(), "cost")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	v, err := volume.Open(t.Context(), volume.Options{Bucket: openBucket(t, dir), Cache: filepath.Join(dir, "cache"), ShipInterval: time.Second, CloseAfter: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	apps := make([]*onVolume, tenants)
	ids := make([]string, tenants)
	for i := range apps {
		ids[i] = fmt.Sprintf("tenant%04d", i)
		tn, err := v.Create(t.Context(), ids[i])
		if err == nil {
			apps[i], err = openOnVolume(tn, "main.sqlite3")
		}
		if err == nil {
			_, err = apps[i].exec("pragma locking_mode=exclusive; pragma journal_mode=wal; pragma synchronous=normal; create table t(n integer primary key, v);")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	shipped := func(id string) bool {
		d := v.Stat(id).Tenants[0].Databases[0]
		return d.PendingPages == 0 && !d.InFlight && d.TXID > 0
	}
	for _, id := range ids {
		eventually(t, id+" is shipped", func() bool { return v.Shipped(id) })
	}
	var (
		mu   sync.Mutex // protects took
		took []time.Duration
		wg   sync.WaitGroup
	)
	before, used, began := v.Stat(ids[0]).Bucket, cpu(), time.Now()
	for i, a := range apps {
		wg.Go(func() {
			time.Sleep(time.Second * time.Duration(i) / time.Duration(tenants))
			for tick := time.Tick(time.Second); time.Since(began) < lasts; <-tick {
				at := v.Stat(ids[i]).Tenants[0].Databases[0].TXID
				committed := time.Now()
				if _, err := a.exec("insert into t(v) values(randomblob(200));"); err != nil {
					t.Error(err)
					return
				}
				for {
					d := v.Stat(ids[i]).Tenants[0].Databases[0]
					if d.TXID > at && shipped(ids[i]) || time.Since(committed) > 20*time.Second {
						break
					}
					time.Sleep(50 * time.Millisecond)
				}
				mu.Lock()
				took = append(took, time.Since(committed))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	passed, cost := time.Since(began), v.Stat(ids[0]).Bucket.Sub(before)
	slices.Sort(took)
	p50, p99 := took[len(took)/2], took[len(took)*99/100]
	t.Logf("%d tenants, %d commits in %v: in the bucket after %v (p50), %v (p99), %v (most); %.2f processors; %+v",
		tenants, len(took), passed.Round(time.Millisecond), p50.Round(time.Millisecond), p99.Round(time.Millisecond),
		took[len(took)-1].Round(time.Millisecond), (cpu()-used).Seconds()/passed.Seconds(), cost)
	if p99 > 2*time.Second {
		t.Errorf("99 of 100 commits are in the bucket after %v, want 2 s", p99)
	}
	for _, a := range apps {
		if err := a.leave(); err != nil {
			t.Error(err)
		}
	}
	if err := v.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestIdleTenantsCost has 10,000 tenants that were looked at once: after a while
// they cost no request, no goroutine, no descriptor, and little memory.
func TestIdleTenantsCost(t *testing.T) {
	tenants, quiet := 10_000, scaled(time.Minute, 5*time.Second)
	if testing.Short() || raceDetector {
		tenants = 1000
	}
	const perTenant = 5 << 10 // bytes of memory
	dir, err := os.MkdirTemp(memoryFolder(), "cost")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	b := openBucket(t, dir)
	for i := range tenants {
		id := fmt.Sprintf("tenant%05d", i)
		record, err := json.Marshal(tenant.Record{Tenant: id, Created: time.Now(), Epoch: 1, Databases: map[string]*tenant.Database{
			"main.sqlite3": {Folder: "main.sqlite3-0000000000000000", TXID: 1, PageSize: 4096, Pages: 10, Mode: 0o644},
		}})
		if err == nil {
			_, err = b.Put(t.Context(), "tenants/"+id+"/tenant.json", bytes.NewReader(record), bucket.PutOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	v, err := volume.Open(t.Context(), volume.Options{Bucket: b, Cache: filepath.Join(dir, "cache"), ShipInterval: 100 * time.Millisecond, CloseAfter: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	before := inUse(t)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i := range tenants {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			tn, err := v.Tenant(t.Context(), fmt.Sprintf("tenant%05d", i))
			if err == nil {
				_, err = tn.Stat(t.Context(), "main.sqlite3") // as `ls -l` does
			}
			if err != nil {
				t.Errorf("tenant %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	// What is let go takes its time; then nothing may move any more.
	requests := func() int64 { return v.Stat("tenant00000").Bucket.Requests() }
	for until := time.Now().Add(15 * time.Second); time.Now().Before(until) && inUse(t).descriptors > before.descriptors+20; {
		time.Sleep(500 * time.Millisecond)
	}
	at, used := requests(), cpu()
	time.Sleep(quiet)
	n, busy := requests()-at, cpu()-used
	after := inUse(t)
	each := (after.memory - before.memory) / int64(tenants)
	t.Logf("%d idle tenants: %d requests and %v of CPU in %v, %d bytes each, %d goroutines more, %d descriptors more",
		tenants, n, busy, quiet, each, after.goroutines-before.goroutines, after.descriptors-before.descriptors)
	if n != 0 {
		t.Errorf("%d requests in %v", n, quiet)
	}
	if each > perTenant {
		t.Errorf("%d bytes each, want at most %d", each, perTenant)
	}
	if more := after.goroutines - before.goroutines; more > 20 {
		t.Errorf("%d goroutines more", more)
	}
	if more := after.descriptors - before.descriptors; more > 20 {
		t.Errorf("%d descriptors more", more)
	}
	if err := v.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// resources are what a process holds.
type resources struct {
	memory      int64 // heap, in bytes
	goroutines  int
	descriptors int
}

func inUse(t *testing.T) (r resources) {
	t.Helper()
	runtime.GC()
	runtime.GC() // finalizers of the first have run
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return resources{int64(m.HeapAlloc), runtime.NumGoroutine(), len(fds)}
}
