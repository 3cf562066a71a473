package bucket

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"atc/fs/errors"
)

// From a URL to a store. This is its own file because an operator meets it
// first: each refusal says what was wrong and what to write instead, and none
// repeats a part of the URL in which somebody may have put a password.

// Open opens the store that rawURL names.
//
//	file:///path                               a directory, created if need be
//	s3://bucket/prefix?endpoint=URL&region=R   an S3 bucket, which must exist
//
// For S3, credentials come from where the AWS SDK looks for them, first
// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. What the URL leaves out comes
// from the environment: the bucket from BUCKET_NAME, the endpoint from
// AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, the region from AWS_REGION or
// AWS_DEFAULT_REGION, else "auto" on Tigris and "us-east-1" elsewhere.
//
// Opening S3 sends no request to the bucket. Errors are Invalid for what the
// operator has to change, and Permission where no credentials were found.
func Open(ctx context.Context, rawURL string) (Bucket, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		// Its text would repeat a part of the URL.
		return nil, refused("it is not a URL; write file:///path or s3://bucket/prefix")
	}
	if u.User != nil {
		return nil, refused("it holds credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")
	}
	if u.Fragment != "" {
		return nil, refused("it has a part behind #; write %%23 for a # in a name")
	}
	options, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, refused("its options do not parse; write ?endpoint=https://host&region=name")
	}
	switch u.Scheme {
	case "file":
		return openFile(ctx, u, options)
	case "s3":
		c, err := s3ConfigOf(u, options, os.Getenv)
		if err != nil {
			return nil, err
		}
		return openS3(ctx, c)
	case "":
		return nil, refused("it has no scheme; write file:///path for a directory or s3://bucket/prefix")
	}
	return nil, refused("scheme %.20q is unknown; write file:///path or s3://bucket/prefix", u.Scheme)
}

// refused makes the error for a store URL.
func refused(format string, args ...any) error {
	return errors.E("open", "store URL", errors.Invalid, fmt.Errorf(format, args...))
}

func openFile(ctx context.Context, u *url.URL, options url.Values) (Bucket, error) {
	if err := knownOptions(options); err != nil {
		return nil, err
	}
	if u.Opaque != "" || u.Host != "" && u.Host != "localhost" || !strings.HasPrefix(u.Path, "/") {
		return nil, refused("a directory is written with three slashes and an absolute path: file:///path")
	}
	path := filepath.Clean(u.Path)
	if path == "/" || strings.Contains(path, "\x00") {
		return nil, refused("file:///path needs the path of a folder other than /")
	}
	return openDirectory(ctx, path)
}

// knownOptions refuses every option but the given ones, and doubled ones.
func knownOptions(options url.Values, known ...string) error {
	for k, v := range options {
		if !slices.Contains(known, k) {
			if len(known) == 0 {
				return refused("option %.40q is unknown; a file URL has none", k)
			}
			return refused("option %.40q is unknown; there are %s", k, strings.Join(known, " and "))
		}
		if len(v) != 1 || v[0] == "" {
			return refused("option %s must be there once and not be empty", k)
		}
	}
	return nil
}

// s3Config is where an S3 store is. It holds no credentials.
type s3Config struct {
	bucket   string
	prefix   string   // without slashes around it; may be empty
	endpoint *url.URL // nil for AWS itself
	region   string
}

// bucketName is S3's rule for general purpose buckets, but for the few
// forbidden beginnings.
var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// regionName keeps a region, which becomes a part of AWS's host names, to what
// regions are made of.
var regionName = regexp.MustCompile(`^[a-zA-Z0-9-]{1,63}$`)

// s3ConfigOf reads an s3 URL, and the environment for what it leaves out.
func s3ConfigOf(u *url.URL, options url.Values, env func(string) string) (s3Config, error) {
	if err := knownOptions(options, "endpoint", "region"); err != nil {
		return s3Config{}, err
	}
	if u.Opaque != "" {
		return s3Config{}, refused("a bucket is written behind two slashes: s3://bucket/prefix")
	}
	c := s3Config{bucket: u.Host, prefix: strings.Trim(u.Path, "/")}
	from := "its bucket"
	if c.bucket == "" {
		c.bucket, from = env("BUCKET_NAME"), "the bucket in BUCKET_NAME"
	}
	if c.bucket == "" {
		return c, refused("it names no bucket; write s3://bucket/prefix or set BUCKET_NAME")
	}
	if !bucketName.MatchString(c.bucket) {
		return c, refused("%s is not a name of 3 to 63 characters a-z, 0-9, . and -", from)
	}
	if c.prefix != "" {
		if why := keyFault(c.prefix, 0); why != "" || len(c.prefix) > MaxKey/2 {
			return c, refused("its prefix is no key of at most %d bytes; write s3://bucket/some/prefix", MaxKey/2)
		}
	}
	from = "option endpoint"
	endpoint := options.Get("endpoint")
	for _, name := range []string{"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"} {
		if endpoint == "" {
			endpoint, from = env(name), name
		}
	}
	if endpoint != "" {
		e, err := url.Parse(endpoint)
		if err != nil || (e.Scheme != "http" && e.Scheme != "https") || e.Hostname() == "" ||
			e.User != nil || strings.Trim(e.Path, "/") != "" || e.RawQuery != "" || e.Fragment != "" {
			return c, refused("%s is not of the form https://host or http://host:port", from)
		}
		c.endpoint = &url.URL{Scheme: e.Scheme, Host: e.Host}
	}
	c.region = options.Get("region")
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION"} {
		if c.region == "" {
			c.region = env(name)
		}
	}
	if c.region == "" {
		c.region = "us-east-1"
		if c.tigris() {
			c.region = "auto"
		}
	}
	if !regionName.MatchString(c.region) {
		return c, refused("its region is not a name like us-east-1; write region=NAME or set AWS_REGION")
	}
	return c, nil
}

// tigris reports whether the endpoint is Tigris.
func (c s3Config) tigris() bool {
	return c.hostEndsIn("tigris.dev", "storage.dev")
}

// pathStyle reports whether the bucket's name goes into the path. AWS retires
// that and Tigris refuses it for buckets made after February 2025; other
// servers seldom have a host name for each bucket.
func (c s3Config) pathStyle() bool {
	return c.endpoint != nil && !c.tigris() && !c.hostEndsIn("amazonaws.com", "amazonaws.com.cn", "api.aws")
}

func (c s3Config) hostEndsIn(domains ...string) bool {
	if c.endpoint == nil {
		return false
	}
	host := strings.ToLower(c.endpoint.Hostname())
	return slices.ContainsFunc(domains, func(d string) bool { return host == d || strings.HasSuffix(host, "."+d) })
}

// url writes the store so that Open reads the same one.
func (c s3Config) url() string {
	u := url.URL{Scheme: "s3", Host: c.bucket, Path: c.prefix}
	q := "region=" + c.region
	if c.endpoint != nil {
		q = "endpoint=" + c.endpoint.String() + "&" + q
	}
	u.RawQuery = q
	return u.String()
}
