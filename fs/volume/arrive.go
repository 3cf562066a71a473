package volume

import (
	"context"
	"time"

	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/tenant"
)

// This file defines the requests by which a tenant arrives. They go out side by
// side, so that opening the first database of a tenant that was released cleanly
// costs two round trips before its first page: the record, and then its taking
// together with the file index and the database's page index.

// arrival is what a tenant that was just taken comes with.
type arrival struct {
	held   *tenant.Held
	before tenant.Record
	files  *tenant.FileIndex
	wanted *wanted // of the database to be opened; nil if unknown

	opening Opening
}

// Opening is what it took to get a tenant.
type Opening struct {
	At      time.Time
	Record  time.Duration // reading the record, which may have been done before by who looked
	Acquire time.Duration // writing it
	Took    time.Duration // all, from the wish to have it; the record may have been there by then
}

// arrive takes the tenant. Path is what somebody wants to open; about is as in
// [tenant.Registry.Acquire].
func (t *Tenant) arrive(ctx context.Context, path string, about func(tenant.Record) error) (arrival, error) {
	began := time.Now()
	loaded, took, err := t.loaded(ctx)
	if err != nil {
		return arrival{}, err
	}
	files := begin(func() (*tenant.FileIndex, error) { return t.contents.Load(ctx) })
	index := begin(func() (*wanted, error) { return t.expected(ctx, &loaded.Record, path) })
	var a arrival
	taking := time.Now()
	a.held, a.before, err = t.v.registry.Acquire(ctx, t.id, loaded, about)
	a.opening.Acquire = time.Since(taking)
	a.files, _ = files()
	a.wanted, _ = index() // what fails is loaded again by who needs it
	if errors.Retryable(err) {
		t.v.chase(t.id)
	}
	if err != nil {
		return arrival{}, err
	}
	if a.before.Epoch != loaded.Epoch || a.before.Owner != nil {
		a.files, a.wanted = nil, nil // somebody may have written since they were read
	}
	if a.files == nil {
		if a.files, err = t.contents.Load(ctx); err != nil {
			t.v.chase(t.id)
		}
	}
	a.opening.At, a.opening.Record, a.opening.Took = began, took, time.Since(began)
	return a, err
}

// chase takes a tenant in the background, after a try whose outcome is unknown or
// that failed behind the taking: the record may name us while nobody serves the
// tenant here, and our heartbeat would keep it from all others. Once it is ours
// it is released like any tenant that nobody uses. What cannot be laid out, as on
// a full disk, is tried ever more seldom.
func (v *Volume) chase(id string) {
	const firstPause, maxPause = time.Second, 30 * time.Second
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.chased[id] {
		return
	}
	v.chased[id] = true
	v.work.Add(1)
	go func() {
		defer v.work.Done()
		for pause := firstPause; ; {
			select {
			case <-time.After(pause):
			case <-v.ctx.Done():
				return
			}
			err := v.Take(v.ctx, id)
			if err == nil || errors.Is(errors.Busy, err) || errors.Is(errors.NotExist, err) || errors.Is(errors.Fenced, err) {
				break
			}
			if !errors.Retryable(err) {
				pause = min(2*pause, maxPause)
			}
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.chased, id)
	}()
}

// loaded is the record as it was read not long ago, and how long that took.
func (t *Tenant) loaded(ctx context.Context) (*tenant.Held, time.Duration, error) {
	t.viewing.Lock()
	v := t.view
	t.view = nil
	t.viewing.Unlock()
	if v != nil && t.v.opts.Now().Sub(v.at) <= viewFor {
		return v.record, v.took, nil
	}
	began := time.Now()
	held, err := t.v.registry.Load(ctx, t.id)
	return held, time.Since(began), err
}

// wanted is the page index of a database, with the log it came from.
type wanted struct {
	log   *history.Log
	index *history.Index
	took  time.Duration
}

// expected loads the page index of a database where its record says that it
// stands; nil where that is not known.
func (t *Tenant) expected(ctx context.Context, r *tenant.Record, path string) (*wanted, error) {
	d := r.Databases[path]
	if d == nil || r.Owner != nil || d.TXID == 0 {
		return nil, nil
	}
	began := time.Now()
	log := history.NewLog(t.v.bucketFor(&t.counters), tenant.DatabaseFolder(t.id, d.Folder))
	index, err := log.Load(ctx, d.TXID, d.Head)
	if err != nil || index.TXID() != d.TXID {
		return nil, err
	}
	return &wanted{log, index, time.Since(began)}, nil
}

// begin runs fn beside the caller, who gets its result from the returned
// function.
func begin[T any](fn func() (T, error)) func() (T, error) {
	var (
		result T
		err    error
		done   = make(chan struct{})
	)
	go func() {
		defer close(done)
		result, err = fn()
	}()
	return func() (T, error) {
		<-done
		return result, err
	}
}
