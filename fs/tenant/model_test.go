package tenant_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// This file is a model of ownership: two machines, one database, the record, the
// log, the heartbeats and a network that delays requests and loses answers. A
// pause of a machine is that others take steps; a request that its sender gave
// up may still arrive at any later time. Each step is named after the function
// of the code that it stands for.
//
// Two kinds of worlds are explored. In one there is no lease at all: anybody may
// find anybody dead at any time, and uploads start whenever they like. What
// holds there holds whatever clocks do. In the other, leases and clocks are
// there, to show what they add: with clocks that run alike, no two machines
// serve a tenant at once, not even reads.

const (
	modelSlots = 6 // TXIDs behind the one that stands at the beginning
)

// world says what is explored, and what is broken in it.
type world struct {
	transactions, epochs, versions, crashes uint8
	timed                                   bool  // with leases
	lease, watch                            uint8 // ticks that it lasts, and for which others watch
	drift                                   uint8 // ticks by which two clocks may be apart

	noBarrier          bool // a new owner serves without one
	barrierUnread      bool // after a collision it tries the next TXID without reading what stands there
	barrierBehindLater bool // it does not look at the epoch of what stands there
	conflictSucceeds   bool // 412 for an LTX file is taken as success
	conflictFences     bool // 412 is not compared with what was sent
	recordOverwrites   bool // the record is put without a condition
	servesOn           bool // after a release whose outcome is unknown
	barrierNotFirst    bool // there is no barrier for an empty database
	leaseFromAnswer    bool // a lease is counted from the answer of its renewal
	resumesUnasked     bool // after a lapse, without the record
	resumesByReading   bool // after a lapse, when a GET of the record still names us
	resumesLate        bool // with an answer of Registry.Mine that was asked before another lapse
	noSelfFence        bool // a lapsed lease stops nobody
}

type modelPhase uint8

const (
	idle modelPhase = iota
	loaded
	acquiring
	surveying
	barring
	serving
	releasing
	fenced
)

// What a request or a slot of the log holds: a transaction 1 to 3, or these.
const (
	barrier uint8 = 9
)

type requestKind uint8

const (
	nothing requestKind = iota
	putAcquire
	putRelease
	putTouch
	putLog
)

// entry is one LTX file. base has a bit for each slot whose content its writer
// knew.
type entry struct{ what, epoch, by, base uint8 }

// request is a PUT of one machine. at is the slot, or the version that the
// record has to have.
type request struct {
	kind requestKind
	at   uint8
	put  entry // putRelease: what is the position; putAcquire: what is the session
}

type answer uint8

const (
	none answer = iota
	sent        // has not arrived
	done
	refused // 412
	unknown // the sender gave up
)

type modelRecord struct {
	version, epoch, at uint8
	owner, session     uint8 // owner is 0 for none, else the machine + 1
}

type modelMachine struct {
	phase         modelPhase
	session       uint8
	read          modelRecord // loaded, or written last
	epoch, at     uint8       // of the ownership; the last slot whose content is known
	base          uint8       // the slots whose content is known
	pending       uint8       // a transaction that is committed here and not confirmed
	out           request
	answer        answer
	late          request // given up, and still on its way
	lapsed        bool    // since it owns or wants the tenant
	since         uint8   // ticks since the start of the last confirmed renewal
	renewal       answer  // none, sent, done
	renewing      uint8   // ticks since it was sent
	watched       uint8   // ticks for which the other's heartbeat did not change
	watching      bool
	changed, dead bool // the other's heartbeat since it was read; the verdict
}

type modelState struct {
	record modelRecord
	log    [modelSlots]entry
	begun  uint8 // transactions
	acked  uint8 // bit for each transaction whose writer heard that it is durable
	crash  uint8
	skew   int8 // ticks of machine 1 ahead of those of machine 2
	m      [2]modelMachine
}

func (s *modelState) end() uint8 {
	for i := range s.log {
		if s.log[i].what == 0 {
			return uint8(i)
		}
	}
	return modelSlots
}

func mask(n uint8) uint8 { return 1<<n - 1 }

func (w *world) system() system[modelState] {
	var start modelState
	for i := range start.m {
		start.m[i].since = w.lease
	}
	if w.timed { // who takes it first is explored without leases
		start.record = modelRecord{version: 1, epoch: 1, owner: 1}
		start.m[0] = modelMachine{phase: serving, epoch: 1, read: start.record}
	}
	return system[modelState]{start: start, next: w.next, check: w.check, show: showModel}
}

// valid is Lease.Check. Without leases nobody is ever stopped.
func (w *world) valid(m *modelMachine) bool {
	return !w.timed || w.noSelfFence || m.since < w.lease
}

// serves reports whether a machine answers its application.
func (w *world) serves(m *modelMachine) bool {
	return m.phase == serving && w.valid(m) && (!m.lapsed || w.noSelfFence)
}

func (w *world) next(s modelState, step func(string, int, modelState)) {
	for i := range s.m {
		take := func(name string, to modelState) {
			w.settle(&to)
			step(name, i, to)
		}
		w.owning(s, i, take)
		w.network(s, i, take)
		if w.timed {
			w.leasing(s, i, take)
		}
	}
	if w.timed {
		w.clocks(s, step)
	}
}

