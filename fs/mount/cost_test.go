package mount_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/superfly/ltx"

	"atc/fs/bucket"
	"atc/fs/bucket/s3test"
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
	lasts := scaled(time.Minute, 8*time.Second)
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

// confirmations is a bucket that knows how long commits took to get there. The
// tenants' databases number their commits in PRAGMA user_version, which is in
// page 1 of every shipment.
type confirmations struct {
	bucket.Bucket
	mu        sync.Mutex             // protects what follows
	committed map[string][]time.Time // by tenant; of the commits from first on
	first     map[string]uint32
	took      []time.Duration
	puts      int
}

// commit notes that a tenant has committed its next number.
func (c *confirmations) commit(tenant string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.committed[tenant] = append(c.committed[tenant], time.Now())
}

// waiting is how many commits are not in the bucket.
func (c *confirmations) waiting() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, times := range c.committed {
		n += len(times)
	}
	return n
}

// Put notes what a shipment confirms.
func (c *confirmations) Put(ctx context.Context, key string, body io.ReadSeeker, o bucket.PutOptions) (bucket.Info, error) {
	parts := strings.Split(key, "/") // tenants/ID/db/FOLDER/0000/TXID-TXID.ltx
	number := uint32(0)
	if len(parts) == 6 && parts[4] == "0000" {
		var page [4096]byte
		dec := ltx.NewDecoder(body)
		if err := dec.DecodeHeader(); err != nil {
			return bucket.Info{}, err
		}
		if err := dec.DecodePage(new(ltx.PageHeader), page[:]); err != nil {
			return bucket.Info{}, err
		}
		number = binary.BigEndian.Uint32(page[60:]) // the user version (fileformat2.html, 1.3)
		if _, err := body.Seek(0, io.SeekStart); err != nil {
			return bucket.Info{}, err
		}
	}
	info, err := c.Bucket.Put(ctx, key, body, o)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.puts++
	for id := parts[1]; err == nil && len(c.committed[id]) > 0 && c.first[id] <= number; c.first[id]++ {
		c.took = append(c.took, time.Since(c.committed[id][0]))
		c.committed[id] = c.committed[id][1:]
	}
	return info, err
}

// TestManyBusyTenants has 500 tenants that commit once a second each, whether
// the commits before are in the bucket or not: 99 of 100 are there within 2
// seconds. It drives the volume without a mount, and SQLite in this process,
// whose time is in the figures. The store is a folder; with ATC_COST also an S3
// server, and a folder on the disk.
func TestManyBusyTenants(t *testing.T) {
	t.Run("folder in memory", func(t *testing.T) {
		testManyBusyTenants(t, memoryFolder(), func(dir string) bucket.Bucket { return openBucket(t, dir) })
	})
	if os.Getenv("ATC_COST") == "" {
		return
	}
	t.Run("folder on the disk", func(t *testing.T) {
		testManyBusyTenants(t, "", func(dir string) bucket.Bucket { return openBucket(t, dir) })
	})
	t.Run("S3 server", func(t *testing.T) {
		testManyBusyTenants(t, memoryFolder(), func(string) bucket.Bucket {
			b, err := bucket.Open(t.Context(), s3test.Start(t))
			if err != nil {
				t.Fatal(err)
			}
			return b
		})
	})
}

