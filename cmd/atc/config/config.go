// Package config reads atc.toml, the configuration of `atc serve`.
//
//	c, err := config.Load("/etc/atc.toml")
//
// A file needs two keys, store and app.command; [Example] is one with every key
// and what it means. Reading is strict: a key that does not exist, a value of
// the wrong type, out of its range or not among its choices is an error that
// says where it stands, what is wrong and what may stand there instead. All of
// a file's errors are reported at once:
//
//	atc.toml:4:1: unknown key ship_intervall: did you mean ship_interval?
//	atc.toml:9:1: app.port: 70000 is out of range: write 1 to 65535
//
// # Limitations
//
// A file is checked by itself: that the store can be reached, that a program
// exists, that an address is free turns out when they are used. Values are
// taken literally; no variables are replaced in them.
package config

import (
	_ "embed"
	"io"
	"log/slog"
	"net/netip"
	"time"
)

// Config is a complete configuration. The keys' defaults are in [Default], and
// what is allowed is in check.go.
type Config struct {
	Listen       string        `toml:"listen"`        // address the proxy listens on
	Mount        string        `toml:"mount"`         // mountpoint of the filesystem
	Cache        string        `toml:"cache"`         // folder for everything local; one atc at a time has it
	Store        string        `toml:"store"`         // URL of the bucket: file:///... or s3://...
	ShipInterval time.Duration `toml:"ship_interval"` // how long a commit may wait for the bucket
	HydrateAfter time.Duration `toml:"hydrate_after"` // from opening a database to fetching the rest of it, or Never
	Durability   string        `toml:"durability"`    // async or commit
	Heartbeat    time.Duration `toml:"heartbeat"`     // how often this machine says that it is alive
	Lease        time.Duration `toml:"lease"`         // after how long without one others take its tenants
	ReleaseAfter time.Duration `toml:"release_after"` // from the last use of a tenant to its release
	CacheLimit   Size          `toml:"cache_limit"`   // what Cache should take of the disk; 0: any
	Passthrough  string        `toml:"passthrough"`   // auto or off
	Region       string        `toml:"region"`        // where this machine is; may be empty
	Machine      string        `toml:"machine"`       // name of this machine; empty: an ID kept in Cache

	Log     Log     `toml:"log"`
	History History `toml:"history"`
	Policy  Policy  `toml:"policy"`
	App     App     `toml:"app"`
	Proxy   Proxy   `toml:"proxy"`
}

// Log is about atc's own log, on standard error.
type Log struct {
	Level  string `toml:"level"`  // debug, info, warn or error
	Format string `toml:"format"` // text or json
}

// History is about the past of databases in the store: how long one can go back
// to what.
type History struct {
	EveryCommit   time.Duration `toml:"every_commit"`       // each transaction
	EveryFiveMins time.Duration `toml:"every_five_minutes"` // the last transaction of each five minutes
	EveryHour     time.Duration `toml:"every_hour"`         // the last one of each hour
}

// Policy is about the resolver.
type Policy struct {
	// Resolver is the name of a built-in one, or the path of a module, which
	// ends in .wasm. Relative to the configuration file's folder in the file,
	// relative to the working folder here.
	Resolver    string            `toml:"resolver"`
	Config      map[string]string `toml:"config"`       // what the resolver reads; whole numbers, true and false as text
	Deadline    time.Duration     `toml:"deadline"`     // of one decision
	MemoryLimit Size              `toml:"memory_limit"` // of one instance of the module
}

// App is about the application that is started for each tenant.
type App struct {
	Command      []string          `toml:"command"`       // program and arguments
	Env          map[string]string `toml:"env"`           // its environment
	Port         int               `toml:"port"`          // where it listens on its own loopback, and its PORT
	Mount        string            `toml:"mount"`         // where it sees the tenant's folder
	Health       string            `toml:"health"`        // path that answers when it is ready; empty: it accepts connections
	StartTimeout time.Duration     `toml:"start_timeout"` // from its start to its readiness
	IdleTimeout  time.Duration     `toml:"idle_timeout"`  // from its last request to its stop, or Never
	StopGrace    time.Duration     `toml:"stop_grace"`    // from SIGTERM to SIGKILL
	MaxWaiting   int               `toml:"max_waiting"`   // requests that wait for one tenant's start; more are refused
	Binds        []Bind            `toml:"binds"`         // folders and files of the host to show, read-only
	LocalOnly    []string          `toml:"local_only"`    // patterns of files that stay on this machine
}

// Proxy is about HTTP.
type Proxy struct {
	TrustedProxies  []netip.Prefix `toml:"trusted_proxies"`  // peers whose X-Forwarded-* headers are believed
	AccessLog       bool           `toml:"access_log"`       // log every request
	MaxHeader       Size           `toml:"max_header"`       // of a request line with its headers
	HeaderTimeout   time.Duration  `toml:"header_timeout"`   // for a client to send them
	ResponseTimeout time.Duration  `toml:"response_timeout"` // from a request's end to the headers of the answer
	ClientIdle      time.Duration  `toml:"client_idle"`      // how long a client's unused connection is kept
	UpstreamIdle    time.Duration  `toml:"upstream_idle"`    // how long one to an application is kept
	DrainTimeout    time.Duration  `toml:"drain_timeout"`    // for requests under way when atc is stopped
}

// Never is the value of a duration that is written "never".
const Never time.Duration = -1

//go:embed atc.example.toml
var example string

// Example is a configuration file with all keys: those that are needed, and as
// comments the others with their defaults.
func Example() string { return example }

// Logger makes the logger that l describes.
func (l Log) Logger(w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(l.Level)) // checked; info where it is not
	opts := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
