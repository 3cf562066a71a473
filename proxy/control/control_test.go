package control

import (
	"context"
	"encoding/json"
	stderrors "errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"atc/fs/errors"
)

// world is a filesystem and its instances with one tenant, acme.
type world struct {
	asked atomic.Value // the last pattern
	fail  error
}

func (w *world) Stat(_ context.Context, pattern string) (FSStat, error) {
	w.asked.Store(pattern)
	if id, _, _ := strings.Cut(pattern, "/"); id != "" && id != "acme" {
		return FSStat{}, errors.E("stat", pattern, errors.NotExist, nil)
	}
	return example, w.fail
}

func (w *world) Instances(context.Context) ([]InstanceStat, error) {
	return []InstanceStat{{Tenant: "acme", ID: "r1", State: Ready, PID: 42, Leases: 1, Started: example.Tenants[0].Databases[0].Shipped}}, nil
}

var example = FSStat{
	Lease:   "valid",
	Lost:    []LostStat{{Tenant: "hooli", At: time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC), Epoch: 4, Folder: "/cache/lost/hooli", Pages: 3}},
	Machine: "m1", Session: "s1", Mountpoint: "/data", Cache: "/cache", Store: "file:///bucket",
	Bucket: BucketStat{Get: 3, Put: 4, List: 1, Failed: 1, BytesIn: 5000, BytesOut: 6 << 20},
	Tenants: []TenantStat{
		{
			ID: "acme", State: Open, Epoch: 7, Files: FilesStat{Count: 3, Pending: 1}, Opening: &OpeningStat{Record: 21.5, Acquire: 24, Took: 26},
			Databases: []DatabaseStat{{
				Path: "main.sqlite3", PageSize: 4096, Pages: 1000, PagesPresent: 250, Mode: WAL, Passthrough: true,
				TXID: 19, Shipped: time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC),
				PendingPages: 2, PendingBytes: 8192, PendingSince: time.Date(2026, 11, 21, 10, 0, 58, 0, time.UTC),
				Faults: 12, FaultP50: 1.5, FaultP99: 20.25, FaultedBytes: 1 << 20, CorruptPages: 1,
				Waiting: []WaitStat{
					{Writers: 2, Since: time.Date(2026, 11, 21, 10, 0, 48, 0, time.UTC), Why: "the spool is full (64 MiB)"},
					{Writers: 1, Since: time.Date(2026, 11, 21, 10, 0, 59, 0, time.UTC), Why: "durability is commit"},
				},
				Degraded: []string{"synchronous=OFF"}, Bucket: BucketStat{Get: 3},
				Cold: &ColdStat{WithTenant: true, Index: 24.5, Hot: 9, HotPages: 660, FirstFault: 26.25, Requests: 3, Bytes: 320 << 10, RoundTrips: 3},
			}, {Path: "evil\x1b[2J\n.db", Mode: NoMode}, {Path: "new.db", Mode: NoMode, Cold: &ColdStat{}}},
		},
		{ID: "initech", State: Unopened, Databases: []DatabaseStat{}},
		{ID: "globex", State: Fenced, Epoch: 2, Databases: []DatabaseStat{}},
	},
}

