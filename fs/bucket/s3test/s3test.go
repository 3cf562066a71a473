// Package s3test runs a real S3 server, versitygw, for tests and measurements,
// and puts a network between it and its clients that is slow or breaks.
//
//	store, err := bucket.Open(t.Context(), s3test.Start(t))
//	store, err := bucket.Open(t.Context(), s3test.Slow(t, s3test.Start(t), 20*time.Millisecond))
//
// The server keeps its objects in a folder of the test and ends with it. It is
// found in the folder that the variable ATC_TOOLS names, else in atc/bin of the
// user's cache folder, where `make tools` puts it. [Run] and [NewProxy] are the same
// for who is not a test.
//
// # Limitations
//
// Start sets environment variables, so a test that calls it cannot be parallel.
package s3test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// What the server is started with.
const (
	accessKey = "ak"
	region    = "us-east-1"
	bucket    = "tenants"

	startLimit = 20 * time.Second // on a machine that is busy with other tests
)

// Start runs a server with an empty bucket until the test ends, and returns the
// bucket's URL, to which a prefix may be added in front of the "?". It sets the
// credentials for the process, and unsets what else the environment could add
// to the URL. Without a server to run it skips the test, but fails it in CI
// (CI=true).
func Start(t testing.TB) string {
	t.Helper()
	path, err := server()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no S3 server: %v; run `make tools`", err)
		}
		t.Skipf("no S3 server: %v; run `make tools`", err)
	}
	for _, name := range []string{"AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION",
		"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "BUCKET_NAME", "AWS_CA_BUNDLE"} {
		t.Setenv(name, "")
	}
	s, err := run(path, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	t.Setenv("AWS_ACCESS_KEY_ID", s.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s.SecretKey)
	return s.URL()
}

// Server is a running S3 server with one bucket.
type Server struct {
	Endpoint             string // http://127.0.0.1:port
	AccessKey, SecretKey string
	stop                 func()
}

// Run runs a server that keeps its objects below folder, with an empty bucket,
// until Close, or until this process ends.
func Run(folder string) (*Server, error) {
	path, err := server()
	if err != nil {
		return nil, fmt.Errorf("no S3 server: %w; run `make tools`", err)
	}
	return run(path, folder)
}

func run(path, folder string) (*Server, error) {
	// A secret of its own keeps a test from using another test's server that
	// took the same port.
	s := &Server{AccessKey: accessKey, SecretKey: rand.Text()}
	// Between finding a free port and the server's using it, somebody else may
	// take it.
	var failure error
	for range 5 {
		if failure = s.start(path, folder); failure == nil {
			return s, nil
		}
	}
	return nil, fmt.Errorf("starting %s: %w", path, failure)
}

// URL names the bucket as bucket.Open wants it. The credentials are not in it.
func (s *Server) URL() string {
	return fmt.Sprintf("s3://%s?endpoint=%s&region=%s", bucket, s.Endpoint, region)
}

// Close ends the server. Its folder stays.
func (s *Server) Close() { s.stop() }

// server finds the program.
func server() (string, error) {
	dir := os.Getenv("ATC_TOOLS")
	if cache, err := os.UserCacheDir(); dir == "" && err == nil {
		dir = filepath.Join(cache, "atc", "bin")
	}
	path := filepath.Join(dir, "versitygw")
	_, err := os.Stat(path)
	return path, err
}

// start runs the server on a free port and waits until it has the bucket.
func (s *Server) start(path, folder string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := l.Addr().String()
	l.Close()

	var output bytes.Buffer // read after the process ended
	cmd := exec.Command(path, "--quiet", "--keep-alive", "--port", address, "posix", folder)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey)
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = time.Second
	// It dies with the test binary, also when that is killed. The kernel ties
	// it to the thread that started it, so that thread waits for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	s.Endpoint = "http://" + address
	s.stop = func() {
		cmd.Process.Kill()
		<-ended
	}
	if err := createBucket(s.Endpoint, s.SecretKey, ended); err != nil {
		s.stop()
		return fmt.Errorf("%w\n%s", err, &output)
	}
	return nil
}

// createBucket asks until the server answers or has ended.
func createBucket(endpoint, secret string, ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	client := s3.New(s3.Options{
		BaseEndpoint: &endpoint,
		Region:       region,
		UsePathStyle: true,
		Credentials:  credentials.NewStaticCredentialsProvider(accessKey, secret, ""),
		HTTPClient:   &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
		Retryer:      aws.NopRetryer{},
	})
	for {
		_, err := client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String(bucket)})
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("it ended: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("it did not answer within %v: %w", startLimit, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