func (w *world) check(s modelState) string {
	end := s.end()
	var present uint8
	for n, e := range s.log {
		switch {
		case e.what == 0:
		case uint8(n) >= end:
			return "the log has a gap"
		case n > 0 && e.epoch < s.log[n-1].epoch:
			return "two writers extend one history: an epoch stands behind a later one"
		case e.base != mask(uint8(n)):
			return "a transaction was made without what stands before it"
		}
		if e.what != barrier {
			present |= 1 << e.what
		}
	}
	if s.acked&^(present&^1) != 0 {
		return "an acknowledged transaction is not in the log"
	}
	if s.record.owner == 0 && end != s.record.at {
		return "a released tenant does not stand where its record says"
	}
	for i := range s.m {
		m := &s.m[i]
		if m.phase == fenced && s.record.epoch <= m.epoch {
			return fmt.Sprintf("machine %d fenced itself although nobody took its tenant", i+1)
		}
		if m.phase != serving && m.phase != releasing {
			continue
		}
		if m.at < end {
			if e := s.log[m.at]; e.epoch < m.epoch || e.epoch == m.epoch && int(e.by) != i {
				return fmt.Sprintf("two writers extend one history: an owner before extends what machine %d serves", i+1)
			}
		}
	}
	if w.timed && w.serves(&s.m[0]) && w.serves(&s.m[1]) {
		return "two machines serve the tenant at once"
	}
	return ""
}

func showModel(s modelState) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| record v%d epoch %d owner m%d at %d | log", s.record.version, s.record.epoch, s.record.owner, s.record.at)
	for _, e := range s.log[:s.end()] {
		name := fmt.Sprintf("t%d", e.what)
		if e.what == barrier {
			name = "barrier"
		}
		fmt.Fprintf(&b, " %s(epoch %d, m%d)", name, e.epoch, e.by+1)
	}
	phases := []string{"idle", "loaded", "acquiring", "surveying", "barring", "serving", "releasing", "fenced"}
	for i := range s.m {
		m := &s.m[i]
		fmt.Fprintf(&b, " | m%d %s epoch %d at %d since %d", i+1, phases[m.phase], m.epoch, m.at, m.since)
		if m.lapsed {
			b.WriteString(" lapsed")
		}
	}
	return b.String()
}

// TestModel explores the protocol as it is, which must violate nothing, and with
// one thing broken in it, which must be found.
func TestModel(t *testing.T) {
	lawless := world{transactions: 3, epochs: 3, versions: 5}
	killed := world{transactions: 1, epochs: 3, versions: 5, crashes: 1}
	// What the log does is explored above; here it is who may answer.
	leases := world{epochs: 2, versions: 2, timed: true, lease: 2, watch: 2}
	with := func(w world, change func(*world)) world { change(&w); return w }
	const limit = 3_000_000 // states
	for _, c := range []struct {
		name     string
		world    world
		violates string
		states   int
	}{
		{"without any lease", lawless, "", 400_000},
		{"without any lease, killed once", killed, "", 400_000},
		{"leases, clocks alike", leases, "", 100_000},
		{"leases, clocks one tick apart", with(leases, func(w *world) { w.drift, w.lease, w.watch = 1, 1, 3 }), "", 100_000},

		{"leases, no margin for clocks", with(leases, func(w *world) { w.drift, w.lease, w.watch = 1, 1, 1 }), "serve the tenant at once", 0},
		{"no barrier", with(lawless, func(w *world) { w.noBarrier = true }), "extends what machine", 0},
		{"barrier without reading the tail", with(lawless, func(w *world) { w.barrierUnread = true }), "without what stands before", 0},
		{"barrier behind a later owner's", with(killed, func(w *world) { w.barrierBehindLater = true }), "behind a later one", 0},
		{"412 is success", with(lawless, func(w *world) { w.conflictSucceeds = true }), "acknowledged transaction is not in the log", 0},
		{"412 is not compared", with(lawless, func(w *world) { w.conflictFences = true }), "fenced itself", 0},
		{"record put without condition", with(lawless, func(w *world) { w.recordOverwrites = true }), "extends what machine", 0},
		{"serving on after an unknown release", with(lawless, func(w *world) { w.servesOn = true }), "released tenant", 0},
		{"no barrier for an empty database", with(lawless, func(w *world) { w.barrierNotFirst = true }), "extends what machine", 0},
		{"lease from the answer", with(leases, func(w *world) { w.leaseFromAnswer = true }), "serve the tenant at once", 0},
		{"resuming unasked", with(leases, func(w *world) { w.resumesUnasked = true }), "serve the tenant at once", 0},
		{"resuming after a look", with(leases, func(w *world) { w.resumesByReading = true }), "serve the tenant at once", 0},
		{"resuming with a late answer", with(leases, func(w *world) { w.resumesLate = true }), "serve the tenant at once", 0},
		{"no self-fence", with(leases, func(w *world) { w.noSelfFence = true }), "serve the tenant at once", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			begun := time.Now()
			states, found, err := explore(c.world.system(), limit)
			t.Logf("%d states in %v", states, time.Since(begun).Round(time.Millisecond))
			if testing.Verbose() && found != nil && c.violates != "" {
				t.Log(found)
			}
			if err != nil {
				t.Fatal(err)
			}
			if states < c.states {
				t.Fatalf("%d states, want at least %d: something is never reached", states, c.states)
			}
			switch {
			case found != nil && c.violates == "":
				t.Fatalf("violated: %s", found)
			case found == nil && c.violates != "":
				t.Fatalf("nothing is violated, want %q", c.violates)
			case found != nil && !strings.Contains(found.violated, c.violates):
				t.Fatalf("want %q, violated: %s", c.violates, found)
			}
		})
	}
}