func testManyBusyTenants(t *testing.T, folder string, open func(dir string) bucket.Bucket) {
	tenants, lasts := 500, scaled(30*time.Second, 8*time.Second)
	if testing.Short() {
		tenants = 50
	}
	if raceDetector {
		tenants /= 5 // what is measured is not what it is without
	}
	dir, err := os.MkdirTemp(folder, "cost")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	c := &confirmations{Bucket: open(dir), committed: make(map[string][]time.Time), first: make(map[string]uint32)}
	v, err := volume.Open(t.Context(), volume.Options{Bucket: c, Cache: filepath.Join(dir, "cache"), ShipInterval: time.Second, CloseAfter: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	apps := make([]*onVolume, tenants)
	ids := make([]string, tenants)
	for i := range apps {
		ids[i] = fmt.Sprintf("tenant%04d", i)
		c.first[ids[i]] = 1
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
	for _, id := range ids {
		eventually(t, id+" is shipped", func() bool { return v.Shipped(id) })
	}
	idle := cpu()
	time.Sleep(lasts / 4)
	idle = cpu() - idle
	var wg sync.WaitGroup
	used, began, puts, gcs := cpu(), time.Now(), c.puts, collections()
	for i, a := range apps {
		wg.Go(func() {
			time.Sleep(time.Second * time.Duration(i) / time.Duration(tenants))
			tick := time.Tick(time.Second)
			for n := 1; time.Since(began) < lasts; n++ {
				if _, err := a.exec(fmt.Sprintf("begin; insert into t(v) values(randomblob(200)); pragma user_version=%d; commit;", n)); err != nil {
					t.Error(err)
					return
				}
				c.commit(ids[i])
				<-tick
			}
		})
	}
	wg.Wait()
	passed, busy := time.Since(began), cpu()-used
	eventually(t, "everything is in the bucket", func() bool { return c.waiting() == 0 })
	c.mu.Lock()
	slices.Sort(c.took)
	p50, p99 := c.took[len(c.took)/2], c.took[len(c.took)*99/100]
	t.Logf("%d tenants, %d commits in %v: in the bucket after %v (p50), %v (p99), %v (most); %.2f processors, %d collections, %d PUTs; idle before: %.3f processors",
		tenants, len(c.took), passed.Round(time.Millisecond), p50.Round(time.Millisecond), p99.Round(time.Millisecond),
		c.took[len(c.took)-1].Round(time.Millisecond), busy.Seconds()/passed.Seconds(), collections()-gcs, c.puts-puts, idle.Seconds()/(lasts/4).Seconds())
	c.mu.Unlock()
	limit := 2 * time.Second
	if raceDetector {
		limit = 10 * time.Second
	}
	if p99 > limit {
		t.Errorf("99 of 100 commits are in the bucket after %v, want %v", p99, limit)
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

// collections is how often the garbage collector ran.
func collections() uint32 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.NumGC
}

// TestIdleTenantsCost has 10,000 tenants that were looked at, of which one in ten
// was taken and had its database open: after a while they cost no request, no
// goroutine, no descriptor, and little memory.
func TestIdleTenantsCost(t *testing.T) {
	tenants, quiet := 10_000, scaled(time.Minute, 5*time.Second)
	if os.Getenv("ATC_COST") == "" {
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
			"old.sqlite3": {Folder: "old.sqlite3-0000000000000000", TXID: 1, PageSize: 4096, Pages: 10, Mode: 0o644},
		}})
		if err == nil {
			_, err = b.Put(t.Context(), "tenants/"+id+"/tenant.json", bytes.NewReader(record), bucket.PutOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var counters bucket.Counters // of everything, heartbeats included
	const lease = 2 * time.Second
	v, err := volume.Open(t.Context(), volume.Options{
		Bucket: bucket.Count(b, &counters), Cache: filepath.Join(dir, "cache"), ShipInterval: 500 * time.Millisecond,
		CloseAfter: time.Second, ReleaseAfter: 2 * time.Second, Heartbeat: lease / 4, Lease: lease,
	})
	if err != nil {
		t.Fatal(err)
	}
	before := inUse(t)
	use := func(tn *volume.Tenant, take bool) error {
		_, err := tn.Stat(t.Context(), "old.sqlite3") // as `ls -l` does
		if err != nil || !take {
			return err
		}
		app, err := openOnVolume(tn, "main.sqlite3")
		if err != nil {
			return err
		}
		if _, err = app.exec("create table t(n integer primary key, v); insert into t(v) values(randomblob(200));"); err != nil {
			return err
		}
		return app.leave()
	}
	useAll := func(take func(i int) bool) {
		var wg sync.WaitGroup
		slots := make(chan struct{}, 8)
		for i := range tenants {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				err := v.Do(t.Context(), fmt.Sprintf("tenant%05d", i), func(tn *volume.Tenant) error { return use(tn, take(i)) })
				if err != nil {
					t.Errorf("tenant %d: %v", i, err)
				}
			})
		}
		wg.Wait()
	}
	useAll(func(i int) bool { return i%10 == 0 })
	time.Sleep(scaled(4*time.Second, 0)) // those that were taken are released
	useAll(func(int) bool { return false })
	if t.Failed() {
		return
	}
	known, most, looped := len(v.Stat("").Tenants), inUse(t), cpu()
	looks := scaled(3*time.Second, 500*time.Millisecond)
	time.Sleep(looks)
	looped = cpu() - looped
	// What is let go takes its time; then nothing may move any more.
	for until := time.Now().Add(time.Minute); time.Now().Before(until) && (len(v.Stat("").Tenants) > 0 || v.Stat("").Lease == nil); {
		time.Sleep(100 * time.Millisecond)
	}
	at, used := counters.Snapshot(), cpu()
	time.Sleep(quiet)
	n, busy := counters.Snapshot().Sub(at).Requests(), cpu()-used
	after := inUse(t)
	each := (after.memory - before.memory) / int64(tenants)
	t.Logf("%d tenants, %d of them known with %d bytes each and %v of CPU in %v: then %d requests and %v of CPU in %v, %d bytes each, %d goroutines more, %d descriptors more; %d known",
		tenants, known, (most.memory-before.memory)/int64(max(known, 1)), looped, looks, n, busy, quiet, each,
		after.goroutines-before.goroutines, after.descriptors-before.descriptors, len(v.Stat("").Tenants))
	if n != 0 {
		t.Errorf("%d requests in %v", n, quiet)
	}
	if each > perTenant {
		t.Errorf("%d bytes each, want at most %d", each, perTenant)
	}
	if more := after.goroutines - before.goroutines; more > 0 {
		t.Errorf("%d goroutines more", more)
	}
	if more := after.descriptors - before.descriptors; more > 0 {
		t.Errorf("%d descriptors more", more)
	}
	if busy > quiet/20 {
		t.Errorf("%v of CPU in %v", busy, quiet)
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
