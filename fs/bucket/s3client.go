package bucket

import (
	"context"
	stderrors "errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"atc/fs/errors"
)

// How the SDK is set up: where credentials come from, how long anything may
// take and how often it is tried. The numbers stand together here, because
// only together they bound how long a request can keep its caller: about a
// minute when the bucket never answers, less when ctx ends before.

const (
	// A handshake is one round trip or two; a host that takes longer is gone.
	dialTimeout = 5 * time.Second
	tlsTimeout  = 5 * time.Second

	// An attempt is given up when no byte moved for so long, in either
	// direction. A limit for the whole attempt would have to fit a heartbeat
	// and 5 GiB alike.
	stallTimeout = 15 * time.Second

	// A server-side copy may say nothing until it is done.
	copyTimeout = 5 * time.Minute

	// One attempt and three retries outlast a restarting server or a throttled
	// second. More would hide an outage from callers, who have their own queues.
	maxAttempts = 4

	// The pause before retry n is random between zero and backoffFirst<<n, so
	// that many databases do not come back at the same instant.
	backoffFirst = 100 * time.Millisecond
	backoffMost  = 3 * time.Second

	// Finding credentials may ask a metadata or token service, once.
	credentialsTimeout = 10 * time.Second

	// Connections kept for reuse: parallel page reads of several databases.
	idleConnections = 64
)

// retryCodes are the answers that pass, besides those which the SDK knows.
// Both are S3's for two conditional writes that ran into each other.
var retryCodes = map[string]struct{}{"ConditionalRequestConflict": {}, "OperationAborted": {}}

// retryStatus are the statuses that pass.
var retryStatus = map[int]struct{}{408: {}, 429: {}, 500: {}, 502: {}, 503: {}, 504: {}}

// newTransport is what sends the requests.
func newTransport() aws.HTTPClient {
	client := awshttp.NewBuildableClient().
		WithReadTimeout(0). // it would cut uploads that take longer
		WithDialerOptions(func(d *net.Dialer) { d.Timeout = dialTimeout }).
		WithTransportOptions(func(t *http.Transport) {
			t.TLSHandshakeTimeout = tlsTimeout
			t.MaxIdleConns, t.MaxIdleConnsPerHost = idleConnections, idleConnections
			// With HTTP/2 one stalled connection would stall every request.
			t.ForceAttemptHTTP2 = false
		})
	return &stallClient{client: client, timeout: stallTimeout}
}

// newClient makes the SDK's client for c.
func newClient(c s3Config, provider aws.CredentialsProvider, transport aws.HTTPClient) *s3.Client {
	options := s3.Options{
		Region:       c.region,
		Credentials:  provider,
		HTTPClient:   transport,
		Retryer:      newRetryer(),
		UsePathStyle: c.pathStyle(),
		// By default the SDK adds CRC trailers in aws-chunked encoding, which
		// several servers do not read. The signature covers each body's
		// SHA-256 as it is.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
	}
	if c.endpoint != nil {
		options.BaseEndpoint = aws.String(c.endpoint.String())
	}
	if c.tigris() {
		// Without it a region may answer from its cache, also reads on which
		// a conditional write is based.
		options.APIOptions = append(options.APIOptions, smithyhttp.SetHeaderValue("X-Tigris-Consistent", "true"))
	}
	return s3.New(options)
}

func newRetryer() aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = maxAttempts
		o.Backoff = retry.BackoffDelayerFunc(func(attempt int, _ error) (time.Duration, error) {
			return rand.N(min(backoffFirst<<min(attempt, 10), backoffMost)), nil
		})
		o.Retryables = append(o.Retryables,
			retry.RetryableErrorCode{Codes: retryCodes},
			retry.RetryableHTTPStatusCode{Codes: retryStatus})
	})
}

// findCredentials asks the SDK's chain, but takes static ones at once, so that
// nothing is read or probed where they are set.
func findCredentials(ctx context.Context, c s3Config) (aws.CredentialsProvider, error) {
	if id, secret := os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"); id != "" && secret != "" {
		return aws.NewCredentialsCache(credentials.NewStaticCredentialsProvider(id, secret, os.Getenv("AWS_SESSION_TOKEN"))), nil
	}
	load := []func(*config.LoadOptions) error{config.WithRegion(c.region), config.WithLogger(logging.Nop{})}
	if c.endpoint != nil {
		// No other server takes the credentials of an EC2 role.
		load = append(load, config.WithEC2IMDSClientEnableState(imds.ClientDisabled))
	}
	ctx, cancel := context.WithTimeout(ctx, credentialsTimeout)
	defer cancel()
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err == nil {
		_, err = cfg.Credentials.Retrieve(ctx)
	}
	if stderrors.Is(err, context.Canceled) {
		return nil, errors.E("open", c.url(), errors.Canceled, err)
	}
	if err != nil {
		return nil, errors.E("open", c.url(), errors.Permission,
			fmt.Errorf("no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: %w", err))
	}
	return cfg.Credentials, nil
}
