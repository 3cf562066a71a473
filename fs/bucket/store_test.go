package bucket_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"atc/fs/bucket"
	"atc/fs/bucket/buckettest"
	"atc/fs/bucket/s3test"
)

// Both stores keep the contract. The wrappers do in bucket/faulty.

// TestMain makes the test binary the other process of the crash tests, too.
func TestMain(m *testing.M) {
	if dir := os.Getenv(writerVariable); dir != "" {
		if err := runTask(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// noTest is the context of what outlives or is outside of a test.
func noTest() context.Context { return context.Background() }

func open(t testing.TB, url string) bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(noTest(), url)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDirectory(t *testing.T) {
	buckettest.Run(t, func(t *testing.T) bucket.Bucket {
		return open(t, "file://"+filepath.Join(t.TempDir(), "the store"))
	})
}

func TestS3(t *testing.T) {
	url := s3test.Start(t)
	var n atomic.Int64
	buckettest.Run(t, func(t *testing.T) bucket.Bucket {
		return open(t, strings.Replace(url, "?", fmt.Sprintf("/test %d?", n.Add(1)), 1))
	})
}
