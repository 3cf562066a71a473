// Command atc is the entrypoint of a container that serves many tenants, each
// with its own SQLite databases, from an application that knows nothing of it.
//
//	atc demo                          everything at once, on embedded defaults
//	atc serve --config atc.toml       mount, resolve, launch, forward
//	atc mount /data -- COMMAND        only the filesystem, around one command
//	atc fs stat [TENANT[/DB]]         what a running atc has done and has to do
//	atc policy explain MODULE ...     write, try and replace resolvers
//	atc tenant restore TENANT ...     whole tenants in the bucket: back, out, in, sound
//
// This package holds the command line and the wiring: it is where the rooms
// meet, and nothing imports it.
package main

import (
	"context"
	stderrors "errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"atc/policy"
	"atc/sandbox"
)

// version is set by the linker.
var version = ""

func main() {
	sandbox.Init()
	policy.Worker()
	os.Exit(run(os.Args[1:]))
}

// exitStatus is an error that asks for a status of its own: that of a command
// which atc ran.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

func run(args []string) int {
	root := &cobra.Command{
		Use:           "atc",
		Short:         "Serve thousands of tenants, each with its own SQLite databases",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       buildVersion(),
	}
	root.SetArgs(args)
	root.AddCommand(demoCommand(), serveCommand(), mountCommand(), fsCommand(), policyCommand(), tenantCommand(), notesCommand())
	err := root.ExecuteContext(context.Background())
	var status exitStatus
	switch {
	case err == nil:
		return 0
	case stderrors.As(err, &status):
		return int(status)
	}
	fmt.Fprintln(os.Stderr, "atc:", err)
	return 1
}

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "devel"
}

// sameInterrupt is how long after an interrupt another one counts as the same.
const sameInterrupt = 500 * time.Millisecond

// interruptible returns a context that ends at the first SIGINT or SIGTERM. A
// second one ends the process at once, whatever it is waiting for: what was not
// shipped stays in the cache folder.
func interruptible(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		select {
		case s := <-signals:
			cancel(interrupted{s.(syscall.Signal)})
		case <-done:
			return
		}
		// One interrupt may arrive twice: for us, and for the group we are in.
		for again := time.After(sameInterrupt); again != nil; {
			select {
			case <-signals:
			case <-again:
				again = nil
			case <-done:
				return
			}
		}
		select {
		case <-signals:
			fmt.Fprintln(os.Stderr, "atc: interrupted again; what was not shipped stays in the cache folder")
			detachAll()
			os.Exit(130)
		case <-done:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel(nil)
	}
}

// interrupted is why the context of a command ended.
type interrupted struct{ syscall.Signal }

func (i interrupted) Error() string { return "interrupted by " + i.Signal.String() }
