// Package tenanttest makes registries for tests that are about something else.
package tenanttest

import (
	"context"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/tenant"
)

// Registry is the registry of a session that holds its lease until the test
// ends. Its heartbeat goes to a store of its own: it adds no requests to those of
// b, and to others the session is one that died.
func Registry(t testing.TB, b bucket.Bucket, machine, session string, now func() time.Time) *tenant.Registry {
	t.Helper()
	const length = 300 * time.Millisecond
	beats, err := bucket.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	lease := tenant.NewLease(beats, tenant.LeaseOptions{Machine: machine, Session: session, Heartbeat: length / 4, Lease: length})
	unhold, err := lease.Hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unhold()
		_ = lease.Close(context.Background(), false)
	})
	return tenant.NewRegistry(b, lease, tenant.NewWatcher(b, length, nil), now)
}
