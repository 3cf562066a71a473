package database

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"atc/fs/bucket/faulty"
	"atc/fs/bucket/s3test"
	"atc/fs/history"
)

// downloads is how many reads the plain download has under way.
const downloads = 4

// BenchmarkColdScan reads a database of 256 MiB cold, in order, in reads of 128
// KiB, with 20 ms of latency a request, and beside it downloads the same bytes in
// parallel into a file, with nothing else done to them. The store is a server on this machine.
func BenchmarkColdScan(b *testing.B) {
	s := storeIn(b, s3test.Start(b), rows(1_250_000))
	s.bucket.Inject(faulty.Fault{Latency: 20 * time.Millisecond})
	b.Run("scan", func(b *testing.B) {
		b.SetBytes(int64(len(s.file)))
		for b.Loop() {
			before := s.counts.Snapshot()
			db := s.cold(b)
			for off := int64(0); off < int64(len(s.file)); off += 128 << 10 {
				if err := db.Ensure(b.Context(), off, 128<<10); err != nil {
					b.Fatal(err)
				}
			}
			used := s.counts.Snapshot().Sub(before)
			b.ReportMetric(float64(used.Get), "GETs")
			b.ReportMetric(float64(used.BytesIn)/float64(used.Get)/(1<<20), "MiB/GET")
			if err := db.Abandon(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("download", func(b *testing.B) {
		b.SetBytes(int64(len(s.file)))
		log := s.log()
		for b.Loop() {
			file, err := os.Create(filepath.Join(b.TempDir(), "download"))
			if err != nil {
				b.Fatal(err)
			}
			var wg sync.WaitGroup
			slots := make(chan struct{}, downloads)
			for off := int64(0); off < int64(len(s.file)); off += maxRead {
				slots <- struct{}{}
				wg.Go(func() {
					defer func() { <-slots }()
					data, err := log.ReadPages(b.Context(), history.FileRef{Min: 1, Max: 1}, off, maxRead)
					if err == nil {
						_, err = file.WriteAt(data, off)
					}
					if err != nil {
						b.Error(err)
					}
				})
			}
			wg.Wait()
			if err := file.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
