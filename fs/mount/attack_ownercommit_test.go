package mount_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"atc/fs/bucket/faulty"
	"atc/fs/errors"
	"atc/fs/mount/mounttest"
	"atc/fs/volume"
)

// Each story has durability = "commit" and looks for an acknowledged commit that
// the bucket has not, or for one that failed and comes back.

func commits() volume.Options {
	return volume.Options{Commit: true, FaultTimeout: 200 * time.Millisecond}
}

// spilling is a transaction that does not fit into SQLite's cache and changes
// pages again that have gone to the log: SQLite overwrites them there and, last
// of all, writes the headers of their frames anew.
const spilling = `pragma cache_size=5; pragma cache_spill=1; begin; update t set v=randomblob(900); update t set v=randomblob(900) where i<20; update t set a='%s' where i=1; commit;`

// A commit that ends with frame headers which are written again waits for the
// bucket like any other.
func TestSpilledCommitWaitsForTheBucket(t *testing.T) {
	for _, sync := range []string{"normal", "full"} {
		t.Run(sync, func(t *testing.T) {
			dir := t.TempDir()
			b := faulty.Wrap(openBucket(t, dir))
			m := boot(t, dir, b, commits(), true)
			db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
			s := connect(t, db)
			s.exec("pragma journal_mode=wal; pragma synchronous=" + sync + `; create table t(i integer primary key, a, v);
				with recursive r(i) as (select 1 union all select i+1 from r where i<200) insert into t select i, 'first', randomblob(900) from r;`)
			before := stat(m, "main.sqlite3").TXID
			if out := s.exec(fmt.Sprintf(spilling, "acknowledged")); out != "" {
				t.Fatal(out)
			}
			if st := stat(m, "main.sqlite3"); st.TXID == before || st.PendingPages != 0 || st.InFlight {
				t.Errorf("it returned at %s (before: %s), %d pages wait", st.TXID, before, st.PendingPages)
			}
			f := b.Inject(faulty.Fault{Op: faulty.Put, Key: "*.ltx", Before: errors.Unavailable})
			if out := s.exec(fmt.Sprintf(spilling, "never")); !strings.Contains(out, "rror") {
				t.Errorf("a commit that the bucket did not confirm: %q", out)
			}
			f.Remove()
			s.exec("rollback;")
			if out := s.exec("update t set a='last' where i=2;"); out != "" {
				t.Error(out)
			}
			s.leave()
			m.stop(t)
			if got := state(t, b, "acme", "main.sqlite3", "select group_concat(a) from t where i<4"); got != "ok\nacknowledged,last,first" {
				t.Errorf("the bucket holds %q", got)
			}
		})
	}
}

// A commit has failed and the application is killed before anything follows:
// what recovers the log does not find it, and the history comes to match.
func TestKilledBehindAFailedCommit(t *testing.T) {
	for _, empty := range []bool{false, true} { // whether the log held anything before it
		for _, after := range []bool{false, true} { // whether the bucket has it
			t.Run(fmt.Sprintf("empty log %v, answer lost %v", empty, after), func(t *testing.T) {
				dir := t.TempDir()
				b := faulty.Wrap(openBucket(t, dir))
				m := boot(t, dir, b, commits(), true)
				db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
				s := connect(t, db)
				s.exec("pragma journal_mode=wal; create table t(a); create table u(a); insert into t values('first'); insert into u values(1);")
				if empty {
					s.exec("pragma wal_checkpoint(truncate);")
				}
				fault := faulty.Fault{Op: faulty.Put, Key: "*.ltx", Before: errors.Unavailable}
				if after {
					fault.Before, fault.After = 0, errors.Unavailable
				}
				f := b.Inject(fault)
				if out := s.exec("begin; insert into t values('never'); insert into u select 2 from generate_series(1,3000); commit;"); !strings.Contains(out, "rror") {
					t.Errorf("a commit that the bucket did not confirm: %q", out)
				}
				s.kill()
				if got := mounttest.SQL(t, db, "select group_concat(a) from t"); got != "first" {
					t.Errorf("recovery finds %q", got)
				}
				f.Remove()
				m.stop(t)
				if got := state(t, b, "acme", "main.sqlite3", "select group_concat(a) from t; select count(*) from u"); got != "ok\nfirst\n1" {
					t.Errorf("the bucket holds %q", got)
				}
			})
		}
	}
}

