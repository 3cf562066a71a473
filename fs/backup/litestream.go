package backup

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"github.com/superfly/ltx"

	"atc/fs/bucket"
	"atc/fs/errors"
	"atc/fs/history"
	"atc/fs/tenant"
	"atc/fs/tenant/tenantid"
)

// This file defines the adoption of what Litestream 0.5 has replicated. Its files
// are in the format of ours, so they are taken as they are, every level of them,
// and with them what can be restored. Only those of 0.5.16 and later are written
// anew, since earlier ones cannot read them.

// timestampKey is the metadata in which Litestream keeps a file's time.
const timestampKey = "litestream-timestamp"

// ImportLitestream makes tenant id of one database that Litestream has replicated
// to the URL, s3://bucket/prefix or file:///dir, and puts it at the path. The
// replica is only read, and Litestream should not write it any more. In the same
// store files are copied by the store, else through here.
func (s *Service) ImportLitestream(ctx context.Context, replica, id, at string, progress Progress) (Report, error) {
	if err := tenantid.Check(id); err != nil {
		return Report{}, err
	}
	if !tenant.SoundPath(at) {
		return Report{}, errors.E("import", at, errors.Invalid, fmt.Errorf("no path of a database; give one like --path main.sqlite3"))
	}
	if err := s.vacant(ctx, "import", id); err != nil {
		return Report{}, err
	}
	from, err := s.openReplica(ctx, replica)
	if err != nil {
		return Report{}, err
	}
	files, err := from.list(ctx)
	if err != nil {
		return Report{}, err
	}
	if len(files) == 0 {
		return Report{}, errors.E("import", replica, errors.NotExist,
			fmt.Errorf("there are no files of Litestream 0.5 below it; name the folder that holds 0000, or ltx/0"))
	}
	d := &tenant.Database{Folder: tenant.NewFolder(at), Mode: 0o644}
	folder := tenant.DatabaseFolder(id, d.Folder)
	for i, f := range files {
		if err := from.copy(ctx, f, fmt.Sprintf("%s/%04x/%s", folder, f.level, f.name)); err != nil {
			return Report{}, errors.E("import", f.where, errors.Other, err)
		}
		progress.report("import", id+"/"+at, int64(i+1), int64(len(files)), "objects")
	}
	log := s.log(id, d.Folder)
	_, last, err := log.Range(ctx)
	if err != nil {
		return Report{}, err
	}
	x, err := log.LoadAt(ctx, last.TXID) // reads what it needs, and checks it
	if err != nil {
		return Report{}, errors.E("import", replica, errors.Other, err)
	}
	d.TXID, d.Modified = last.TXID, last.Time
	d.PageSize, d.Pages = x.Size()
	report := Report{Databases: []Copied{copied(at, last, d)}}
	return report, s.publish(ctx, id, map[string]*tenant.Database{at: d}, &tenant.FileIndex{})
}

// replicaFile is one LTX file of a replica.
type replicaFile struct {
	level int
	name  string // minimum and maximum TXID
	where string // key or path
}

// replica is where Litestream has written.
type replica struct {
	list func(context.Context) ([]replicaFile, error)
	copy func(ctx context.Context, f replicaFile, key string) error
}

// levels are those of Litestream: 0 for commits, up to 8 compacted, 9 snapshots.
const levels = 10

func (s *Service) openReplica(ctx context.Context, where string) (*replica, error) {
	u, err := url.Parse(where)
	if err != nil || u.Scheme != "s3" && u.Scheme != "file" || u.Path == "" {
		return nil, errors.E("import", "replica", errors.Invalid, fmt.Errorf("write s3://bucket/prefix or file:///dir"))
	}
	if u.Scheme == "file" {
		return s.replicaFolder(u.Path)
	}
	b, err := bucket.Open(ctx, where)
	if err != nil {
		return nil, err
	}
	r := &replica{list: func(ctx context.Context) ([]replicaFile, error) { return listReplica(ctx, b) }}
	r.copy = func(ctx context.Context, f replicaFile, key string) error {
		body, info, err := b.Get(ctx, f.where)
		if err != nil {
			return err
		}
		defer body.Close()
		return s.store(ctx, body, info.Meta[timestampKey], key)
	}
	if shared, from, to, ok := sameStore(where, s.bucket.URL()); ok {
		// One view of both, so that the store can copy.
		whole, err := bucket.Open(ctx, shared)
		if err != nil {
			return nil, err
		}
		through := r.copy
		r.copy = func(ctx context.Context, f replicaFile, key string) error {
			begin, _, err := b.GetRange(ctx, f.where, 0, history.BlocksPrefix, "")
			if err != nil {
				return err
			}
			if history.HasBlocks(begin) {
				return through(ctx, f, key)
			}
			return whole.Copy(ctx, path.Join(from, f.where), path.Join(to, key))
		}
	}
	return r, nil
}

