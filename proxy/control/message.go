// This file is the one definition of the API's messages. Sizes are bytes,
// latencies milliseconds, times RFC 3339; a time that is not known is left out.

package control

import "time"

// Health says which atc answers.
type Health struct {
	Status  string    `json:"status"` // "ok"
	Machine string    `json:"machine"`
	Session string    `json:"session"` // of this run
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started,omitzero"`
}

// FSStat is a machine's filesystem.
type FSStat struct {
	Machine    string       `json:"machine"`
	Session    string       `json:"session"`
	Mountpoint string       `json:"mountpoint"`
	Cache      string       `json:"cache"` // folder
	Store      string       `json:"store"` // URL without credentials
	Bucket     BucketStat   `json:"bucket"`
	Lease      string       `json:"lease"`   // "valid", or why nothing is served now
	Tenants    []TenantStat `json:"tenants"` // sorted by ID
	Lost       []LostStat   `json:"lost,omitempty"`
}

// LostStat is a tenant that another machine took over.
type LostStat struct {
	Tenant string    `json:"tenant"`
	At     time.Time `json:"at"`               // when that was noticed
	Epoch  uint64    `json:"epoch"`            // of the ownership that ended
	Folder string    `json:"folder,omitempty"` // where what was not shipped is kept
	Pages  int64     `json:"pages"`            // captured and never confirmed
	Reason string    `json:"reason"`
}

// BucketStat counts requests to the bucket since atc began to count for the
// thing it stands beside.
type BucketStat struct {
	Get      int64 `json:"get"`
	Put      int64 `json:"put"`
	List     int64 `json:"list"`
	Copy     int64 `json:"copy"`
	Delete   int64 `json:"delete"`
	Failed   int64 `json:"failed"` // of these, without an answer
	BytesIn  int64 `json:"bytes_in"`
	BytesOut int64 `json:"bytes_out"`
}

// Requests is the number of requests of every kind.
func (b BucketStat) Requests() int64 { return b.Get + b.Put + b.List + b.Copy + b.Delete }

// TenantState is how a tenant stands on this machine.
type TenantState string

// The states of a tenant.
const (
	Unopened TenantState = "unopened" // known, not used in this run
	Open     TenantState = "open"     // owned by this machine
	Released TenantState = "released" // was open, given back
	Fenced   TenantState = "fenced"   // another machine took it
	// Suspended is a tenant that may have been taken: the lease had lapsed.
	Suspended TenantState = "suspended"
)

// TenantStat is one tenant.
type TenantStat struct {
	ID        string         `json:"id"`
	State     TenantState    `json:"state"`
	Opening   *OpeningStat   `json:"opening,omitempty"` // how it became ours; nil while it is not
	Epoch     uint64         `json:"epoch"`
	Databases []DatabaseStat `json:"databases"` // sorted by path
	Files     FilesStat      `json:"files"`
	Bucket    BucketStat     `json:"bucket"`
}

// OpeningStat is what it took to get a tenant.
type OpeningStat struct {
	At      time.Time `json:"at"`
	Record  float64   `json:"record_ms"`  // reading the record, which may have been done before by who looked
	Acquire float64   `json:"acquire_ms"` // writing it
	Took    float64   `json:"took_ms"`    // all, from the wish to have it
}

// ColdStat is what it took to open a database up to its first page that had to
// come from the bucket. What did not happen is 0.
type ColdStat struct {
	WithTenant bool    `json:"with_tenant"` // the tenant's opening belongs to it; the index came meanwhile
	Index      float64 `json:"index_ms"`    // the page index's head
	Hot        float64 `json:"hot_ms"`      // putting the hot pack into the local file
	HotPages   int     `json:"hot_pages"`
	FirstFault float64 `json:"first_fault_ms"`
	Requests   int64   `json:"requests"`
	Bytes      int64   `json:"bytes"`
	// RoundTrips is how many requests were made one after the other, those of the
	// tenant's opening included if WithTenant.
	RoundTrips int `json:"round_trips"`
}

// FilesStat is a tenant's plain files.
type FilesStat struct {
	Count   int `json:"count"`
	Pending int `json:"pending"` // changed and not in the bucket yet
}

// JournalMode is how a database commits, as its header says.
type JournalMode string

// The journal modes that make a difference here.
const (
	WAL      JournalMode = "wal"
	Rollback JournalMode = "rollback"
	NoMode   JournalMode = "none" // empty or not opened yet
)

// DatabaseStat is one database.
type DatabaseStat struct {
	Path         string      `json:"path"` // below the tenant's folder
	PageSize     int         `json:"page_size"`
	Pages        int64       `json:"pages"`
	PagesPresent int64       `json:"pages_present"` // of these, on the local disk
	Mode         JournalMode `json:"mode"`
	Passthrough  bool        `json:"passthrough"` // reads and writes do not reach the daemon

	TXID         uint64    `json:"txid"`             // last transaction in the bucket
	Shipped      time.Time `json:"shipped,omitzero"` // when that got there
	PendingPages int64     `json:"pending_pages"`    // captured and not in the bucket yet
	PendingBytes int64     `json:"pending_bytes"`
	PendingSince time.Time `json:"pending_since,omitzero"` // the oldest of them

	Faults       int64   `json:"faults"` // reads that waited for the bucket
	FaultP50     float64 `json:"fault_p50_ms"`
	FaultP99     float64 `json:"fault_p99_ms"`
	FaultedBytes int64   `json:"faulted_bytes"`
	CorruptPages int64   `json:"corrupt_pages"` // fetched, refused for their checksum

	Cold *ColdStat `json:"cold,omitempty"` // how it was opened; nil while it is not

	Waiting  []WaitStat `json:"waiting,omitempty"`  // writers that wait for the bucket, by what for
	Degraded []string   `json:"degraded,omitempty"` // why capture is slower or weaker than it should be
	Bucket   BucketStat `json:"bucket"`
}

// WaitStat is writers that wait.
type WaitStat struct {
	Writers int       `json:"writers"`
	Since   time.Time `json:"since"` // the first of them
	Why     string    `json:"why"`
}

// InstanceState is where an instance is in its life.
type InstanceState string

// The states of an instance.
const (
	Stopped  InstanceState = "stopped"
	Starting InstanceState = "starting"
	Ready    InstanceState = "ready"
	Idle     InstanceState = "idle"
	Frozen   InstanceState = "frozen"
	Stopping InstanceState = "stopping"
	Crashed  InstanceState = "crashed"
)

// InstanceStat is one process of a tenant's application.
type InstanceStat struct {
	Tenant   string        `json:"tenant"`
	App      string        `json:"app,omitempty"`
	ID       string        `json:"id"` // of this run
	State    InstanceState `json:"state"`
	PID      int           `json:"pid,omitempty"`
	Started  time.Time     `json:"started,omitzero"`
	LastUsed time.Time     `json:"last_used,omitzero"`
	Leases   int           `json:"leases"` // requests and WebSockets that hold it
	Starts   int64         `json:"starts"` // in this run of atc
	Crashes  int64         `json:"crashes"`
	Memory   int64         `json:"memory_bytes,omitempty"`
	Error    string        `json:"error,omitempty"` // why it does not run
}

// instances is the envelope of a list, which leaves room for more.
type instances struct {
	Instances []InstanceStat `json:"instances"`
}

// failure is what an error becomes.
type failure struct {
	Error struct {
		Kind    string `json:"kind"` // as errors.Kind names it
		Message string `json:"message"`
	} `json:"error"`
}
