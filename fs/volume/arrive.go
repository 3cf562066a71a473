package volume

import (
	"context"

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
	index  *history.Index // of the wanted database, where the record says it stands; nil if unknown
}

// arrive takes the tenant. Path is what somebody wants to open.
func (t *Tenant) arrive(ctx context.Context, path string) (arrival, error) {
	loaded, err := t.loaded(ctx)
	if err != nil {
		return arrival{}, err
	}
	files := begin(func() (*tenant.FileIndex, error) { return t.contents.Load(ctx) })
	index := begin(func() (*history.Index, error) { return t.expected(ctx, &loaded.Record, path) })
	var a arrival
	a.held, a.before, err = t.v.registry.Acquire(ctx, t.id, loaded)
	a.files, _ = files()
	a.index, _ = index() // what fails is loaded again by who needs it
	if err != nil {
		return arrival{}, err
	}
	if a.before.Epoch != loaded.Epoch || a.before.Owner != nil {
		a.files, a.index = nil, nil // somebody may have written since they were read
	}
	if a.files == nil {
		a.files, err = t.contents.Load(ctx)
	}
	return a, err
}

// loaded is the record as it was read not long ago.
func (t *Tenant) loaded(ctx context.Context) (*tenant.Held, error) {
	t.viewing.Lock()
	v := t.view
	t.view = nil
	t.viewing.Unlock()
	if v != nil && t.v.opts.Now().Sub(v.at) <= viewFor {
		return v.record, nil
	}
	return t.v.registry.Load(ctx, t.id)
}

// expected loads the page index of a database where its record says that it
// stands; nil where that is not known.
func (t *Tenant) expected(ctx context.Context, r *tenant.Record, path string) (*history.Index, error) {
	d := r.Databases[path]
	if d == nil || r.Owner != nil || d.TXID == 0 {
		return nil, nil
	}
	log := history.NewLog(t.v.bucketFor(&t.counters), tenant.DatabaseFolder(t.id, d.Folder))
	return log.Load(ctx, d.TXID)
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
