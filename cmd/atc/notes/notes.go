// Package notes is the application of the demo: a page with a form that takes a
// note, and the notes below it. It is an ordinary program that knows a port and
// the path of its database and nothing about tenants, buckets or mounts; it
// stands for whatever people run under atc.
//
//	PORT=8080 DATABASE_PATH=notes.sqlite3 atc notes
//
// Limitations: notes are at most [MaxNote] bytes, cannot be edited, and the page
// shows the newest [shown] of them.
package notes

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// Config is what the application is told by its surroundings.
type Config struct {
	Port     int    // on 127.0.0.1; 0: any free one
	Database string // path of the SQLite database
}

const (
	defaultDatabase = "notes.sqlite3"
	stopTimeout     = 5 * time.Second
)

// Configure reads PORT and DATABASE_PATH, and then the flags -port and
// -database, which win. getenv is os.Getenv.
func Configure(args []string, getenv func(string) string) (Config, error) {
	c := Config{Database: defaultDatabase}
	if port := getenv("PORT"); port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return Config{}, fmt.Errorf("PORT=%q is not a port", port)
		}
		c.Port = int(n)
	}
	if path := getenv("DATABASE_PATH"); path != "" {
		c.Database = path
	}
	flags := flag.NewFlagSet("notes", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the error says it
	flags.IntVar(&c.Port, "port", c.Port, "port on 127.0.0.1")
	flags.StringVar(&c.Database, "database", c.Database, "path of the database")
	if err := flags.Parse(args); err != nil {
		return Config{}, err
	}
	if flags.NArg() > 0 {
		return Config{}, fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	if c.Port < 0 || c.Port > 65535 {
		return Config{}, fmt.Errorf("port %d is out of range", c.Port)
	}
	return c, nil
}

// Main runs the application with the process's environment until ctx ends,
// which is the caller's to tie to SIGTERM.
func Main(ctx context.Context, args []string) error {
	c, err := Configure(args, os.Getenv)
	if err != nil {
		return err
	}
	return Run(ctx, c, os.Stdout)
}

// Run serves until ctx ends. Then it finishes the requests under way, for at
// most five seconds, and closes the database, which checkpoints it. When it is
// ready it writes one line with its address to out.
func Run(ctx context.Context, c Config, out io.Writer) (err error) {
	store, err := openStore(ctx, c.Database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.close()) }()

	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(c.Port)))
	if err != nil {
		return fmt.Errorf("notes: %w", err)
	}
	server := &http.Server{Handler: handler(store), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	fmt.Fprintf(out, "notes: http://%s keeps its notes in %s\n", l.Addr(), c.Database)

	select {
	case err := <-failed:
		return fmt.Errorf("notes: %w", err)
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := server.Shutdown(stopping); err != nil {
		server.Close()
	}
	<-failed
	return nil
}