// sameStore finds a URL of which both s3 URLs are parts, and their prefixes in it.
func sameStore(a, b string) (shared, prefixA, prefixB string, ok bool) {
	ua, errA := url.Parse(a)
	ub, errB := url.Parse(b)
	if errA != nil || errB != nil || ua.Scheme != "s3" || ub.Scheme != "s3" || ua.Host == "" || ua.Host != ub.Host {
		return "", "", "", false
	}
	if ua.Query().Get("endpoint") != ub.Query().Get("endpoint") {
		return "", "", "", false
	}
	root := url.URL{Scheme: "s3", Host: ub.Host, RawQuery: ub.RawQuery}
	return root.String(), strings.Trim(ua.Path, "/"), strings.Trim(ub.Path, "/"), true
}

func listReplica(ctx context.Context, b bucket.Bucket) ([]replicaFile, error) {
	var files []replicaFile
	for level := range levels {
		prefix := fmt.Sprintf("%04x/", level)
		for e, err := range b.List(ctx, prefix, bucket.ListOptions{}) {
			if err != nil {
				return nil, err
			}
			files = appendFile(files, level, e.Key[len(prefix):], e.Key)
		}
	}
	return files, nil
}

func appendFile(files []replicaFile, level int, name, where string) []replicaFile {
	if first, last, err := ltx.ParseFilename(name); err == nil && ltx.FormatFilename(first, last) == name {
		files = append(files, replicaFile{level, name, where})
	}
	return files
}

// replicaFolder is a replica in a directory, which is not opened as a store: a
// store makes files of its own in it. Litestream calls the levels ltx/0 to ltx/9
// there.
func (s *Service) replicaFolder(dir string) (*replica, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, errors.E("import", dir, errors.Other, err)
	}
	return &replica{
		list: func(context.Context) ([]replicaFile, error) {
			var files []replicaFile
			for level := range levels {
				for _, folder := range []string{fmt.Sprintf("ltx/%d", level), fmt.Sprintf("%04x", level)} {
					there, err := fs.ReadDir(root.FS(), folder)
					if os.IsNotExist(err) {
						continue
					}
					if err != nil {
						return nil, errors.E("import", path.Join(dir, folder), errors.Other, err)
					}
					for _, e := range there {
						files = appendFile(files, level, e.Name(), folder+"/"+e.Name())
					}
					break // a store of ours has both, one a link to the other
				}
			}
			return files, nil
		},
		copy: func(ctx context.Context, f replicaFile, key string) error {
			in, err := root.Open(f.where)
			if err != nil {
				return err
			}
			defer in.Close()
			return s.store(ctx, in, "", key)
		},
	}, nil
}

// store puts one LTX file by way of a local one, and checks it on its way. Its
// time is what Litestream says, else that of its header.
func (s *Service) store(ctx context.Context, in io.Reader, stamp, key string) error {
	spool, err := os.CreateTemp("", "atc-import-*")
	if err != nil {
		return err
	}
	defer os.Remove(spool.Name())
	defer spool.Close()
	c, err := receive(spool, reader{ctx, in})
	if err != nil {
		return err
	}
	if stamp == "" {
		stamp = c.Time.UTC().Format(time.RFC3339Nano)
	}
	if _, err := spool.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err = s.bucket.Put(ctx, key, spool, bucket.PutOptions{IfNoneMatch: true, Meta: map[string]string{timestampKey: stamp}})
	return err
}

// receive writes an LTX file into spool, in the form in which it is stored, and
// checks it.
func receive(spool *os.File, in io.Reader) (history.Commit, error) {
	begin := make([]byte, history.BlocksPrefix)
	n, err := io.ReadFull(in, begin)
	if err != nil && err != io.ErrUnexpectedEOF {
		return history.Commit{}, err
	}
	whole := io.MultiReader(bytes.NewReader(begin[:n]), in)
	if history.HasBlocks(begin[:n]) {
		return history.Reframe(spool, whole)
	}
	size, err := io.Copy(spool, whole)
	if err != nil {
		return history.Commit{}, err
	}
	if _, err := spool.Seek(0, io.SeekStart); err != nil {
		return history.Commit{}, err
	}
	return history.Decode(spool, size, func(history.Page, history.Place) error { return nil })
}
