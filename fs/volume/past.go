package volume

import (
	"context"
	stderrors "errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"atc/fs/backup"
	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/history/pages"
	"atc/fs/tenant"
	"atc/fs/tenant/tenantid"
)

// This file defines time travel: the databases of a tenant as they were at a
// moment. It looks at the bucket only, so it takes no tenant and works on a
// machine that is not the owner. What was committed and not shipped yet is not
// there.

const (
	// settledAfter is how old a moment must be until no commit of it can arrive
	// any more: longer than a commit waits for the bucket on any machine.
	settledAfter = time.Minute
	// listedFor is how long the databases of a tenant at a moment are remembered.
	listedFor = 10 * time.Second
	// idleAfter is how long what nobody reads stays open.
	idleAfter = time.Minute
	// maxPast bounds how many databases of the past are open, each with its index
	// and a cache of pages, and how many lists are remembered.
	maxPast = 64
	// pastCache is how many bytes of one of them are kept; the kernel keeps what
	// it reads, too.
	pastCache = 2 << 20
)

// listAttempts is how often a listing is made anew when a state has gone since
// it was found.
const listAttempts = 3

// errExpired is that.
var errExpired = stderrors.New("it has gone since it was found")

// PastFile is a database as it was.
type PastFile struct {
	Tenant   string
	Path     string // below the tenant's folder
	Folder   string // of its history
	TXID     history.TXID
	Size     int64     // bytes
	Modified time.Time // when it was committed
}

// Serial names what the file holds: another state has another one.
func (p PastFile) Serial() uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%s/%s", p.Tenant, p.Folder, p.TXID)
	return h.Sum64() | 1<<63 // the files of the present count up from 1
}

// Past is what the bucket still has of earlier times. Its methods may be called
// concurrently.
type Past struct {
	v *Volume

	mu    sync.Mutex // protects what follows; not held during requests
	lists map[string]pastList
	files map[string]*pastFile
	timer *time.Timer // runs while something is open
}

// pastList is what a tenant had at a moment.
type pastList struct {
	files []PastFile
	until time.Time
}

// pastFile is an open state of a database.
type pastFile struct {
	opening sync.Mutex // one at a time
	file    *pages.File
	used    time.Time // Past.mu
}

// Past returns what the bucket has of earlier times.
func (v *Volume) Past() *Past { return &v.past }

// Settled reports whether nothing can be added to a moment any more.
func (p *Past) Settled(at time.Time) bool { return p.v.opts.Now().Sub(at) > settledAfter }

// check refuses the future.
func (p *Past) check(at time.Time) error {
	if now := p.v.opts.Now(); at.After(now) {
		return errors.E("look back to", at.Format(time.RFC3339Nano), errors.NotExist,
			fmt.Errorf("it is in the future: now is %s", now.UTC().Format(time.RFC3339)))
	}
	return nil
}

// Check fails with NotExist for a moment that has not been.
func (p *Past) Check(at time.Time) error { return p.check(at) }

// Tenants lists the tenants that may have had databases at a moment. None is
// looked into.
func (p *Past) Tenants(ctx context.Context, at time.Time) ([]string, error) {
	if err := p.check(at); err != nil {
		return nil, err
	}
	ids, err := p.v.registry.List(ctx)
	if err != nil {
		return nil, err
	}
	const parallel = 16
	var (
		mu    sync.Mutex // protects there and failed
		there []string
		fail  error
		work  sync.WaitGroup
		slot  = make(chan struct{}, parallel)
	)
	for _, id := range ids {
		slot <- struct{}{}
		work.Go(func() {
			defer func() { <-slot }()
			held, err := p.v.registry.LoadAny(ctx, id)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(errors.NotExist, err):
			case err != nil:
				fail = err
			case backup.Existed(&held.Record, at):
				there = append(there, id)
			}
		})
	}
	work.Wait()
	slices.Sort(there)
	return there, fail
}

// List lists the databases that a tenant had at a moment, in the order of their
// paths. It fails with NotExist where there were none, and says what there is.
func (p *Past) List(ctx context.Context, id string, at time.Time) ([]PastFile, error) {
	if err := p.check(at); err != nil {
		return nil, err
	}
	if err := tenantid.Check(id); err != nil {
		return nil, errors.E("look back", id, errors.NotExist, err)
	}
	key := fmt.Sprintf("%s@%d", id, at.UnixNano())
	p.mu.Lock()
	l, known := p.lists[key]
	p.mu.Unlock()
	if known && p.v.opts.Now().Before(l.until) {
		return l.files, nil
	}
	files, err := p.list(ctx, id, at)
	for try := 1; errors.Is(errors.NotExist, err) && stderrors.Is(err, errExpired) && try < listAttempts; try++ {
		files, err = p.list(ctx, id, at)
	}
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lists == nil || len(p.lists) >= maxPast {
		p.lists = make(map[string]pastList)
	}
	p.lists[key] = pastList{files, p.v.opts.Now().Add(listedFor)} // however long it took
	p.watch()
	return files, nil
}

