package tenant

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"atc/fs/bucket"
	"atc/fs/errors"
)

// This file defines a machine's heartbeat in the bucket: what the object says,
// how its owner replaces it, and how hostile bytes in its place are read.

const (
	maxHeartbeat = 64 << 10 // bytes of the object that are read
	maxMachine   = 128      // bytes of a machine's ID
	maxAddress   = 256      // bytes of an address or a region
)

// heartbeat is the object machines/<machine>.json. Its sequence makes every
// version differ from every other, also for a store whose etag is a hash.
type heartbeat struct {
	Machine  string `json:"machine"`
	Session  string `json:"session"`
	Sequence uint64 `json:"sequence"`
	Lease    int64  `json:"lease"` // milliseconds
	Address  string `json:"address,omitempty"`
	Region   string `json:"region,omitempty"`
}

func heartbeatKey(machine string) string { return "machines/" + machine + ".json" }

// soundMachine reports whether a machine can have this ID: it is part of a key.
func soundMachine(id string) bool {
	return len(id) <= maxMachine && soundFolder(id) && printable(id)
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// parseHeartbeat reads the heartbeat of a machine. It reports false for what is
// none: that says nothing of the machine, only that the object has this version.
func parseHeartbeat(b []byte, machine string) (heartbeat, bool) {
	var h heartbeat
	if len(b) > maxHeartbeat || json.Unmarshal(b, &h) != nil || h.Machine != machine || h.Session == "" {
		return heartbeat{}, false
	}
	if len(h.Address) > maxAddress || !printable(h.Address) {
		h.Address = ""
	}
	if len(h.Region) > maxAddress || !printable(h.Region) {
		h.Region = ""
	}
	return h, true
}

// lease is how long this heartbeat is good for: at least what is usual here, so
// that nobody is dead at once, and at most MaxLease, so that nobody is immortal.
func (h heartbeat) lease(ours time.Duration) time.Duration {
	stated := time.Duration(min(max(h.Lease, 0), MaxLease.Milliseconds())) * time.Millisecond
	return max(ours, stated)
}

// readHeartbeat reads a machine's object. An absent one has an Info without an
// etag and no error.
func readHeartbeat(ctx context.Context, b bucket.Bucket, machine string) (body []byte, info bucket.Info, err error) {
	key := heartbeatKey(machine)
	r, info, err := b.Get(ctx, key)
	if errors.Is(errors.NotExist, err) {
		return nil, bucket.Info{}, nil
	}
	if err != nil {
		return nil, bucket.Info{}, err
	}
	defer r.Close()
	body, err = io.ReadAll(io.LimitReader(r, maxHeartbeat+1))
	if err != nil {
		return nil, bucket.Info{}, errors.E("read heartbeat", key, errors.Unavailable, err)
	}
	return body, info, nil
}

// beat is our own object as we wrote it last. One goroutine uses it.
type beat struct {
	bucket    bucket.Bucket
	say       heartbeat // what is said; Sequence is that of the last attempt
	etag      string    // of the version that is to be replaced; empty for none
	confirmed bool      // a version of ours has stood
}

// replace writes the next version over the one that we know. It fails with
// Fenced when a session that is not ours stands in our place although ours
// stood before. Other sessions' objects that we find at our start are those of
// runs before us and are overwritten.
//
// Absent is called when our object has gone: whoever removed it may have been a
// run under our ID that came, took tenants and left.
func (h *beat) replace(ctx context.Context, absent func()) error {
	h.say.Sequence++
	key := heartbeatKey(h.say.Machine)
	b, err := json.Marshal(h.say)
	if err != nil {
		return fmt.Errorf("encode heartbeat: %w", err)
	}
	info, err := h.bucket.Put(ctx, key, bytes.NewReader(b), bucket.PutOptions{IfNoneMatch: h.etag == "", IfMatch: h.etag})
	if err == nil {
		h.etag, h.confirmed = info.ETag, true
		return nil
	}
	if !errors.Is(errors.Condition, err) {
		return err
	}
	there, at, readErr := readHeartbeat(ctx, h.bucket, h.say.Machine)
	if readErr != nil {
		return errors.E("renew lease", key, errors.Unavailable, readErr)
	}
	if at.ETag == "" {
		h.etag = ""
		if h.confirmed {
			absent()
		}
		return errors.E("renew lease", key, errors.Condition, err)
	}
	if bytes.Equal(there, b) { // an answer was lost, not the place
		h.etag, h.confirmed = at.ETag, true
		return nil
	}
	theirs, sound := parseHeartbeat(there, h.say.Machine)
	switch ours := sound && theirs.Session == h.say.Session; {
	case ours: // an attempt that was given up and arrived late
		h.confirmed = true
	case h.confirmed:
		return errors.E("renew lease", key, errors.Fenced,
			fmt.Errorf("another atc (session %q) runs as machine %s; give each an ID of its own", theirs.Session, h.say.Machine))
	}
	h.etag = at.ETag
	return errors.E("renew lease", key, errors.Condition, err)
}

// remove deletes the object if it is still ours. A bucket deletes without a
// condition, so it is read first; a run under our ID that replaces it in between
// finds it absent and writes it again.
func (h *beat) remove(ctx context.Context) error {
	if h.say.Sequence == 0 {
		return nil // never written
	}
	there, _, err := readHeartbeat(ctx, h.bucket, h.say.Machine)
	if err != nil {
		return err
	}
	if at, sound := parseHeartbeat(there, h.say.Machine); !sound || at.Session != h.say.Session {
		return nil
	}
	return h.bucket.Delete(ctx, heartbeatKey(h.say.Machine))
}
