package bucket

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"atc/fs/errors"
)

// Range reads on S3. They are their own file because HTTP's ranges differ from
// the contract's at every edge: an empty range cannot be asked for, one behind
// the end is an error, and a server may answer with the whole object.

// GetRange reads a part of an object.
func (s *s3Store) GetRange(ctx context.Context, key string, offset, length int64, etag string) ([]byte, Info, error) {
	if err := checkKey("get", key, len(s.before)); err != nil {
		return nil, Info{}, err
	}
	if err := checkRange(key, offset, length); err != nil {
		return nil, Info{}, err
	}
	if offset >= 0 && length == 0 {
		info, err := s.head(ctx, key, etag)
		return nil, info, err
	}
	// The SDK retries until there is an answer; a body that breaks off later
	// is asked for again here.
	for attempt := 1; ; attempt++ {
		data, info, err := s.readRange(ctx, key, offset, length, etag)
		if rangeUnsatisfiable(err) {
			info, err = s.head(ctx, key, etag)
			return nil, info, err
		}
		if err == nil || !errors.Retryable(err) || data == nil || attempt == maxAttempts || ctx.Err() != nil {
			if err != nil {
				return nil, Info{}, err
			}
			return data, info, nil
		}
	}
}

// readRange is one request. With an error, data is not nil if there was an
// answer whose body broke off.
func (s *s3Store) readRange(ctx context.Context, key string, offset, length int64, etag string) (data []byte, info Info, err error) {
	in := &s3.GetObjectInput{Bucket: &s.config.bucket, Key: aws.String(s.before + key)}
	if offset < 0 {
		in.Range = aws.String(fmt.Sprintf("bytes=%d", offset))
	} else {
		in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
	}
	if etag != "" {
		in.IfMatch = &etag
	}
	out, err := s.client.GetObject(ctx, in)
	if err != nil {
		return nil, Info{}, s3Error(ctx, "get", key, err)
	}
	defer out.Body.Close()
	info = Info{ETag: aws.ToString(out.ETag), Modified: aws.ToTime(out.LastModified)}
	info.Now, _ = awsmiddleware.GetServerTime(out.ResultMetadata)
	if err := complete("get", key, info.ETag, out.ContentLength); err != nil {
		return nil, Info{}, err
	}
	if out.ContentRange == nil {
		info.Size = *out.ContentLength // the whole object
	} else if info.Size, err = sizeOf(*out.ContentRange); err != nil {
		return nil, Info{}, errors.E("get", key, errors.Corrupt, err)
	}
	// What the answer has to be follows from the size, and is the bound of
	// what is allocated for it.
	start, end := span(offset, length, info.Size)
	switch {
	case out.ContentRange == nil && (start != 0 || *out.ContentLength < end):
		return nil, Info{}, errors.E("get", key, errors.Unsupported, fmt.Errorf("the store ignored the range"))
	case out.ContentRange != nil && !strings.HasPrefix(*out.ContentRange, fmt.Sprintf("bytes %d-%d/", start, end-1)):
		return nil, Info{}, errors.E("get", key, errors.Corrupt,
			fmt.Errorf("asked for bytes %d-%d, got %.60q", start, end-1, *out.ContentRange))
	}
	data = make([]byte, end-start)
	if n, err := io.ReadFull(out.Body, data); err != nil {
		if err == io.ErrUnexpectedEOF || err == io.EOF {
			err = errShort(n, end-start)
		}
		return data, Info{}, s3Error(ctx, "get", key, err)
	}
	return data, info, nil
}

// span cuts a range to the size of its object.
func span(offset, length, size int64) (start, end int64) {
	if offset < 0 {
		return max(0, size+offset), size
	}
	start = min(offset, size)
	return start, start + min(length, size-start)
}

// sizeOf reads the size out of "bytes 0-9/1234".
func sizeOf(contentRange string) (size int64, err error) {
	var from, to int64
	n, _ := fmt.Sscanf(contentRange, "bytes %d-%d/%d", &from, &to, &size)
	if n != 3 || from < 0 || to < from || size <= to {
		return 0, fmt.Errorf("the answer has the range %.60q", contentRange)
	}
	return size, nil
}

// head learns what an object is without reading it.
func (s *s3Store) head(ctx context.Context, key, etag string) (Info, error) {
	in := &s3.HeadObjectInput{Bucket: &s.config.bucket, Key: aws.String(s.before + key)}
	if etag != "" {
		in.IfMatch = &etag
	}
	out, err := s.client.HeadObject(ctx, in)
	if err != nil {
		return Info{}, s3Error(ctx, "get", key, err)
	}
	info := Info{
		ETag:     aws.ToString(out.ETag),
		Size:     aws.ToInt64(out.ContentLength),
		Modified: aws.ToTime(out.LastModified),
	}
	info.Now, _ = awsmiddleware.GetServerTime(out.ResultMetadata)
	return info, complete("get", key, info.ETag, out.ContentLength)
}