func (p *Past) list(ctx context.Context, id string, at time.Time) ([]PastFile, error) {
	held, err := p.v.registry.LoadAny(ctx, id)
	if err != nil {
		return nil, err
	}
	versions, cut, err := backup.Versions(ctx, &held.Record, at, func(folder string) *history.Log { return p.log(id, folder) })
	if err != nil {
		return nil, err
	}
	if len(cut) > 0 && len(versions) == 0 {
		return nil, cut[0]
	}
	for _, err := range cut {
		p.v.opts.Logger.Warn("a database is not shown in the past", "tenant", id, "err", err)
	}
	var files []PastFile
	for _, v := range versions {
		f := PastFile{Tenant: id, Path: v.Path, Folder: v.Folder, TXID: v.At.TXID, Modified: v.At.Time}
		opened, err := p.open(ctx, f)
		if errors.Is(errors.NotExist, err) {
			err = fmt.Errorf("%w: %w", errExpired, err)
		}
		if err != nil {
			return nil, err
		}
		f.Size = opened.Size()
		files = append(files, f)
	}
	return files, nil
}

func (p *Past) log(id, folder string) *history.Log {
	return history.NewLog(p.v.bucketFor(), tenant.DatabaseFolder(id, folder))
}

// ReadAt reads from a database as it was: fewer bytes than asked for, without an
// error, where it ends.
func (p *Past) ReadAt(ctx context.Context, f PastFile, b []byte, offset int64) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, p.v.opts.faultTimeout())
	defer cancel()
	opened, err := p.open(ctx, f)
	if err != nil {
		return 0, err
	}
	n, err := opened.ReadAt(ctx, b, offset)
	if errors.Is(errors.NotExist, err) {
		p.forget(f)
	}
	return n, err
}

// Open makes sure that a state can be read. It fails with NotExist when that has
// gone since it was listed: what is kept of its time has fewer points by now, and
// another listing finds the one before.
func (p *Past) Open(ctx context.Context, f PastFile) error {
	ctx, cancel := context.WithTimeout(ctx, p.v.opts.faultTimeout())
	defer cancel()
	_, err := p.open(ctx, f)
	if errors.Is(errors.NotExist, err) {
		p.forget(f)
	}
	return err
}

// forget lets go of a state that is there no more, and of what lists it.
func (p *Past) forget(f PastFile) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.files, f.Folder+"@"+f.TXID.String())
	maps.DeleteFunc(p.lists, func(key string, _ pastList) bool { return strings.HasPrefix(key, f.Tenant+"@") })
}

// open returns a state of a database. It is not held open: whoever reads asks for
// it each time, so that however many files the kernel has open, few are here.
func (p *Past) open(ctx context.Context, f PastFile) (*pages.File, error) {
	key := f.Folder + "@" + f.TXID.String()
	p.mu.Lock()
	if p.files == nil {
		p.files = make(map[string]*pastFile)
	}
	o := p.files[key]
	if o == nil {
		if len(p.files) >= maxPast {
			p.evict()
		}
		o = &pastFile{}
		p.files[key] = o
	}
	o.used = p.v.opts.Now()
	p.watch()
	p.mu.Unlock()
	o.opening.Lock()
	defer o.opening.Unlock()
	if o.file != nil {
		return o.file, nil
	}
	log := p.log(f.Tenant, f.Folder)
	x, err := log.LoadAt(ctx, f.TXID)
	if err != nil {
		return nil, err
	}
	o.file = pages.New(f.Tenant+"/"+f.Path, log, x, pages.Options{Cache: pastCache})
	return o.file, nil
}

// evict forgets what was used longest ago. Past.mu is held.
func (p *Past) evict() {
	oldest := ""
	for key, o := range p.files {
		if oldest == "" || o.used.Before(p.files[oldest].used) {
			oldest = key
		}
	}
	delete(p.files, oldest)
}

// watch has what is idle forgotten. Past.mu is held.
func (p *Past) watch() {
	if p.timer == nil {
		p.timer = time.AfterFunc(idleAfter, p.forgetIdle)
	}
}

// forgetIdle forgets what nobody uses. It runs while there is anything.
func (p *Past) forgetIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.v.opts.Now()
	for key, o := range p.files {
		if now.Sub(o.used) >= idleAfter {
			delete(p.files, key)
		}
	}
	for key, l := range p.lists {
		if now.After(l.until) {
			delete(p.lists, key)
		}
	}
	p.timer = nil
	if len(p.files)+len(p.lists) > 0 {
		p.watch()
	}
}

// close forgets everything.
func (p *Past) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.files, p.lists = nil, nil
	if p.timer != nil {
		p.timer.Stop()
	}
}

// faultTimeout is Options.FaultTimeout, or what a database takes for it.
func (o *Options) faultTimeout() time.Duration {
	if o.FaultTimeout > 0 {
		return o.FaultTimeout
	}
	return 30 * time.Second
}
