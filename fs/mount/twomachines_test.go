package mount_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"atc/fs/bucket"
	"atc/fs/bucket/s3test"
	"atc/fs/history"
	"atc/fs/mount/mounttest"
)

// This file hammers two machines that share one bucket: real processes on a real
// S3 server, paused, cut off and killed at random while clients commit and read
// on both. What the clients saw is checked for linearizability: no acknowledged
// commit is lost, and nobody reads what an owner before still shows.

// hammerLease is short, so that a minute holds many take-overs.
const hammerLease = time.Second

// site is one machine of the hammer, with the network between it and the store.
type site struct {
	t       *testing.T
	name    string
	store   string
	network *s3test.Proxy

	mu     sync.Mutex // protects what follows against its replacement
	dir    string
	daemon *daemon
}

func newSite(t *testing.T, name, store string) *site {
	endpoint, _, _ := strings.Cut(store[strings.Index(store, "endpoint=")+len("endpoint="):], "&")
	p, err := s3test.NewProxy(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	s := &site{t: t, name: name, store: p.Through(store), network: p, dir: t.TempDir()}
	s.start()
	return s
}

func (s *site) start() {
	s.daemon = startDaemon(s.t, s.dir, s.dir, daemonEnv+"_SHIP=100ms", daemonEnv+"_COMMIT=1",
		daemonEnv+"_LEASE="+hammerLease.String(), daemonEnv+"_STORE="+s.store)
}

func (s *site) db() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.daemon.path("acme", "main.sqlite3")
}

// torture does one bad thing to the machine, for at most three leases, and then
// makes it well again.
func (s *site) torture(r *rand.Rand) string {
	long := time.Duration(r.Int64N(int64(3 * hammerLease)))
	switch r.IntN(6) {
	case 0, 1:
		_ = s.daemon.cmd.Process.Signal(syscall.SIGSTOP)
		time.Sleep(long)
		_ = s.daemon.cmd.Process.Signal(syscall.SIGCONT)
		return fmt.Sprintf("%s paused for %s", s.name, long)
	case 2, 3:
		how := []s3test.Break{s3test.Refuse, s3test.Reset, s3test.Blackhole}[r.IntN(3)]
		s.network.Cut(how)
		time.Sleep(long)
		s.network.Heal()
		return fmt.Sprintf("%s cut off (%d) for %s", s.name, how, long)
	case 4:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.daemon.kill()
		s.start()
		return s.name + " killed"
	default:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.daemon.kill()
		s.dir = s.t.TempDir()
		s.start()
		return s.name + " killed, its disk lost"
	}
}

// insert and read are what clients do; insert is the number of a row, 0 to read.
type insert int

// seen is what a client saw: the rows in order, or that an insert was
// acknowledged.
type seen struct {
	rows    string
	unknown bool // nobody can say whether the insert took place
}

// table is the sequential model of the one table: rows in the order of their
// insertion.
var table = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, in, out any) (bool, any) {
		if in.(insert) == 0 {
			return out.(seen).rows == state.(string), state
		}
		return true, strings.TrimPrefix(state.(string)+","+strconv.Itoa(int(in.(insert))), ",")
	},
}

