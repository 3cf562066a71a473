package mount_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"atc/fs/bucket"
	"atc/fs/bucket/faulty"
	"atc/fs/errors"
	"atc/fs/volume"
)

// This file defines the storm: stories in which two machines write, close, are
// killed, cut off and take over from each other, on a bucket whose requests fail
// at random. Behind each one stands the proof that what was confirmed is there,
// that what is there existed, and that one machine at a time wrote it.
//
//	ATC_SEED=17 go test -run TestStorm ./fs/mount    tells one story again
//	ATC_SOAK=10m go test -run TestStorm ./fs/mount   tells new ones for so long

const (
	stormSeeds  = 200 // in CI
	stormAtOnce = 12  // stories mostly wait
	stormSteps  = 14
	// stormLimit is how long anything in a story may take until it is a failure.
	stormLimit = 60 * time.Second
)

func TestStorm(t *testing.T) {
	seeds := make(chan uint64)
	go func() {
		defer close(seeds)
		if one, err := strconv.ParseUint(os.Getenv("ATC_SEED"), 10, 64); err == nil {
			seeds <- one
			return
		}
		soak, _ := time.ParseDuration(os.Getenv("ATC_SOAK")) // `make soak`
		first := uint64(1)
		if soak > 0 {
			first = rand.Uint64() >> 20
		}
		for n, began := uint64(0), time.Now(); n < stormSeeds || time.Since(began) < soak; n++ {
			seeds <- first + n
		}
	}()
	var wg sync.WaitGroup
	var mu sync.Mutex // protects what follows
	told, steps := 0, make(map[string]int)
	for range stormAtOnce {
		wg.Go(func() {
			for seed := range seeds {
				s := newStory(t, seed)
				s.tell()
				mu.Lock()
				told++
				for what, n := range s.did {
					steps[what] += n
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%d stories, %v", told, steps)
}

// shortLease makes owners die soon enough for a test.
func shortLease(o *volume.Options) {
	o.Heartbeat, o.Lease = 200*time.Millisecond, 800*time.Millisecond
}

// weather is what happens to requests in a storm. What a store can corrupt and a
// reader cannot notice is left alone: the objects in JSON have no checksum.
var weather = []faulty.Plan{
	{Op: faulty.Put, Before: .05, After: .05, Late: .03, Throttle: .02, Hang: .01, Delay: .1, Patience: 40 * time.Millisecond, MostDelay: 30 * time.Millisecond},
	{Op: faulty.Delete, Before: .05, After: .05, Late: .05},
	{Op: faulty.Get, Key: "*.json", Before: .02, Cut: .01, Delay: .03},
	{Before: .01, Throttle: .003, Cut: .005, Corrupt: .005, Hang: .003, Delay: .03, Patience: 40 * time.Millisecond},
}

// randomPart is what a database's folder has behind its name.
var randomPart = regexp.MustCompile(`-[a-z0-9]{16}/`)

// host is a machine with a cache folder, and a bucket that can be cut off.
type host struct {
	name   string
	cache  string
	skew   time.Duration // of its clock
	bucket *faulty.Bucket
	volume *volume.Volume // nil while it is off
	app    application
	tip    int // the last transaction that its application knows of
	acked  int // the last one whose COMMIT returned
	alone  bool
}

// story is one run.
type story struct {
	t       *testing.T
	seed    uint64
	random  *rand.Rand
	dir     string
	bare    bucket.Bucket
	bucket  *faulty.Bucket
	chaos   *faulty.Chaos
	model   *model
	hosts   []*host
	now     *host // that has the tenant
	journal string
	setup   string // pragmas of each connection

	confirmed []int // transactions that a machine said were in the bucket
	did       map[string]int

	mu  sync.Mutex // protects log
	log []string
}

// storyEnds is panicked with by what cannot go on.
type storyEnds struct{}

func newStory(t *testing.T, seed uint64) *story {
	s := &story{t: t, seed: seed, random: rand.New(rand.NewPCG(seed, 1)), model: newStormModel(), did: make(map[string]int)}
	var err error
	if s.dir, err = os.MkdirTemp(memoryFolder(), "storm"); err != nil {
		t.Fatal(err)
	}
	if s.bare, err = bucket.Open(context.Background(), "file://"+filepath.Join(s.dir, "bucket")); err != nil {
		t.Fatal(err)
	}
	s.bucket = faulty.Wrap(s.bare)
	s.chaos = s.bucket.Chaos(seed, weather...)
	s.chaos.Name = func(key string) string { return randomPart.ReplaceAllString(key, "/") }
	for i := range 2 {
		s.hosts = append(s.hosts, &host{
			name: fmt.Sprint("m", i), cache: filepath.Join(s.dir, fmt.Sprint("cache", i)),
			skew: time.Duration(s.random.Int64N(int64(2*time.Hour))) - time.Hour,
		})
	}
	s.journal = []string{"delete", "truncate", "persist", "wal", "wal"}[s.random.IntN(5)]
	s.setup = fmt.Sprintf("pragma page_size=%d; pragma synchronous=%s; pragma temp_store=memory; pragma cache_size=%d;",
		512<<s.random.IntN(4), []string{"normal", "full"}[s.random.IntN(2)], []int{5, 2000}[s.random.IntN(2)])
	if s.journal == "wal" {
		s.setup = fmt.Sprintf("pragma locking_mode=exclusive; %s pragma wal_autocheckpoint=%d;", s.setup, []int{5, 1000}[s.random.IntN(2)])
	}
	s.setup += " pragma journal_mode=" + s.journal + ";"
	return s
}

// memoryFolder is a folder on a filesystem in memory, where there is a large one,
// so that a test which syncs thousands of times does not measure the disk.
func memoryFolder() string {
	var st unix.Statfs_t
	const shm = "/dev/shm"
	if unix.Statfs(shm, &st) == nil && int64(st.Bavail)*st.Bsize > 2<<30 {
		return shm
	}
	return ""
}

func (s *story) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

// Write takes the machines' log lines.
func (s *story) Write(b []byte) (int, error) {
	s.note("    %s", strings.TrimSpace(string(b)))
	return len(b), nil
}

// fail reports what is wrong, with all that leads there, and ends the story.
func (s *story) fail(format string, args ...any) {
	for _, h := range s.hosts {
		if h.volume != nil {
			s.note("%s: %+v", h.name, h.volume.Stat("acme").Tenants)
		}
	}
	s.mu.Lock()
	log := strings.Join(s.log, "\n")
	s.mu.Unlock()
	s.t.Errorf("%s\nATC_SEED=%d tells it again; files are in %s\n%s\n%s\n%s",
		fmt.Sprintf(format, args...), s.seed, s.dir, s.setup, log, s.chaos.Log())
	panic(storyEnds{})
}

// tell runs the story and the proof.
func (s *story) tell() {
	defer func() {
		s.chaos.Calm()
		for _, h := range s.hosts {
			if h.volume != nil {
				s.kill(h)
			}
		}
		switch end := recover(); end.(type) {
		case nil:
			os.RemoveAll(s.dir)
		case storyEnds:
		default:
			panic(end)
		}
	}()
	s.start(s.hosts[0])
	for range stormSteps {
		s.step()
	}
	s.prove()
}

// step does the next thing.
func (s *story) step() {
	h := s.now
	other := s.hosts[0]
	if other == h {
		other = s.hosts[1]
	}
	type choice struct {
		weight int
		what   string
		do     func()
	}
	choices := []choice{
		{30, "commit", func() { s.commits(h, 1+s.random.IntN(4)) }},
		{12, "confirm", func() { s.confirm(h) }},
		{6, "roll back", func() { s.rollBack(h) }},
		{5, "checkpoint", func() { s.try(h, "pragma wal_checkpoint(truncate);") }},
		{3, "vacuum", func() { s.try(h, "vacuum;") }},
		{8, "connect again", func() { s.reconnect(h) }},
		{5, "idle", func() {
			s.disconnect(h)
			time.Sleep(time.Duration(s.random.IntN(60)) * time.Millisecond) // an idle close may come
			s.connect(h)
		}},
		{8, "kill", func() { s.interrupt(h); s.kill(h); s.start(h) }},
		{6, "kill, take over", func() { s.interrupt(h); s.kill(h); s.start(other) }},
		{6, "cut off, take over", func() { s.cutOff(h, other) }},
		{5, "stop", func() { s.stop(h); s.start(h) }},
		{5, "hand over", func() { s.stop(h); s.start(other) }},
		{3, "hand over, empty cache", func() { s.stop(h); s.wipe(other); s.start(other) }},
	}
	sum := 0
	for _, c := range choices {
		sum += c.weight
	}
	draw := s.random.IntN(sum)
	for _, c := range choices {
		if draw -= c.weight; draw < 0 {
			s.note("%s (on %s)", c.what, h.name)
			s.did[c.what]++
			c.do()
			return
		}
	}
}

// until tries until it is done.
func (s *story) until(what string, do func() error) {
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		err := do()
		if err == nil {
			return
		}
		if impossible, ok := err.(stateError); ok {
			s.fail("%s: a state that never existed: %v", what, impossible)
		}
		if time.Since(began) > stormLimit {
			s.fail("%s: not within %v: %v", what, stormLimit, err)
		}
	}
}

// start boots a machine and has its application read what is there. A machine
// that took the tenant over must find what was confirmed, and one that was alone
// with it everything.
func (s *story) start(h *host) {
	s.boot(h, s.bucket, s.random.IntN(2) == 0)
	s.connect(h)
	s.now = h
}

func (s *story) boot(h *host, b bucket.Bucket, patient bool) {
	h.bucket = faulty.Wrap(b)
	o := volume.Options{
		Bucket: h.bucket, Cache: h.cache, Machine: h.name,
		Logger:       slog.New(slog.NewTextHandler(s, &slog.HandlerOptions{Level: slog.LevelWarn})),
		ShipInterval: 4 * time.Millisecond, HydrateAfter: -1, CloseAfter: 20 * time.Millisecond,
		FaultTimeout: 2 * time.Second,
		Now:          func() time.Time { return time.Now().Add(h.skew) },
	}
	if patient {
		o.HydrateAfter, o.CloseAfter = time.Millisecond, time.Hour
	}
	if shortLease(&o); h.name == "fresh" { // it comes last, and nobody waits for its end
		o.Heartbeat, o.Lease = 500*time.Millisecond, 3*time.Second
	}
	var err error
	if h.volume, err = volume.Open(context.Background(), o); err != nil {
		s.fail("start %s: %v", h.name, err)
	}
}

// connect opens the database and reads which transactions it holds.
func (s *story) connect(h *host) {
	var tokens []int
	s.until("open the database on "+h.name, func() (err error) {
		v := h.volume
		t, err := v.Tenant(context.Background(), "acme")
		if errors.Is(errors.NotExist, err) {
			t, err = v.Create(context.Background(), "acme")
		}
		if err == nil {
			err = v.Take(context.Background(), "acme") // before SQLite is asked, whose failed openings cost memory
		}
		if err != nil {
			return err
		}
		a, err := openOnVolume(t, "main.sqlite3")
		if err != nil {
			return err
		}
		if _, err = a.exec(s.setup + schema); err == nil {
			tokens, err = s.model.sequence(a)
		}
		if err == nil && s.random.IntN(8) == 0 {
			err = s.model.sound(a, tokens)
		}
		if err != nil {
			a.leave()
			return err
		}
		h.app = a
		return nil
	})
	s.note("%s reads %v", h.name, tokens)
	for _, token := range s.confirmed {
		s.holds(tokens, token, "confirmed")
	}
	if h.alone && h.acked != 0 {
		s.holds(tokens, h.acked, "committed on this machine, which nobody took over from")
	}
	for _, o := range s.hosts {
		o.alone = o == h
	}
	h.tip, h.acked = 0, 0
	if len(tokens) > 0 {
		h.tip = tokens[len(tokens)-1]
		h.acked = h.tip
	}
}

// holds fails unless a transaction is among those that a database has.
func (s *story) holds(tokens []int, token int, what string) {
	for _, have := range tokens {
		if have == token {
			return
		}
	}
	s.fail("transaction %d was %s and is lost: the database has %v", token, what, tokens)
}

func (s *story) disconnect(h *host) {
	if h.app != nil {
		if err := h.app.leave(); err != nil {
			s.note("%s closes: %v", h.name, err)
		}
		h.app = nil
	}
}

func (s *story) reconnect(h *host) {
	s.disconnect(h)
	s.connect(h)
}

// try runs statements that change no row. After an error the connection is
// another one, as an application's that gives up.
func (s *story) try(h *host, statements string) {
	if _, err := h.app.exec(statements); err != nil {
		s.note("%s: %v", statements, err)
		s.reconnect(h)
	}
}

func (s *story) commits(h *host, n int) {
	for range n {
		x, statements := s.model.try(h.tip)
		s.note("%d commits %d behind %d", x.n, x.token, x.parent)
		if _, err := h.app.exec("begin immediate;" + statements + "commit;"); err != nil {
			s.note("%d has failed: %v", x.token, err)
			s.reconnect(h) // it may be there all the same
			return
		}
		h.tip, h.acked = x.token, x.token
	}
}

// rollBack has a transaction that is taken back, after some of it may have been
// written to the files.
func (s *story) rollBack(h *host) {
	_, statements := s.model.try(h.tip)
	s.try(h, "begin immediate;"+statements+"delete from pad; insert into pad select hex(randomblob(3000)) from slot; rollback;")
}

// interrupt leaves a transaction open, or nothing.
func (s *story) interrupt(h *host) {
	if s.random.IntN(2) == 0 {
		_, statements := s.model.try(h.tip)
		_, err := h.app.exec("begin immediate;" + statements + "insert into pad select hex(randomblob(3000)) from slot;")
		s.note("in the middle of a transaction (%v)", err)
	}
}

// confirm waits until the machine says that the bucket has everything. In a
// storm that may be long, and not waiting for it is part of the story.
func (s *story) confirm(h *host) {
	for until := time.Now().Add(3 * time.Second); time.Now().Before(until); time.Sleep(2 * time.Millisecond) {
		if s.confirmedNow(h) {
			return
		}
	}
	s.note("not confirmed")
}

func (s *story) confirmedNow(h *host) bool {
	if !h.volume.Shipped("acme") {
		return false
	}
	if h.acked != 0 {
		s.confirmed = append(s.confirmed, h.acked)
		s.note("%d is confirmed", h.acked)
		s.did["confirmed"]++
	}
	return true
}

// kill ends a machine as the loss of its process does: its application stops
// where it is, and nothing of it reaches the bucket any more. What closing a
// volume does that cannot reach the bucket is what a kill at that point leaves.
func (s *story) kill(h *host) {
	if h.app != nil {
		h.app.die()
		h.app = nil
	}
	h.bucket.Inject(faulty.Fault{Before: errors.Unavailable})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := h.volume.Close(ctx)
	h.volume = nil
	s.note("%s is dead (%v)", h.name, err)
}

// stop ends a machine in order. What it could not ship stays with it.
func (s *story) stop(h *host) {
	s.disconnect(h)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	err := h.volume.Close(ctx)
	h.volume = nil
	s.note("%s ends: %v", h.name, err)
	if err == nil && h.acked != 0 {
		s.confirmed = append(s.confirmed, h.acked)
		s.did["confirmed"]++
	}
}

// wipe empties a machine's cache. Whatever was in it only is lost for good.
func (s *story) wipe(h *host) {
	if err := os.RemoveAll(h.cache); err != nil {
		s.fail("empty the cache: %v", err)
	}
	h.alone = false
}

// cutOff has a machine taken over from that goes on, without its bucket. When
// the network is back it must find out, and keep what it could not ship.
func (s *story) cutOff(h, other *host) {
	cut := h.bucket.Inject(faulty.Fault{Before: errors.Unavailable})
	s.commits(h, 1+s.random.IntN(2))
	branch := h.acked
	s.start(other)
	s.commits(other, 1+s.random.IntN(2))
	cut.Remove()
	s.note("%s has its bucket again", h.name)
	if h.app != nil && s.random.IntN(2) == 0 { // it does not know yet
		x, statements := s.model.try(h.tip)
		if _, err := h.app.exec("begin immediate;" + statements + "commit;"); err == nil {
			h.tip, h.acked, branch = x.token, x.token, x.token
		}
	}
	tokens, err := s.model.sequence(other.app)
	if err != nil {
		s.reconnect(other)
		if tokens, err = s.model.sequence(other.app); err != nil {
			s.note("cannot read: %v", err)
		}
	}
	lost := err == nil && branch != 0
	for _, token := range tokens {
		lost = lost && token != branch
	}
	if lost {
		s.did["fenced"]++
		s.until(h.name+" finds out that it lost the tenant", func() error {
			if s.confirmedNow(h) {
				s.fail("%s says that the bucket has %d", h.name, h.acked)
			}
			if ts := h.volume.Stat("acme").Tenants; len(ts) != 1 || ts[0].State != "fenced" {
				return fmt.Errorf("it is not fenced")
			}
			return nil
		})
	}
	s.disconnect(h)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := h.volume.Close(ctx); err == nil && lost {
		s.fail("%s closes as if nothing had been lost", h.name)
	}
	h.volume = nil
	if lost && !kept(h.cache, branch) {
		s.fail("transaction %d was committed on %s, lost to another machine, and is not in its folder %s", branch, h.name, h.cache)
	}
}
