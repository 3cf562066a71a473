// Package bucket is the object store under everything: whole objects by key,
// conditional writes, range reads and listings, on S3 or in a local directory.
//
// [Open] takes a URL:
//
//	b, err := bucket.Open(ctx, "s3://tenants/prod?endpoint=https://...&region=auto")
//	b, err := bucket.Open(ctx, "file:///var/lib/atc/bucket")
//
// Both keep the same contract, which buckettest.Run checks. A store is strongly
// consistent: whatever a write returned is what the next read sees. [Count]
// wraps one to count its requests; bucket/faulty wraps one to make it fail.
//
// # Limitations
//
// An object goes up in one request, so it holds at most [MaxObject] bytes. A
// directory cannot hold both "a" and "a/b", so no key may be another one's
// folder; S3 does not check that. Listings are not snapshots: what is written
// or deleted meanwhile may or may not be in them.
package bucket

import (
	"context"
	"io"
	"iter"
	"time"
)

// Bucket is an object store below one prefix. Its methods may be called
// concurrently. Every error is an [errors.Error] that names the key; its kind
// tells what to do:
//
//	NotExist     no object has this key
//	Condition    IfNoneMatch, IfMatch or a range read's etag did not hold
//	Unavailable  no answer, or one of the kind that passes; the outcome of a
//	             write is then unknown
//	Invalid      no store takes this key, this metadata or so many bytes; or
//	             the bucket that the URL names does not exist
//	Permission   the store refused the credentials
//	Canceled     ctx was canceled; the outcome of a write is then unknown
//
// Keys are relative, valid UTF-8 without control characters, use "/", and
// contain no empty, "." or ".." segment. A segment has at most [MaxSegment]
// bytes, a key at most [MaxKey]. The first segment ".atc" is the store's own.
//
// An etag is opaque and names one version of one object. It changes whenever
// the bytes do; it may change when the same bytes are written again. It is
// never empty, and is good for as long as the store is not moved.
type Bucket interface {
	// Get opens an object for reading from its beginning. The caller closes it.
	// What is read is one version, also when it is overwritten meanwhile. A
	// failure while reading is an error of the same kinds, never a short read.
	Get(ctx context.Context, key string) (io.ReadCloser, Info, error)

	// GetRange reads length bytes from offset, fewer where the object ends
	// before, none (and no error) at or behind its end. With a non-empty etag
	// it fails with Condition when the object is another one by now. A negative
	// offset reads the last -offset bytes, whatever the length is.
	GetRange(ctx context.Context, key string, offset, length int64, etag string) ([]byte, Info, error)

	// Put writes an object whole: readers see the old one or the new one. Body
	// is read from where it stands to its end and may be rewound for a retry;
	// it is not closed. An IfMatch without an object is Condition, too.
	//
	// Condition does not always mean that somebody else wrote: when the answer
	// to a write that did take place is lost, the retry finds its own object
	// there. Who must know compares what is there with what was sent.
	Put(ctx context.Context, key string, body io.ReadSeeker, opts PutOptions) (Info, error)

	// List yields the entries whose keys start with prefix (a plain string, not
	// only a folder) in the order of their keys' bytes. An error ends it.
	List(ctx context.Context, prefix string, opts ListOptions) iter.Seq2[Entry, error]

	// Copy duplicates an object with its metadata inside the store, without its
	// bytes passing through here where the store can. It overwrites.
	Copy(ctx context.Context, from, to string) error

	// Delete removes an object. That it was not there is not an error.
	Delete(ctx context.Context, key string) error

	// URL names the store for messages, without credentials. Open accepts it.
	URL() string
}

// PutOptions are a write's conditions; with none of them it overwrites.
type PutOptions struct {
	IfNoneMatch bool              // only if no object has this key (S3: If-None-Match: *)
	IfMatch     string            // only if the object still has this etag; not with IfNoneMatch
	Meta        map[string]string // user metadata, at most MaxMeta bytes; keys of [a-z0-9-], values printable ASCII
}

// Info describes a stored object. Fields that a call does not learn are zero.
type Info struct {
	ETag     string
	Size     int64             // of the whole object, in bytes, also for a range read
	Modified time.Time         // by the store's clock, precise to a second
	Now      time.Time         // the store's clock when it answered, precise to a second
	Meta     map[string]string // set by Get
}

// ListOptions narrow a listing.
type ListOptions struct {
	After     string // only entries whose key is behind this one; a folded entry's key will do
	Delimiter bool   // stop at the next "/" behind the prefix: fold what is below it into one entry
	Limit     int    // at most so many entries; 0 for all
}

// Entry is one line of a listing. A folded one has a key that ends in "/".
type Entry struct {
	Key      string
	Size     int64     // in bytes; 0 for a folded one
	Modified time.Time // by the store's clock, precise to a second; zero for a folded one
}