// TestTwoMachines is the hammer: a minute in which no more than one of two
// machines owns the tenant, whatever is done to them.
func TestTwoMachines(t *testing.T) {
	length := time.Minute
	if s := os.Getenv("ATC_SOAK"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		length = max(length, d)
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("ATC_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("ATC_SEED=%d", seed)
	store := s3test.Start(t)
	sites := []*site{newSite(t, "one", store), newSite(t, "two", store)}
	if err := os.Mkdir(filepath.Dir(sites[0].db()), 0o755); err != nil {
		t.Fatal(err)
	}
	mounttest.SQL(t, sites[0].db(), "pragma journal_mode=wal; create table t(a integer);")

	var (
		mu      sync.Mutex // protects ops and failures
		ops     []porcupine.Operation
		counts  = make(map[string]int)
		began   = time.Now()
		done    = make(chan struct{})
		clients sync.WaitGroup
	)
	note := func(client int, in insert, call time.Time, out seen) {
		mu.Lock()
		defer mu.Unlock()
		op := porcupine.Operation{ClientId: client, Input: in, Call: int64(call.Sub(began)), Output: out, Return: int64(time.Since(began))}
		if out.unknown {
			op.Return = int64(time.Hour)
		}
		ops = append(ops, op)
	}
	count := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		counts[what]++
	}
	for client := range 4 {
		clients.Add(1)
		go func() {
			defer clients.Done()
			r := rand.New(rand.NewPCG(seed, uint64(client)))
			for n := 1; ; n++ {
				select {
				case <-done:
					return
				case <-time.After(time.Duration(r.Int64N(int64(150 * time.Millisecond)))):
				}
				db := sites[r.IntN(2)].db()
				in := insert(0)
				if r.IntN(2) == 0 {
					in = insert(client*100000 + n)
				}
				call := time.Now()
				out, result := perform(db, in)
				count(result)
				if result == "done" || result == "unknown" {
					note(client, in, call, out)
				}
			}
		}()
	}
	r := rand.New(rand.NewPCG(seed, 100))
	var story []string
	for time.Since(began) < length {
		at := time.Since(began)
		story = append(story, fmt.Sprintf("%6.2fs %s", at.Seconds(), sites[r.IntN(2)].torture(r)))
		time.Sleep(time.Duration(r.Int64N(int64(2 * hammerLease))))
	}
	close(done)
	clients.Wait()
	// Whoever has it in the end serves it, and then the other one, when that is
	// killed.
	for left := sites; len(left) > 0; {
		at := 0
		eventually(t, "one of the machines serves", func() bool {
			at = (at + 1) % len(left)
			call := time.Now()
			out, result := perform(left[at].db(), 0)
			if result == "done" {
				note(10+len(left), 0, call, out)
			}
			return result == "done"
		})
		left[at].mu.Lock()
		left[at].daemon.kill()
		left[at].mu.Unlock()
		left = slices.Delete(slices.Clone(left), at, at+1)
	}
	t.Logf("%d operations: %v", len(ops), counts)
	if counts["done"] < int(length/time.Second) {
		t.Errorf("only %d operations went well", counts["done"])
	}
	result := porcupine.CheckOperationsTimeout(table, ops, 2*time.Minute)
	if result != porcupine.Ok {
		t.Errorf("what the clients saw is %s\n%s", result, strings.Join(story, "\n"))
	}
	checkEpochs(t, store)
}

// perform runs one operation in a process of its own, as a request of an
// application would.
func perform(db string, in insert) (seen, string) {
	statement := "select coalesce(group_concat(a), '') from (select a from t order by rowid);"
	if in != 0 {
		statement = fmt.Sprintf("insert into t values(%d);", in)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sqlite3", "-bail", "-cmd", ".timeout 1000", db, statement)
	var out, complaint strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	switch said := complaint.String(); {
	case err == nil:
		return seen{rows: strings.TrimSpace(out.String())}, "done"
	case in == 0, strings.Contains(said, "unable to open"), strings.Contains(said, "is locked"), strings.Contains(said, "in prepare"):
		return seen{}, "refused"
	}
	return seen{unknown: true}, "unknown"
}

// checkEpochs walks the log of the only database: no transaction of an owner
// stands behind one of a later owner.
func checkEpochs(t *testing.T, store string) {
	t.Helper()
	b, err := bucket.Open(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	epoch, last := uint64(0), history.TXID(0)
	for e, err := range b.List(t.Context(), "tenants/acme/db/", bucket.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(e.Key, "/0000/") {
			continue
		}
		body, info, err := b.Get(t.Context(), e.Key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := history.Decode(body, info.Size, func(history.Page, history.Place) error { return nil })
		body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if c.Epoch < epoch || c.TXID != last+1 {
			t.Errorf("%s is of epoch %d, behind %d", e.Key, c.Epoch, epoch)
		}
		epoch, last = c.Epoch, c.TXID
	}
	t.Logf("%d transactions, the last in epoch %d", last, epoch)
	if epoch < 4 {
		t.Errorf("only %d epochs: nobody took anything over", epoch)
	}
}