// As before, but nobody opens the database again: it is closed as the failed
// commit has left it, and the local file must be what the bucket says it is.
func TestReleasedBehindAFailedCommit(t *testing.T) {
	for _, empty := range []bool{false, true} {
		t.Run(fmt.Sprintf("empty log %v", empty), func(t *testing.T) {
			dir := t.TempDir()
			b := faulty.Wrap(openBucket(t, dir))
			o := commits()
			m := boot(t, dir, b, o, true)
			db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
			s := connect(t, db)
			s.exec("pragma journal_mode=wal; create table t(a); create table u(a); insert into t values('first'); insert into u values(1);")
			if empty {
				s.exec("pragma wal_checkpoint(truncate);")
			}
			f := b.Inject(faulty.Fault{Op: faulty.Put, Key: "*.ltx", Before: errors.Unavailable})
			if out := s.exec("begin; insert into t values('never'); insert into u select 2 from generate_series(1,3000); commit;"); !strings.Contains(out, "rror") {
				t.Errorf("a commit that the bucket did not confirm: %q", out)
			}
			s.kill()
			f.Remove()
			m.stop(t)

			m = boot(t, dir, b, o, true)
			here := mounttest.SQL(t, db, "pragma integrity_check; select group_concat(a) from t; select count(*) from u; insert into t values('last');")
			m.stop(t)
			if !strings.HasPrefix(here, "ok\n") {
				t.Errorf("here it is %q", here)
			}
			want := strings.Replace(here, "first", "first,last", 1)
			if strings.Contains(here, "never") {
				want = strings.Replace(here, "never", "never,last", 1)
			}
			if got := state(t, b, "acme", "main.sqlite3", "select group_concat(a) from t; select count(*) from u"); got != want {
				t.Errorf("the bucket holds %q, this machine held %q", got, here)
			}
		})
	}
}

// A program that commits to two databases at once is told of a commit only when
// the bucket has both parts.
func TestCommitOverTwoDatabases(t *testing.T) {
	for _, mode := range []string{"delete", "truncate", "persist"} {
		t.Run(mode, func(t *testing.T) {
			dir := t.TempDir()
			b := faulty.Wrap(openBucket(t, dir))
			m := boot(t, dir, b, commits(), true)
			folder := m.MakeTenant(t, "acme")
			s := connect(t, filepath.Join(folder, "a.db"))
			s.exec("attach '" + filepath.Join(folder, "b.db") + "' as b; pragma main.journal_mode=" + mode + "; pragma b.journal_mode=" + mode + "; create table main.t(a); create table b.u(a);")
			if out := s.exec("begin; insert into t values(1); insert into u values(1); commit;"); out != "" {
				t.Fatal(out)
			}
			f := b.Inject(faulty.Fault{Op: faulty.Put, Key: "*.ltx", Before: errors.Unavailable})
			out := s.exec("begin; insert into t values(2); insert into u values(2); commit;")
			if !strings.Contains(out, "rror") {
				t.Errorf("a commit that the bucket did not confirm: %q", out)
			}
			f.Remove()
			s.exec("rollback;")
			if out := s.exec("begin; insert into t values(3); insert into u values(3); commit;"); out != "" {
				t.Errorf("after it: %s", out)
			}
			s.leave()
			if left, err := os.ReadDir(folder); err != nil || mode == "delete" && len(left) != 2 {
				t.Errorf("left: %v, %v", left, err)
			}
			m.stop(t)
			for _, name := range []string{"a.db", "b.db"} {
				table := map[string]string{"a.db": "t", "b.db": "u"}[name]
				if got := state(t, b, "acme", name, "select group_concat(a) from "+table); got != "ok\n1,3" {
					t.Errorf("the bucket holds %q of %s", got, name)
				}
			}
		})
	}
}
