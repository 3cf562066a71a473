package mount_test

import (
	"fmt"
	"io"
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

// commitModes are the ways in which SQLite commits, with what the table is
// called in the test.
var commitModes = []struct{ name, pragmas string }{
	{"wal normal", "pragma journal_mode=wal; pragma synchronous=normal;"},
	{"wal full", "pragma journal_mode=wal; pragma synchronous=full;"},
	{"wal exclusive", "pragma locking_mode=exclusive; pragma journal_mode=wal;"},
	{"delete", "pragma journal_mode=delete;"},
	{"truncate", "pragma journal_mode=truncate;"},
	{"persist", "pragma journal_mode=persist;"},
	{"memory", "pragma journal_mode=memory; pragma synchronous=full;"},
	{"delete extra", "pragma journal_mode=delete; pragma synchronous=extra;"},
}

// TestCommitsWaitForTheBucket has durability = "commit": when an insert returns,
// the bucket has it, though nothing is ever shipped by itself here. One that the
// bucket does not confirm fails, is not there afterwards, and is not in the
// bucket once another one has followed.
func TestCommitsWaitForTheBucket(t *testing.T) {
	for _, mode := range commitModes {
		for _, passthrough := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s passthrough %v", mode.name, passthrough), func(t *testing.T) {
				dir := t.TempDir()
				b := faulty.Wrap(openBucket(t, dir))
				m := boot(t, dir, b, volume.Options{Commit: true, FaultTimeout: 200 * time.Millisecond}, passthrough)
				db := filepath.Join(m.MakeTenant(t, "acme"), "main.sqlite3")
				s := connect(t, db)
				s.exec(mode.pragmas + " create table t(a);")
				for i := range 5 {
					if out := s.exec(fmt.Sprintf("insert into t values(%d);", i)); out != "" {
						t.Fatal(out)
					}
					if st := stat(m, "main.sqlite3"); st.PendingPages != 0 || st.InFlight || st.TXID < 2 {
						t.Fatalf("after insert %d %d pages wait, on their way %v, at %s", i, st.PendingPages, st.InFlight, st.TXID)
					}
				}
				for _, fault := range []faulty.Fault{
					{Op: faulty.Put, Key: "*.ltx", Before: errors.Unavailable},
					{Op: faulty.Put, Key: "*.ltx", After: errors.Unavailable}, // with its answer lost
				} {
					f := b.Inject(fault)
					if out := s.exec("insert into t values('never');"); !strings.Contains(out, "rror") {
						t.Errorf("a commit that the bucket did not confirm: %q", out)
					}
					f.Remove()
					if got := s.exec("select count(*) from t where a='never';"); got != "0" && !strings.Contains(got, "disk I/O") {
						t.Errorf("the commit that failed left %s rows", got)
					}
				}
				if out := s.exec("insert into t values('last');"); out != "" {
					t.Errorf("after it: %s", out)
				}
				s.leave()
				if err := m.halt(20 * time.Second); err != nil {
					t.Error(err)
				}
				if got := state(t, b, "acme", "main.sqlite3", "select group_concat(a) from t"); got != "ok\n0,1,2,3,4,last" {
					t.Errorf("the bucket holds %q", got)
				}
			})
		}
	}
}

func stat(m *machine, path string) volume.DatabaseStat {
	for _, t := range m.Volume.Stat("").Tenants {
		for _, d := range t.Databases {
			if d.Path == path {
				return d
			}
		}
	}
	return volume.DatabaseStat{}
}

// TestAcknowledgedOutlivesKill kills the daemon and throws its disk away while a
// program commits: whatever was acknowledged is in the bucket.
func TestAcknowledgedOutlivesKill(t *testing.T) {
	for _, mode := range commitModes {
		t.Run(mode.name, func(t *testing.T) {
			bucket := t.TempDir()
			for round := range 3 {
				dir := t.TempDir()
				d := startDaemon(t, dir, bucket, shipNothing, daemonEnv+"_COMMIT=1", daemonEnv+"_LEASE=300ms")
				db := d.path("acme", "main.sqlite3")
				if round == 0 {
					if err := os.Mkdir(d.path("acme"), 0o755); err != nil {
						t.Fatal(err)
					}
					mounttest.SQL(t, db, "create table t(a integer primary key);")
				}
				eventually(t, "the machine before is taken for dead", func() bool {
					_, err := mounttest.TrySQL(db, "select count(*) from t")
					return err == nil
				})
				acked := inserting(t, db, mode.pragmas, time.Duration(60+40*round)*time.Millisecond, d.kill)
				got := mounttest.SQL(t, mounttest.LitestreamRestore(t, "file://"+filepath.Join(bucket, "bucket"), "acme", "main.sqlite3"), "pragma integrity_check; select coalesce(max(a),0) from t;")
				var there int
				if _, err := fmt.Sscanf(got, "ok\n%d", &there); err != nil {
					t.Fatalf("the bucket holds %q", got)
				}
				if there < acked {
					t.Errorf("round %d: %d was acknowledged, %d is in the bucket", round, acked, there)
				}
				t.Logf("round %d: %d acknowledged, %d in the bucket", round, acked, there)
			}
		})
	}
}

// inserting commits one row after the other until end was called, which happens
// after d, and returns the last one that was acknowledged.
func inserting(t testing.TB, db, pragmas string, d time.Duration, end func()) (acked int) {
	t.Helper()
	s := connect(t, db)
	s.exec(pragmas)
	var script strings.Builder
	for range 20000 {
		script.WriteString("insert into t select coalesce(max(a),0)+1 from t returning a;\n")
	}
	go func() {
		_, _ = io.WriteString(s.in, script.String()) // ends when the program is killed
	}()
	time.AfterFunc(d, func() {
		end()
		_ = s.cmd.Process.Kill()
	})
	for s.out.Scan() {
		var n int
		if _, err := fmt.Sscan(s.out.Text(), &n); err != nil {
			break
		}
		acked = n
	}
	return acked
}
