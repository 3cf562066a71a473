package bucket

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"atc/fs/errors"
)

// Listings on S3: pages of at most a thousand entries, in which objects and
// folded prefixes come as two sorted lists that have to become one.

// listPage is how many entries S3 gives at once.
const listPage = 1000

// List yields the entries below prefix.
func (s *s3Store) List(ctx context.Context, prefix string, opts ListOptions) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if err := checkList(prefix, opts, len(s.before)); err != nil {
			yield(Entry{}, err)
			return
		}
		in := &s3.ListObjectsV2Input{Bucket: &s.config.bucket, Prefix: aws.String(s.before + prefix)}
		if opts.Delimiter {
			in.Delimiter = aws.String("/")
		}
		if opts.After != "" {
			in.StartAfter = aws.String(s.before + opts.After)
		}
		if opts.Limit > 0 {
			// One more: the first may be the folded entry that After names,
			// which servers give again.
			in.MaxKeys = aws.Int32(int32(min(opts.Limit, listPage-1) + 1))
		}
		last, count := opts.After, 0
		for {
			out, err := s.client.ListObjectsV2(ctx, in)
			if err != nil {
				yield(Entry{}, s3Error(ctx, "list", prefix, err))
				return
			}
			for e := range s.merge(out) {
				// The server's keys are not trusted to be ours, nor keys: a
				// console makes objects that end in "/" for its folders.
				if e.Key <= last || !strings.HasPrefix(e.Key, prefix) ||
					keyFault(strings.TrimSuffix(e.Key, "/"), len(s.before)) != "" {
					continue
				}
				last = e.Key
				if count++; !yield(e, nil) || count == opts.Limit {
					return
				}
			}
			if !aws.ToBool(out.IsTruncated) {
				return
			}
			if aws.ToString(out.NextContinuationToken) == "" {
				yield(Entry{}, errors.E("list", prefix, errors.Corrupt, fmt.Errorf("a page says that more follow, but not where")))
				return
			}
			in.ContinuationToken = out.NextContinuationToken
		}
	}
}

// merge yields a page's objects and folded prefixes in the order of their keys,
// without the store's prefix. An object whose key ends in "/" is no entry.
func (s *s3Store) merge(out *s3.ListObjectsV2Output) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		objects, folded := out.Contents, out.CommonPrefixes
		for len(objects) > 0 || len(folded) > 0 {
			var e Entry
			full := ""
			if len(folded) == 0 || len(objects) > 0 && aws.ToString(objects[0].Key) < aws.ToString(folded[0].Prefix) {
				full, e.Size = aws.ToString(objects[0].Key), aws.ToInt64(objects[0].Size)
				e.Modified = aws.ToTime(objects[0].LastModified)
				objects = objects[1:]
				if strings.HasSuffix(full, "/") {
					continue
				}
			} else {
				full = aws.ToString(folded[0].Prefix)
				folded = folded[1:]
			}
			key, ours := strings.CutPrefix(full, s.before)
			if e.Key = key; ours && !yield(e) {
				return
			}
		}
	}
}
