package instance

import (
	"cmp"
	"slices"
	"time"
)

// This file is what a pool tells about itself.

// State is where an instance is in its life.
type State uint8

const (
	Starting State = iota // opening, executing, not answering yet
	Ready                 // answering, and in use
	Idle                  // answering, with nobody using it
	Stopping              // told to end
	Crashed               // gone, and not to be started before its backoff is over
)

func (s State) String() string {
	return [...]string{"starting", "ready", "idle", "stopping", "crashed"}[s]
}

// Status is one tenant's instance at one moment.
type Status struct {
	Tenant   string
	Instance string // "" when crashed
	State    State
	Pid      int       // of the sandbox's process 1; 0 before it runs and after it ended
	Since    time.Time // when the state began; for Ready and Idle, when it first answered
	InFlight int       // leases
	Waiting  int       // requests that wait for it
	Crashes  int       // in a row
	Err      error     // the last crash, while it counts
}

// Snapshot lists every tenant that is not plainly stopped, by name.
func (p *Pool) Snapshot() []Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]Status, 0, len(p.tenants))
	for name, t := range p.tenants {
		s := Status{Tenant: name, State: Crashed, Since: t.crashes.at, Waiting: t.waiting, Crashes: t.crashes.inARow, Err: t.crashes.last}
		if i := t.current; i != nil {
			s.Instance, s.State, s.Since, s.InFlight = i.id, i.state, i.since, i.leases
			if i.state == Ready && i.leases == 0 {
				s.State = Idle
			}
			if i.process != nil {
				s.Pid = i.process.Pid()
			}
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Status) int { return cmp.Compare(a.Tenant, b.Tenant) })
	return all
}
