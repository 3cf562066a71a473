package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"atc/fs/bucket"
	"atc/fs/bucket/s3test"
)

// This file measures cold opens: a machine without any local file, behind a
// store that takes 20 ms to answer, against what litestream needs for the same
// answer. The store is a real S3 server on this machine; between it and
// everybody stands a proxy that makes each request wait.

const (
	storeLatency = 20 * time.Millisecond

	coldRows = 9_475_000 // of 100 random bytes: 1 GiB
	scanRows = 2_425_000 // a quarter of that

	maxTrips        = 3       // before the first answer
	maxFirstBytes   = 1 << 20 // until then
	minBandwidth    = 0.6     // of one plain download by several connections
	scanGetsOver    = 50      // beyond one per MiB
	downloadPart    = 4 << 20
	downloadAtATime = 8
)

// coldBench is a store with two databases that nobody has open.
type coldBench struct {
	ctx    context.Context
	dir    string
	server *s3test.Server
	proxy  *s3test.Proxy
	load   string
	store  string    // by way of the proxy
	warm   []float64 // milliseconds of a SELECT with everything open
	short  int
}

func runCold(ctx context.Context, dir, load string) (short int, err error) {
	c := &coldBench{ctx: ctx, dir: dir, load: load}
	objects := filepath.Join(dir, "objects")
	if err := os.MkdirAll(objects, 0o755); err != nil {
		return 0, err
	}
	if c.server, err = s3test.Run(objects); err != nil {
		return 0, err
	}
	defer c.server.Close()
	os.Setenv("AWS_ACCESS_KEY_ID", c.server.AccessKey)
	os.Setenv("AWS_SECRET_ACCESS_KEY", c.server.SecretKey)
	if c.proxy, err = s3test.NewProxy(c.server.Endpoint); err != nil {
		return 0, err
	}
	defer c.proxy.Close()
	c.store = c.proxy.Through(c.server.URL())
	for name, rows := range map[string]int{"cold": coldRows, "scan": scanRows} {
		fmt.Fprintf(os.Stderr, "bench: making %s.db with %d rows\n", name, rows)
		if err := c.fill(name, rows); err != nil {
			return 0, err
		}
	}
	c.proxy.SetLatency(storeLatency)
	fmt.Printf("\n| cold open, %s a request | atc | wanted | compared with |\n|---|---:|---:|---|\n", storeLatency)
	for _, step := range []func() error{c.first, c.scan} {
		if err := step(); err != nil {
			return c.short, err
		}
	}
	return c.short, nil
}

