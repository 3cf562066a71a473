// Package volume is the filesystem without FUSE: the tenants of one cache
// folder, their files and databases, and what happens at each operation on
// them. fs/mount shows it to the kernel.
//
//	v, err := volume.Open(ctx, volume.Options{Bucket: b, Cache: dir, ...})
//	t, err := v.Tenant(ctx, "acme")
//	h, err := t.OpenFile(ctx, "main.sqlite3", os.O_RDWR, 0o644)
//
// Every tenant has a tree of ordinary local files below the cache folder, which
// looks as the application sees it. A file whose content was not fetched yet is
// a hole of the right size, so that names, sizes and times are answered by the
// local filesystem and nothing is fetched to list a folder.
//
// A tenant is ours from the first file that is opened until nothing of it was
// used for a while, and only as long as the machine's lease is confirmed.
//
// Limitations: hard links, devices and extended attributes are refused.
package volume

import (
	"context"
	"crypto/rand"
	stderrors "errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"atc/fs/bucket"
	"atc/fs/database"
	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/tenant"
)

// Options configure a volume. They are not changed after Open.
type Options struct {
	Bucket bucket.Bucket
	Cache  string // folder for everything local; one volume at a time has it
	Logger *slog.Logger

	// Machine names this machine in the records; by default an ID that is made
	// once and kept in the cache folder. Address and Region are told to other
	// machines.
	Machine, Address, Region string
	// Heartbeat is how often the lease of this machine is renewed, and Lease how
	// long it is good for; see [tenant.LeaseOptions].
	Heartbeat, Lease time.Duration
	// ShipInterval is how long a commit may wait for the bucket; 1 s by default.
	ShipInterval time.Duration
	// Commit makes every commit wait until the bucket has it: durability =
	// "commit".
	Commit bool
	// HydrateAfter is how long after its opening the rest of a database is
	// fetched; 2 s by default, negative for never.
	HydrateAfter time.Duration
	// HydrateBudget bounds what that fetches, in bytes of pages per second and
	// database; 0 for as fast as the store answers, below what is read.
	HydrateBudget int64
	// CloseAfter is how long a database that nobody has open is kept open; 10 s
	// by default.
	CloseAfter time.Duration
	// ReleaseAfter is how long a tenant of which nothing is open stays ours; 60 s
	// by default.
	ReleaseAfter time.Duration
	// Policy says how histories are compacted and what is kept of them; by
	// default [history.DefaultPolicy].
	Policy *history.Policy
	// CacheLimit is how many bytes of the disk the cache folder should take; 0
	// for any number. Files of tenants in use are not counted out: see
	// budget.go.
	CacheLimit int64
	// FaultTimeout bounds how long a read waits for the bucket; 30 s by default.
	FaultTimeout time.Duration
	// Now is the clock; time.Now by default.
	Now func() time.Time
}

