// Package tenant knows what a tenant is in the bucket: its ID, its record, who
// owns it, and its plain files.
//
// The record is one object, tenants/<id>/tenant.json. It says who owns the
// tenant and where its databases stand, and it is written when that changes,
// never per commit: at acquire and release, and when a database appears, moves
// or goes. Every write is conditional on the version that was read, so that of
// two machines that want a tenant one gets it.
//
// The owner is one run of atc. It may believe so as long as its [Lease] is
// valid, which is one object a machine, machines/<machine>.json, written again
// every few seconds while anything is owned. Others take the tenant when their
// [Watcher] finds that object unchanged for a lease. The lease is for stopping
// in time and for taking over; what makes it safe, whatever clocks and networks
// do, is the record's epoch and the log (see PutBarrier of fs/database).
// model_test.go explores all interleavings of both.
//
//	lease := tenant.NewLease(b, tenant.LeaseOptions{Machine: "m1", Session: rand.Text()})
//	registry := tenant.NewRegistry(b, lease, tenant.NewWatcher(b, 0, nil), time.Now)
//	release, err := lease.Hold(ctx)
//	held, before, err := registry.Acquire(ctx, "acme", nil, nil)
//
// # Limitations
//
// Clocks of different machines may run at different speeds by less than what a
// request takes; a machine whose clock stands still is fenced by the log only.
// Two runs with one machine ID end the earlier one: IDs must be unique. An
// owner whose clock of the store is wrong by leases is taken over early, safely.
// A record holds at most 16 MiB, about 50,000 databases.
package tenant

import (
	"fmt"
	"time"

	"github.com/superfly/ltx"
)

// Record is the object tenants/<id>/tenant.json.
type Record struct {
	Tenant    string               `json:"tenant"`
	Created   time.Time            `json:"created"`
	Epoch     uint64               `json:"epoch"`               // one higher at every change of owner
	Owner     *Owner               `json:"owner,omitempty"`     // absent when released
	Released  time.Time            `json:"released,omitzero"`   // when the last owner let go
	Databases map[string]*Database `json:"databases,omitempty"` // by path below the tenant's folder
	Removed   []Removed            `json:"removed,omitempty"`   // databases that were deleted, whose history stays
	Deleted   time.Time            `json:"deleted,omitzero"`    // when the tenant itself was removed
}

// Owner is one run of atc.
type Owner struct {
	Machine string    `json:"machine"`
	Session string    `json:"session"`
	Since   time.Time `json:"since"`
}

// Database says where a database's history is and, when its tenant was
// released, where it stands.
type Database struct {
	Folder   string    `json:"folder"`         // below tenants/<id>/db/
	TXID     ltx.TXID  `json:"txid,omitempty"` // at release; what came later is in the log
	Head     int64     `json:"head,omitempty"` // at release, bytes of the head object; 0 unknown
	PageSize int       `json:"page_size,omitempty"`
	Pages    uint32    `json:"pages,omitempty"`
	Mode     uint32    `json:"mode"` // permission bits
	Modified time.Time `json:"modified,omitzero"`
	// Since is when a restore put it here. Its history begins earlier, but what
	// was at its path then is in Removed. Zero for all others.
	Since time.Time `json:"since,omitzero"`
}

// Removed is a database that was deleted.
type Removed struct {
	Path string    `json:"path"`
	At   time.Time `json:"at"`
	Database
}

// prefix is below what everything of a tenant lies.
func prefix(id string) string { return "tenants/" + id + "/" }

func recordKey(id string) string { return prefix(id) + "tenant.json" }

// LostKey is where a machine that lost a tenant keeps a transaction of a database
// that it could not ship, by the epoch of its ownership.
func LostKey(id, machine string, epoch uint64, folder string, txid uint64) string {
	return fmt.Sprintf("%slost/%s-%d/%s/%016x.ltx", prefix(id), machine, epoch, folder, txid)
}

// DatabaseFolder is the key below which a database's history lies.
func DatabaseFolder(id, folder string) string { return prefix(id) + "db/" + folder }