// fill makes a tenant with one database, and ships it.
func (c *coldBench) fill(name string, rows int) error {
	local := filepath.Join(c.dir, name+".db")
	if _, err := output(c.ctx, c.load, "fill", local, fmt.Sprint(rows), "wal"); err != nil {
		return err
	}
	defer os.Remove(local)
	m, err := mountStore(c.ctx, c.store, filepath.Join(c.dir, "making-"+name), false, name)
	if err != nil {
		return err
	}
	defer os.RemoveAll(filepath.Join(c.dir, "making-"+name))
	if err := os.Mkdir(m.tenant, 0o755); err != nil {
		m.close()
		return err
	}
	if err := copyFile(local, filepath.Join(m.tenant, "main.db")); err != nil {
		m.close()
		return err
	}
	return m.close()
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// cold mounts on an empty cache folder.
func (c *coldBench) cold(name string) (m *mounted, dir string, err error) {
	if dir, err = os.MkdirTemp(c.dir, "cold-"); err != nil {
		return nil, "", err
	}
	m, err = mountStore(c.ctx, c.store, dir, true, name)
	return m, dir, err
}

// row prints a line of the table.
func (c *coldBench) row(what, got, wanted string, ok bool, compared string) {
	if !ok {
		wanted += " (missed)"
		c.short++
	}
	fmt.Printf("| %s | %s | %s | %s |\n", what, got, wanted, compared)
}

// first asks for one row by its key: of a database that was never here, and then
// again after a restart.
func (c *coldBench) first() error {
	const rounds = 5
	var took, trips, bytes, gets []float64
	var parts []string
	for n := range rounds {
		m, dir, err := c.cold("cold")
		if err != nil {
			return err
		}
		before := m.volume.Stat("").Bucket
		began := time.Now()
		// A key that no earlier session has asked for.
		if _, err = c.sql(m, fmt.Sprintf("select length(v) from kv where k=%d", 1_234_567+n*1_111_111)); err != nil {
			m.close()
			return err
		}
		took = append(took, time.Since(began).Seconds()*1000)
		trips = append(trips, float64(m.store.trips(began)))
		used := m.volume.Stat("").Bucket.Sub(before)
		bytes = append(bytes, float64(used.BytesIn))
		gets = append(gets, float64(used.Get))
		parts = append(parts, m.opened("cold"))
		if err := m.close(); err != nil {
			return err
		}
		if n == 0 {
			if err := c.second(dir); err != nil {
				return err
			}
		}
		os.RemoveAll(dir)
	}
	restore, err := c.litestream("cold")
	if err != nil {
		return err
	}
	c.row("first SELECT by key, 1 GiB", fmt.Sprintf("%.0f ms (%.0f ms with everything here), %.0f round trips", median(took), median(c.warm), median(trips)),
		fmt.Sprintf("%d round trips", maxTrips), median(trips) <= maxTrips,
		fmt.Sprintf("litestream restore and SELECT: %.1f s", restore.Seconds()))
	c.row("bytes until then", fmt.Sprintf("%.0f KiB in %.0f GETs", median(bytes)/1024, median(gets)), "1024 KiB", median(bytes) <= maxFirstBytes, "")
	c.row("as `atc fs stat` tells it, the last time", parts[len(parts)-1], "", true, "")
	return nil
}

// opened is the breakdown of a cold opening.
func (m *mounted) opened(tenant string) string {
	var b strings.Builder
	ms := func(what string, d time.Duration) { fmt.Fprintf(&b, "%s %.0f ms, ", what, d.Seconds()*1000) }
	for _, t := range m.volume.Stat(tenant).Tenants {
		ms("record", t.Opening.Record)
		ms("acquire", t.Opening.Acquire)
		for _, d := range t.Databases {
			ms("beside it the index", d.Cold.Index)
			ms("hot pack", d.Cold.Hot)
			ms("first fault", d.Cold.FirstFault)
			fmt.Fprintf(&b, "%d KiB, %d round trips", d.Cold.Bytes>>10, d.RoundTrips())
		}
	}
	return b.String()
}

// second opens what is here already.
func (c *coldBench) second(dir string) error {
	m, err := mountStore(c.ctx, c.store, dir, true, "cold")
	if err != nil {
		return err
	}
	defer m.close()
	if _, err := c.sql(m, "select length(v) from kv where k=1234567"); err != nil {
		return err
	}
	fetched := int64(0)
	for _, t := range m.volume.Stat("cold").Tenants {
		for _, d := range t.Databases {
			fetched += d.FetchedPages
		}
	}
	for range 5 { // the same with everything open: what is not the store's
		began := time.Now()
		if _, err := c.sql(m, "select length(v) from kv where k=1234567"); err != nil {
			return err
		}
		c.warm = append(c.warm, time.Since(began).Seconds()*1000)
	}
	c.row("second opening on the same machine", fmt.Sprintf("%d pages fetched", fetched), "0", fetched == 0, "")
	return nil
}

// scan reads a whole table.
func (c *coldBench) scan() error {
	const rounds = 3
	var ratios, kept, speeds []float64
	var gets, size int64
	for range rounds {
		m, dir, err := c.cold("scan")
		if err != nil {
			return err
		}
		before := m.volume.Stat("").Bucket
		began := time.Now()
		if _, err := c.sql(m, "select sum(length(v)) from kv"); err != nil {
			m.close()
			return err
		}
		took := time.Since(began)
		used := m.volume.Stat("").Bucket.Sub(before)
		if info, err := os.Stat(filepath.Join(m.tenant, "main.db")); err == nil {
			size = info.Size()
		}
		if err := m.close(); err != nil {
			return err
		}
		os.RemoveAll(dir)
		plain, err := c.download("scan", filepath.Join(c.dir, "downloaded"))
		if err != nil {
			return err
		}
		memory, err := c.download("scan", "")
		if err != nil {
			return err
		}
		gets = used.Get
		speeds = append(speeds, float64(size)/took.Seconds()/(1<<20))
		ratios = append(ratios, plain.Seconds()/took.Seconds())
		kept = append(kept, memory.Seconds()/took.Seconds())
	}
	mib := size >> 20
	c.row(fmt.Sprintf("full scan of %d MiB", mib), fmt.Sprintf("%d GETs", gets), fmt.Sprintf("%d", mib+scanGetsOver), gets <= mib+scanGetsOver, "")
	c.row("its bandwidth", fmt.Sprintf("%.0f MiB/s, %.2f", median(speeds), median(ratios)), fmt.Sprint(minBandwidth), median(ratios) >= minBandwidth,
		fmt.Sprintf("one parallel download of the same objects into a file; %.2f of one that keeps them in memory", median(kept)))
	return nil
}

// sql asks the sqlite3 program.
func (c *coldBench) sql(m *mounted, statement string) (string, error) {
	return output(c.ctx, "sqlite3", filepath.Join(m.tenant, "main.db"), statement)
}

// files lists the LTX files of a tenant's database.
func (c *coldBench) files(b bucket.Bucket, tenant string) (files []bucket.Entry, folder string, err error) {
	for e, err := range b.List(c.ctx, "tenants/"+tenant+"/db/", bucket.ListOptions{}) {
		if err != nil {
			return nil, "", err
		}
		if strings.HasSuffix(e.Key, ".ltx") {
			files = append(files, e)
			folder = filepath.Dir(filepath.Dir(e.Key))
		}
	}
	return files, folder, nil
}

// download reads the same objects as fast as several connections can, into a
// file as a person would, or into memory that is used again.
func (c *coldBench) download(tenant, path string) (time.Duration, error) {
	b, err := bucket.Open(c.ctx, c.store)
	if err != nil {
		return 0, err
	}
	files, _, err := c.files(b, tenant)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	var out *os.File
	if path != "" {
		if out, err = os.Create(path); err != nil {
			return 0, err
		}
		defer os.Remove(path)
		defer out.Close()
	}
	var (
		wg    sync.WaitGroup
		slots = make(chan struct{}, downloadAtATime)
		mu    sync.Mutex // protects first
		first error
		base  int64 // where the object begins in out
	)
	for _, f := range files {
		for off := int64(0); off < f.Size; off += downloadPart {
			wg.Add(1)
			slots <- struct{}{}
			go func() {
				defer func() { <-slots; wg.Done() }()
				data, _, err := b.GetRange(c.ctx, f.Key, off, downloadPart, "")
				if err == nil && out != nil {
					_, err = out.WriteAt(data, base+off)
				}
				if err != nil {
					mu.Lock()
					first = err
					mu.Unlock()
				}
			}()
		}
		wg.Wait()
		base += f.Size
	}
	return time.Since(began), first
}

// litestream restores the database and asks the copy.
func (c *coldBench) litestream(tenant string) (time.Duration, error) {
	program := filepath.Join(os.Getenv("ATC_TOOLS"), "litestream-v0.5.15", "litestream")
	if _, err := os.Stat(program); err != nil {
		return 0, fmt.Errorf("no litestream: %w; run `make bench`", err)
	}
	b, err := bucket.Open(c.ctx, c.store)
	if err != nil {
		return 0, err
	}
	_, folder, err := c.files(b, tenant)
	if err != nil {
		return 0, err
	}
	address, query, _ := strings.Cut(c.store, "?")
	out := filepath.Join(c.dir, "restored.db")
	defer os.Remove(out)
	began := time.Now()
	cmd := exec.CommandContext(c.ctx, program, "restore", "-o", out, address+"/"+folder+"?"+query+"&force-path-style=true")
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "AWS_CA_BUNDLE=") }) // it refuses to start with it
	if text, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("litestream restore: %w\n%s", err, text)
	}
	if _, err := output(c.ctx, "sqlite3", out, "select length(v) from kv where k=1234567"); err != nil {
		return 0, err
	}
	return time.Since(began), nil
}