func (o *Options) defaults() {
	if o.ShipInterval == 0 {
		o.ShipInterval = time.Second
	}
	if o.HydrateAfter == 0 {
		o.HydrateAfter = 2 * time.Second
	}
	if o.CloseAfter == 0 {
		o.CloseAfter = 10 * time.Second
	}
	if o.ReleaseAfter == 0 {
		o.ReleaseAfter = time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Volume is the set of tenants that a machine serves. Its methods may be called
// concurrently.
type Volume struct {
	opts     Options
	machine  string
	session  string
	boot     string
	lock     *os.File
	registry *tenant.Registry
	lease    *tenant.Lease

	compaction *database.Compaction
	counters   bucket.Counters

	nextSerial  atomic.Uint64 // see Attr.Serial
	numbered    atomic.Uint64 // see Tenant.number
	passthrough atomic.Bool
	released    atomic.Pointer[func(id string)]
	fenced      atomic.Pointer[func(id string)]
	changed     atomic.Pointer[func(id string)]

	ctx    context.Context // ends when the volume is closed
	cancel context.CancelFunc
	work   sync.WaitGroup // the ship loop, hydrations, recoveries
	past   Past

	mu      sync.Mutex // protects what follows
	tenants map[string]*Tenant
	absent  map[string]time.Time // IDs that have no tenant, as of when
	lost    []Lost
	resting map[string]resting // by tenant
	chased  map[string]bool    // tenants that are taken in the background
	evicted int64              // tenants whose files were removed to keep the budget

	crowded atomic.Bool // the disk budget is exceeded: nothing is hydrated
}

// Open takes the cache folder and starts to ship. What a run that did not end
// cleanly left in the folder is taken up again in the background.
func Open(ctx context.Context, opts Options) (_ *Volume, err error) {
	opts.defaults()
	if err := os.MkdirAll(filepath.Join(opts.Cache, "tenants"), 0o700); err != nil {
		return nil, errors.E("open cache folder", opts.Cache, errors.Other, err)
	}
	lock, err := lockFolder(opts.Cache)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	v := &Volume{
		opts: opts, machine: opts.Machine, session: rand.Text(), lock: lock,
		tenants: make(map[string]*Tenant), absent: make(map[string]time.Time),
		resting: make(map[string]resting), chased: make(map[string]bool),
	}
	if v.machine == "" {
		if v.machine, err = machineID(opts.Cache); err != nil {
			return nil, err
		}
	}
	if v.boot, err = bootID(); err != nil {
		return nil, err
	}
	if err := v.prepareCompaction(); err != nil {
		return nil, err
	}
	v.past.v = v
	v.ctx, v.cancel = context.WithCancel(context.WithoutCancel(ctx))
	plain := bucket.Count(opts.Bucket, &v.counters)
	v.lease = tenant.NewLease(plain, tenant.LeaseOptions{
		Machine: v.machine, Session: v.session, Address: opts.Address, Region: opts.Region,
		Heartbeat: opts.Heartbeat, Lease: opts.Lease, Logger: opts.Logger,
		Lapsed: v.lapsed, Renewed: v.renewed,
	})
	watcher := tenant.NewWatcher(plain, opts.Lease, nil)
	v.registry = tenant.NewRegistry(plain, v.lease, watcher, opts.Now)
	v.recover()
	if opts.CacheLimit > 0 {
		v.findResting()
		v.work.Add(1)
		go v.budgetLoop()
	}
	v.work.Add(1)
	go v.shipLoop()
	return v, nil
}

// compactions is how many histories are compacted at a time: each reads and
// writes as fast as the store does.
const compactions = 2

// prepareCompaction makes the folder for what is being merged, without what a
// run that was killed has left there.
func (v *Volume) prepareCompaction() error {
	p := history.DefaultPolicy()
	if v.opts.Policy != nil {
		p = *v.opts.Policy
	}
	p.Dir = filepath.Join(v.opts.Cache, "merging")
	if err := os.RemoveAll(p.Dir); err != nil {
		return errors.E("open cache folder", p.Dir, errors.Other, err)
	}
	if err := os.MkdirAll(p.Dir, 0o700); err != nil {
		return errors.E("open cache folder", p.Dir, errors.Other, err)
	}
	v.compaction = &database.Compaction{Policy: p, Slots: make(chan struct{}, compactions)}
	return nil
}

// lockFolder makes this process the only one that uses a cache folder. The lock
// goes with the process, however it ends.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, errors.E("open cache folder", dir, errors.Other, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, errors.E("open cache folder", dir, errors.Busy,
			fmt.Errorf("another atc uses it; give this one a folder of its own with --cache"))
	}
	return f, nil
}

// machineID reads the machine's ID from the cache folder, or makes one.
func machineID(dir string) (string, error) {
	path := filepath.Join(dir, "machine")
	b, err := os.ReadFile(path)
	if id := strings.TrimSpace(string(b)); err == nil && id != "" {
		return id, nil
	}
	id := "m" + strings.ToLower(rand.Text()[:15])
	if err := writeFile(path, []byte(id+"\n")); err != nil {
		return "", fmt.Errorf("keep the machine's ID: %w", err)
	}
	return id, nil
}

// bootID changes when the kernel restarts, and with it what was never synced is
// gone (Documentation/admin-guide/sysctl/kernel.rst, random/boot_id).
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot ID: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// bucketFor counts requests for the whole volume and for the given parts of it,
// and lets nothing be written but within our lease.
func (v *Volume) bucketFor(parts ...*bucket.Counters) bucket.Bucket {
	b := bucket.Count(tenant.Leased(v.opts.Bucket, v.lease), &v.counters)
	for _, part := range parts {
		b = bucket.Count(b, part)
	}
	return b
}

// SetPassthrough says whether the kernel reads and writes local files itself
// where [Handle.Direct] allows it. It is set before anything is opened.
func (v *Volume) SetPassthrough(on bool) { v.passthrough.Store(on) }

// OnRelease has fn called with each tenant that is ours no more. Whatever the caller remembers of it may change from then on.
func (v *Volume) OnRelease(fn func(id string)) { v.released.Store(&fn) }

// OnFence has fn called with each tenant that may not be used for now, or not any
// more, because this machine cannot know that it still owns it: its processes
// are to be ended.
func (v *Volume) OnFence(fn func(id string)) { v.fenced.Store(&fn) }

// OnChange has fn called with each tenant that has come to be known here or is
// known no more: it was found, made, taken over, released or removed. It must
// return at once and not call the volume.
func (v *Volume) OnChange(fn func(id string)) { v.changed.Store(&fn) }

// CacheDir is the folder for everything local.
func (v *Volume) CacheDir() string { return v.opts.Cache }

// Serial returns a number that no file of the volume has.
func (v *Volume) Serial() uint64 { return v.nextSerial.Add(1) }

// Machine and Session name this machine and this run.
func (v *Volume) Machine() string { return v.machine }

// Session names this run.
func (v *Volume) Session() string { return v.session }

// Close ships everything, releases all tenants and gives the cache folder back.
// Nothing may be open any more. What could not be shipped stays in the folder;
// the error names it.
func (v *Volume) Close(ctx context.Context) error {
	v.cancel()
	v.work.Wait()
	v.past.close()
	err := v.releaseAll(ctx)
	err = stderrors.Join(err, v.lease.Close(ctx, err == nil), v.lostErrors())
	v.lock.Close()
	return err
}
