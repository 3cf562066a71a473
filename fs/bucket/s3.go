package bucket

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"atc/fs/errors"
)

// The store on S3: one method of the contract each, from its request to its
// answer. Range reads and listings, which take more than that, are beside it.

// s3Store is a Bucket on an S3 server.
type s3Store struct {
	client *s3.Client
	config s3Config
	before string // the prefix with its slash, or nothing
}

var _ Bucket = (*s3Store)(nil)

func openS3(ctx context.Context, c s3Config) (*s3Store, error) {
	provider, err := findCredentials(ctx, c)
	if err != nil {
		return nil, err
	}
	return newS3(c, newClient(c, provider, newTransport())), nil
}

func newS3(c s3Config, client *s3.Client) *s3Store {
	s := &s3Store{client: client, config: c}
	if c.prefix != "" {
		s.before = c.prefix + "/"
	}
	return s
}

// URL names the store.
func (s *s3Store) URL() string { return s.config.url() }

// Get opens an object.
func (s *s3Store) Get(ctx context.Context, key string) (io.ReadCloser, Info, error) {
	if err := checkKey("get", key, len(s.before)); err != nil {
		return nil, Info{}, err
	}
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{
		Bucket: &s.config.bucket,
		Key:    aws.String(s.before + key),
	})
	if err != nil {
		return nil, Info{}, s3Error(ctx, "get", key, err)
	}
	info := Info{
		ETag:     aws.ToString(out.ETag),
		Size:     aws.ToInt64(out.ContentLength),
		Modified: aws.ToTime(out.LastModified),
		Meta:     make(map[string]string, len(out.Metadata)),
	}
	info.Now, _ = awsmiddleware.GetServerTime(out.ResultMetadata)
	for k, v := range out.Metadata {
		info.Meta[strings.ToLower(k)] = v
	}
	if err := complete("get", key, info.ETag, out.ContentLength); err != nil {
		out.Body.Close()
		return nil, Info{}, err
	}
	return &s3Body{ReadCloser: out.Body, ctx: ctx, key: key}, info, nil
}

// complete refuses an answer without what the contract stands on.
func complete(op, key, etag string, length *int64) error {
	if etag == "" || length == nil {
		return errors.E(op, key, errors.Unsupported, fmt.Errorf("the store answered without an ETag or a length"))
	}
	return nil
}

// s3Body gives the errors of a streamed body their kind.
type s3Body struct {
	io.ReadCloser
	ctx context.Context
	key string
}

func (b *s3Body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = s3Error(b.ctx, "get", b.key, err)
	}
	return n, err
}

// Put writes an object.
func (s *s3Store) Put(ctx context.Context, key string, body io.ReadSeeker, opts PutOptions) (Info, error) {
	if err := checkKey("put", key, len(s.before)); err != nil {
		return Info{}, err
	}
	size, err := checkPut(key, body, opts)
	if err != nil {
		return Info{}, err
	}
	in := &s3.PutObjectInput{
		Bucket:        &s.config.bucket,
		Key:           aws.String(s.before + key),
		Body:          &s3Upload{body, ctx},
		ContentLength: &size,
		Metadata:      opts.Meta,
	}
	if opts.IfNoneMatch {
		in.IfNoneMatch = aws.String("*")
	}
	if opts.IfMatch != "" {
		in.IfMatch = &opts.IfMatch
	}
	out, err := s.client.PutObject(ctx, in)
	if err != nil {
		err = s3Error(ctx, "put", key, err)
		if opts.IfMatch != "" && errors.Is(errors.NotExist, err) {
			err = errors.E("put", key, errors.Condition, fmt.Errorf("there is no object any more"))
		}
		return Info{}, err
	}
	info := Info{ETag: aws.ToString(out.ETag), Size: size}
	info.Now, _ = awsmiddleware.GetServerTime(out.ResultMetadata)
	return info, complete("put", key, info.ETag, &size)
}

// s3Upload ends a body with its context: before the SDK sends it, it reads all
// of it for the signature.
type s3Upload struct {
	io.ReadSeeker
	ctx context.Context
}

func (u *s3Upload) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.ReadSeeker.Read(p)
}

// Copy duplicates an object on the server.
func (s *s3Store) Copy(ctx context.Context, from, to string) error {
	for _, key := range []string{from, to} {
		if err := checkKey("copy", key, len(s.before)); err != nil {
			return err
		}
	}
	source := &url.URL{Path: s.config.bucket + "/" + s.before + from}
	_, err := s.client.CopyObject(context.WithValue(ctx, patience{}, copyTimeout), &s3.CopyObjectInput{
		Bucket:     &s.config.bucket,
		Key:        aws.String(s.before + to),
		CopySource: aws.String(strings.ReplaceAll(source.EscapedPath(), "+", "%2B")),
	})
	if err != nil {
		return s3Error(ctx, "copy", from, err)
	}
	return nil
}

// Delete removes an object.
func (s *s3Store) Delete(ctx context.Context, key string) error {
	if err := checkKey("delete", key, len(s.before)); err != nil {
		return err
	}
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{
		Bucket: &s.config.bucket,
		Key:    aws.String(s.before + key),
	})
	if err != nil {
		if err = s3Error(ctx, "delete", key, err); errors.Is(errors.NotExist, err) {
			return nil
		}
		return err
	}
	return nil
}
