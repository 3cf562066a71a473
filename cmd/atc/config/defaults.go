package config

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"atc/fs/history"
	"atc/fs/tenant"
)

// The one place where a key gets its default, each with the reason for it.

// Default is the configuration of an empty file on this machine. Store and
// App.Command have no default.
func Default() Config { return defaults(os.Getenv, makeable) }

func defaults(env func(string) string, makeable func(string) bool) Config {
	return Config{
		Listen: ":8080", // the port that container platforms expect
		Mount:  "/data", // where applications in containers look for their volume
		Cache:  cacheFolder(env, makeable),

		// The most that the loss of a machine can cost. A busy database then
		// causes one PUT a second, however many commits it makes.
		ShipInterval: time.Second,
		// First come the pages that a just started application waits for.
		HydrateAfter: 2 * time.Second,
		Durability:   "async",
		// Far more than a busy application changes in the longest lease, behind
		// which writers are stopped anyway; a few such databases fit on any disk.
		SpoolLimit: 256 << 20,
		Tenants:    map[string]Tenant{},
		Heartbeat:  tenant.DefaultHeartbeat,
		Lease:      tenant.DefaultLease,
		// Longer than a visitor's pause, so that moving on costs nothing then.
		ReleaseAfter: time.Minute,
		Passthrough:  "auto", // native speed where the kernel has it
		Region:       env("FLY_REGION"),
		Machine:      env("FLY_MACHINE_ID"),

		History: History{
			EveryCommit:   history.DefaultPolicy().Keep0, // to undo what was just done
			EveryFiveMins: history.DefaultPolicy().Keep1, // to find when it went wrong today
			EveryHour:     history.DefaultPolicy().Keep2, // as backups are usually kept
		},

		Log: Log{Level: "info", Format: "text"},

		Policy: Policy{
			Resolver: "subdomain", // browsers keep tenants' cookies and scripts apart by host
			Config:   map[string]string{},
			// A decision takes microseconds. On a saturated processor 50 ms
			// stopped a few innocent ones in 100,000, this stopped none.
			Deadline:    250 * time.Millisecond,
			MemoryLimit: 32 << 20, // a Go module with a JSON library grows to 8 MiB
		},

		App: App{
			Env:          map[string]string{},
			Port:         3000, // what most frameworks listen on when not told otherwise
			Mount:        "/data",
			StartTimeout: 30 * time.Second, // six times what a large Rails application takes
			IdleTimeout:  5 * time.Minute,  // longer than a visitor reads one page
			StopGrace:    10 * time.Second, // as container engines do
			MaxWaiting:   100,              // a page with its assets, for several visitors
		},

		Proxy: Proxy{
			MaxHeader:       64 << 10,         // room for the largest cookies in use
			HeaderTimeout:   10 * time.Second, // ends clients that send a byte now and then
			ResponseTimeout: time.Minute,
			ClientIdle:      2 * time.Minute,
			UpstreamIdle:    4 * time.Second, // below the 5 s after which common servers close
			DrainTimeout:    30 * time.Second,
		},
	}
}

// cacheFolder is where daemons keep what they can fetch again, or the place for
// that of a user who may not write there, as also user 0 of a namespace may not
// who is somebody else outside. It is empty where there is no such place.
func cacheFolder(env func(string) string, makeable func(string) bool) string {
	const daemons = "/var/cache/atc"
	if makeable(daemons) {
		return daemons
	}
	if dir := env("XDG_CACHE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "atc", "cache")
	}
	if dir := env("HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, ".cache", "atc", "cache")
	}
	return ""
}

// makeable reports whether this process may make a folder and write in it. It
// only looks at the folder, or the first one above it that is there.
func makeable(dir string) bool {
	err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS)
	if err == unix.ENOENT && dir != "/" {
		return makeable(filepath.Dir(dir))
	}
	return err == nil
}
