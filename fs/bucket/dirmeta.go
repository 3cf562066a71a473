package bucket

import (
	"crypto/sha256"
	"encoding/json"
	stderrors "errors"
	"fmt"
	"io"
	"os"

	"atc/fs/errors"
)

// Metadata of the directory store. It lies beside the objects, which stay plain
// files, in one small file for each version that has any: its name holds a hash
// of the key and the version's etag, so that an object and its metadata change
// in one step although they are two files. Extended attributes would do that
// without a second file, but not every filesystem of a container has them.
//
// A crash between two steps leaves at most one such file that belongs to no
// version. It is never read.

// storedMeta is what such a file holds, as JSON.
type storedMeta struct {
	Key  string            `json:"key"` // for whoever looks at the file
	Meta map[string]string `json:"meta"`
}

// storedMetaMost bounds what is read of one, in bytes: key and metadata, with
// every byte escaped.
const storedMetaMost = 6*(MaxKey+MaxMeta) + 4096

// errVersionGone says that an object was overwritten between reading it and its
// metadata.
var errVersionGone = stderrors.New("overwritten meanwhile")

// metaPath is where a version's metadata is. The first two digits spread the
// files over 256 folders.
func (d *directory) metaPath(key, etag string) string {
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(key)))
	return d.own("meta", sum[:2], sum[2:34]+"-"+etag)
}

// newMeta writes metadata into a temporary file.
func (d *directory) newMeta(key string, meta map[string]string) (*temp, error) {
	data, err := json.Marshal(storedMeta{key, meta})
	if err != nil {
		return nil, err
	}
	t, err := d.newTemp()
	if err != nil {
		return nil, err
	}
	if _, err := t.Write(data); err != nil {
		t.discard()
		return nil, err
	}
	return t, nil
}

// readMeta returns the metadata of a version. It returns errVersionGone if the
// version has none and is not the current one any more.
func (d *directory) readMeta(key, etag string) (map[string]string, error) {
	f, err := os.Open(d.metaPath(key, etag))
	if stderrors.Is(err, os.ErrNotExist) {
		// Either it has none, or it had and a writer removed it.
		if st, err := os.Lstat(d.path(key)); err != nil || infoOf(st).ETag != etag {
			return nil, errVersionGone
		}
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, storedMetaMost))
	if err != nil {
		return nil, err
	}
	var stored storedMeta
	if err := json.Unmarshal(data, &stored); err != nil || stored.Key != key {
		return nil, errors.E("read", f.Name(), errors.Corrupt, fmt.Errorf("not the metadata of %s", shown(key)))
	}
	if stored.Meta == nil {
		stored.Meta = map[string]string{}
	}
	return stored.Meta, nil
}
