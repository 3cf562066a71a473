package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/mount/mounttest"
)

// This file kills atc with durability = "commit", again and again, under programs
// that commit, and sometimes throws its disk away. What was acknowledged has to be
// in the bucket before anything starts again.

const (
	durableKills    = 42 // of each journal mode, of which there are five
	litestreamEvery = 10
)

func TestAcknowledgedIsInTheBucketAtEveryKill(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("ATC_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("ATC_SEED=%d", seed)
	for i, mode := range []durableMode{{"wal", "normal"}, {"wal", "full"}, {"delete", "full"}, {"truncate", "normal"}, {"persist", "full"}} {
		t.Run(mode.journal+" "+mode.sync, func(t *testing.T) {
			t.Parallel()
			s := newDurable(t, mode, rand.New(rand.NewPCG(seed, uint64(i))))
			for range durableKills {
				s.round()
			}
			s.end()
			t.Logf("%d kills, %d of them with the disk lost, %d before anything was acknowledged; %s rows, %d of them acknowledged",
				s.kills, s.lostDisks, s.early, s.rows(s.inBucket()), s.acked.Load())
			if s.kills < durableKills || s.early > s.kills*3/4 || s.acked.Load() < durableKills/4 {
				t.Error("that is too little to prove anything")
			}
		})
	}
}

type durableMode struct{ journal, sync string }

// durable is one machine after the other that has the tenant.
type durable struct {
	t      *testing.T
	mode   durableMode
	random *rand.Rand
	dir    string
	bucket bucket.Bucket

	disk    int    // counts the cache folders
	machine string // the name of the machine
	acked   atomic.Int64

	kills, lostDisks, early int
}

func newDurable(t *testing.T, mode durableMode, random *rand.Rand) *durable {
	dir := t.TempDir()
	b, err := bucket.Open(t.Context(), "file://"+filepath.Join(dir, "bucket"))
	if err != nil {
		t.Fatal(err)
	}
	s := &durable{t: t, mode: mode, random: random, dir: dir, bucket: b, machine: "m0"}
	p := s.start()
	if err := os.Mkdir(filepath.Join(dir, "mnt", "acme"), 0o755); err != nil {
		t.Fatal(err)
	}
	mounttest.SQL(t, s.db(), "pragma journal_mode="+mode.journal+"; create table w(n integer primary key, v blob);")
	p.interrupt(t)
	return s
}

func (s *durable) db() string { return filepath.Join(s.dir, "mnt", "acme", "main.sqlite3") }

func (s *durable) launch() *process {
	return launch(s.t, s.dir, exec.Command(atcPath(s.t), "mount", "--durability", "commit",
		"--store", "file://"+filepath.Join(s.dir, "bucket"), "--cache", filepath.Join(s.dir, fmt.Sprint("cache", s.disk)),
		"--machine", s.machine, "--heartbeat", "400ms", "--lease", "1500ms", filepath.Join(s.dir, "mnt")))
}

func (s *durable) start() *process {
	p := s.launch()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(p.text(), "msg=mounted"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("atc does not mount\n%s", p.text())
		}
	}
	return p
}

// wait is a random time of less than d.
func (s *durable) wait(d time.Duration) { time.Sleep(time.Duration(s.random.Int64N(int64(d)))) }

// round starts atc and programs that commit, kills all of it at some moment, and
// compares.
func (s *durable) round() {
	s.kills++
	before := s.acked.Load()
	if s.random.IntN(10) == 0 { // while it starts
		p := s.launch()
		s.wait(150 * time.Millisecond)
		p.kill()
	} else {
		p := s.start()
		writers := []*durableWriter{s.writer()}
		if s.mode.journal == "wal" {
			writers = append(writers, s.writer())
		}
		if s.random.IntN(4) > 0 { // mostly when it has begun
			for until := time.Now().Add(10 * time.Second); s.acked.Load() == before && time.Now().Before(until); time.Sleep(2 * time.Millisecond) {
				select {
				case <-writers[0].read: // the machine before is not taken for dead yet
					time.Sleep(50 * time.Millisecond)
					writers = append([]*durableWriter{s.writer()}, writers...)
				default:
				}
			}
		}
		s.wait(150 * time.Millisecond)
		p.kill()
		for _, w := range writers {
			if s.random.IntN(2) == 0 {
				_ = w.cmd.Process.Kill() // else it may find out first
			}
		}
		for _, w := range writers {
			_ = w.cmd.Process.Kill()
			_ = w.cmd.Wait()
			<-w.read
		}
	}
	if s.acked.Load() == before {
		s.early++
	}
	path := s.inBucket()
	if s.kills%litestreamEvery == 0 {
		path = mounttest.LitestreamRestore(s.t, "file://"+filepath.Join(s.dir, "bucket"), "acme", "main.sqlite3")
	}
	s.compare(path)
	if s.random.IntN(5) == 0 {
		if err := os.RemoveAll(filepath.Join(s.dir, fmt.Sprint("cache", s.disk))); err != nil {
			s.t.Fatal(err)
		}
		s.lostDisks++
		if s.disk++; s.random.IntN(2) == 0 { // another machine
			s.machine = fmt.Sprint("m", s.disk)
		}
	}
}

// durableWriter is a program that commits rows.
type durableWriter struct {
	cmd  *exec.Cmd
	read chan struct{} // closed when all that it said was read
}

// writer starts such a program, and notes the last row whose COMMIT returned.
func (s *durable) writer() *durableWriter {
	cmd := exec.Command(mounttest.SQLLoad(s.t), "writer", s.db(), s.mode.journal, s.mode.sync)
	r, w, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	w.Close()
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer r.Close()
		for lines := bufio.NewScanner(r); lines.Scan(); {
			n, err := strconv.ParseInt(strings.TrimSpace(lines.Text()), 10, 64)
			for last := s.acked.Load(); err == nil && n > last && !s.acked.CompareAndSwap(last, n); last = s.acked.Load() {
			}
		}
	}()
	return &durableWriter{cmd, read}
}

func (s *durable) inBucket() string {
	return mounttest.Restore(s.t, s.bucket, "acme", "main.sqlite3")
}

func (s *durable) rows(path string) string {
	return mounttest.SQL(s.t, path, "select count(*) from w")
}

// compare fails unless a copy of the database is sound and has every row that was
// acknowledged, and each as its transaction left it.
func (s *durable) compare(path string) {
	s.t.Helper()
	acked := s.acked.Load()
	got := mounttest.SQL(s.t, path, fmt.Sprintf(
		"pragma integrity_check; select coalesce(max(n),0)>=%d, count(*)=coalesce(max(n),0), count(*)=sum(length(v)=1000) from w;", acked))
	if got != "ok\n1|1|1" && !(acked == 0 && got == "ok\n1|1|") {
		s.t.Fatalf("kill %d, acknowledged up to %d: sound; there, without a gap, whole: %q", s.kills, acked, got)
	}
}

// end starts atc for the last time: what is here is what the bucket has.
func (s *durable) end() {
	p := s.start()
	query := "select count(*), max(n) from w; select hex(v) from w;"
	here, err := "", error(nil)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if here, err = mounttest.TrySQL(s.db(), query); err == nil || time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		s.t.Fatalf("%v: %.300s", err, here)
	}
	s.compare(s.db())
	p.interrupt(s.t)
	if got := mounttest.SQL(s.t, s.inBucket(), query); got != here {
		s.t.Error("the bucket holds another database than the machine")
	}
}