// start serves on a socket in a fresh folder until the test ends.
func start(t *testing.T, path string, s *Server) (stop func() error) {
	t.Helper()
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	stop = func() error {
		cancel()
		err := <-done
		done <- err
		return err
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return stop
}

func connect(t *testing.T, path string) *Client {
	t.Helper()
	c, err := Dial(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestClientGetsWhatTheServerHas(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	w := &world{}
	start(t, path, &Server{Health: Health{Machine: "m1", PID: 7}, Filesystem: w, Instances: w})
	c, ctx := connect(t, path), context.Background()

	if h, err := c.Health(ctx); err != nil || h != (Health{Status: "ok", Machine: "m1", PID: 7}) {
		t.Errorf("%+v %v", h, err)
	}
	for _, pattern := range []string{"", "acme", "acme/main.sqlite3", "acme/a folder/ö&=?#.db"} {
		s, err := c.Stat(ctx, pattern)
		if err != nil || !reflect.DeepEqual(s, example) {
			t.Errorf("%q: %v\n%+v", pattern, err, s)
		}
		if got := w.asked.Load(); got != pattern {
			t.Errorf("asked for %q, not %q", got, pattern)
		}
	}
	list, err := c.Instances(ctx)
	if err != nil || len(list) != 1 || list[0].State != Ready || list[0].PID != 42 {
		t.Errorf("%+v %v", list, err)
	}
}

func TestErrorsKeepTheirKind(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	w := &world{}
	start(t, path, &Server{Filesystem: w})
	c, ctx := connect(t, path), context.Background()
	for pattern, kind := range map[string]errors.Kind{
		"nobody": errors.NotExist, "nobody/main.sqlite3": errors.NotExist,
		"UPPER": errors.Invalid, "../etc": errors.Invalid, "/main.sqlite3": errors.Invalid, "acme/": errors.Invalid, "acme/a\x00b": errors.Invalid,
	} {
		if _, err := c.Stat(ctx, pattern); !errors.Is(kind, err) {
			t.Errorf("%q: %v is of kind %v, want %v", pattern, err, errors.KindOf(err), kind)
		}
	}
	for kind := errors.Other; kind <= errors.Canceled; kind++ {
		w.fail = errors.E("stat", "acme", kind, fmt.Errorf("because"))
		_, err := c.Stat(ctx, "acme")
		if errors.KindOf(err) != kind || err.Error() != w.fail.Error() {
			t.Errorf("%v came as %v, of kind %v", w.fail, err, errors.KindOf(err))
		}
	}
	if _, err := c.Instances(ctx); !errors.Is(errors.Unsupported, err) {
		t.Errorf("instances that are not served: %v", err)
	}
}

func TestWrongRequestsGetJSONErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	w := &world{}
	start(t, path, &Server{Filesystem: w, Instances: w})
	c := connect(t, path)
	for _, r := range []struct {
		method, target string
		status         int
	}{
		{"GET", "/", 404}, {"GET", "/v1", 404}, {"GET", "/v1/fs/stat/", 404}, {"GET", "/v1/../v1/health/x", 404},
		{"POST", "/v1/fs/stat", 405}, {"DELETE", "/v1/instances", 405},
		{"GET", "/v1/fs/stat?tenant=Not+valid", 400}, {"GET", "/v1/fs/stat?tenants=acme", 400},
		{"GET", "/v1/fs/stat?tenant=acme&tenant=globex", 400}, {"GET", "/v1/fs/stat?tenant=", 400}, {"GET", "/v1/fs/stat?database=x", 400},
		{"GET", "/v1/fs/stat?tenant=acme", 200}, {"GET", "/v1/health", 200}, {"HEAD", "/v1/health", 200},
	} {
		req, err := http.NewRequest(r.method, "http://atc"+r.target, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		var f failure
		if r.method != "HEAD" && json.Unmarshal(body, &f) != nil || res.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: no JSON: %s", r.method, r.target, body)
		}
		if res.StatusCode != r.status || (f.Error.Message != "") != (r.status >= 400) {
			t.Errorf("%s %s: status %d, want %d: %s", r.method, r.target, res.StatusCode, r.status, body)
		}
	}
}

// What tools read must not change by accident.
func TestJSONNames(t *testing.T) {
	for _, message := range []any{Health{}, FSStat{}, LostStat{}, BucketStat{}, TenantStat{}, OpeningStat{}, ColdStat{}, FilesStat{}, DatabaseStat{}, InstanceStat{}} {
		typ := reflect.TypeOf(message)
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if name == "" || strings.ToLower(name) != name || strings.Contains(name, "-") {
				t.Errorf("%s.%s is called %q", typ.Name(), typ.Field(i).Name, name)
			}
		}
	}
	b, err := json.Marshal(DatabaseStat{Path: "a", TXID: 3})
	want := `{"path":"a","page_size":0,"pages":0,"pages_present":0,"mode":"","passthrough":false,"txid":3,"pending_pages":0,"pending_bytes":0,` +
		`"faults":0,"fault_p50_ms":0,"fault_p99_ms":0,"faulted_bytes":0,"corrupt_pages":0,` +
		`"bucket":{"get":0,"put":0,"list":0,"copy":0,"delete":0,"failed":0,"bytes_in":0,"bytes_out":0}}`
	if string(b) != want || err != nil {
		t.Errorf("got  %s\nwant %s", b, want)
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	if err := writeTable(&b, example, time.Date(2026, 11, 21, 10, 1, 0, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	want := `machine m1, session s1
mount   /data
cache   /cache
store   file:///bucket
bucket  3 get, 4 put, 1 list, 0 copy, 0 delete, 1 failed; 4.9 KiB in, 6.0 MiB out
lease   valid

TENANT   STATE     EPOCH  DATABASE            MODE              TXID  SHIPPED  PENDING               PAGES           FAULTS  P50/P99      FETCHED  REQUESTS
acme     open      7      main.sqlite3        wal, passthrough  19    60s      2 pages, 8.0 KiB, 2s  250/1000 (25%)  12      1.5/20.2 ms  1.0 MiB  3
acme     open      7      "evil\x1b[2J\n.db"  none              0     -        -                     0               0       -            0 B      0
acme     open      7      new.db              none              0     -        -                     0               0       -            0 B      0
initech  unopened  0      -                                                                                                                        0
globex   fenced    2      -                                                                                                                        0

OPENED             RECORD   ACQUIRE  INDEX    HOT PACK           FIRST FAULT  FETCHED    REQUESTS  ROUND TRIPS
acme/main.sqlite3  21.5 ms  24.0 ms  24.5 ms  9.0 ms, 660 pages  26.2 ms      320.0 KiB  3         3

acme/main.sqlite3: 1 pages from the bucket were corrupt
acme/main.sqlite3: waiting: 2 writers for 12s: the spool is full (64 MiB)
acme/main.sqlite3: waiting: 1 writer for 1s: durability is commit
acme/main.sqlite3: degraded: synchronous=OFF
acme: 1 of 3 plain files are not shipped yet
globex: another machine has taken it over
hooli: lost 60s ago in epoch 4; 3 captured pages and what else was not shipped are kept in /cache/lost/hooli
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestServeEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	stop := start(t, path, &Server{})
	connect(t, path)
	conn, err := net.Dial("unix", path) // says nothing and stays
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := stop(); err != nil {
		t.Error(err)
	}
	conn.SetReadDeadline(time.Now().Add(time.Second)) // below ReadHeaderTimeout, which closes it too
	if _, err := conn.Read(make([]byte, 1)); err == nil || stderrors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a silent client's connection is open: %v", err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
	if _, err := Dial(context.Background(), path); !errors.Is(errors.NotExist, err) {
		t.Errorf("Dial: %v", err)
	}
}
