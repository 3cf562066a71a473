package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"atc/fs/bucket"
	"atc/fs/database"
	"atc/fs/errors"
	"atc/fs/volume"
	"atc/proxy/control"
)

// This file tells the control API what the volume knows.

// fsStats adapts a volume to the control API.
type fsStats struct {
	volume     *volume.Volume
	mountpoint string
}

var _ control.Filesystem = fsStats{}

// Stat takes "", "TENANT" or "TENANT/DATABASE".
func (s fsStats) Stat(ctx context.Context, pattern string) (control.FSStat, error) {
	id, path, _ := strings.Cut(pattern, "/")
	if id != "" {
		if _, err := s.volume.Tenant(ctx, id); err != nil {
			return control.FSStat{}, err
		}
	}
	v := s.volume.Stat(id)
	out := control.FSStat{
		Machine: v.Machine, Session: v.Session, Mountpoint: s.mountpoint,
		Cache: v.Cache, Store: v.Store, Bucket: bucketStat(v.Bucket), Tenants: []control.TenantStat{},
	}
	if out.Lease = "valid"; v.Lease != nil {
		out.Lease = v.Lease.Error()
	}
	for _, l := range v.Lost {
		out.Lost = append(out.Lost, control.LostStat{
			Tenant: l.ID, At: l.At, Epoch: l.Epoch, Folder: l.Folder, Pages: l.Pages, Reason: l.Err.Error(),
		})
	}
	for _, t := range v.Tenants {
		ts := control.TenantStat{
			ID: t.ID, State: control.TenantState(t.State), Epoch: t.Epoch,
			Databases: []control.DatabaseStat{}, Bucket: bucketStat(t.Bucket),
			Files: control.FilesStat{Count: max(t.Files, t.PendingFiles), Pending: t.PendingFiles},
		}
		if o := t.Opening; !o.At.IsZero() {
			ts.Opening = &control.OpeningStat{At: o.At, Record: milliseconds(o.Record), Acquire: milliseconds(o.Acquire), Took: milliseconds(o.Took)}
		}
		for _, d := range t.Databases {
			if path == "" || d.Path == path {
				ts.Databases = append(ts.Databases, databaseStat(d))
			}
		}
		if path != "" && len(ts.Databases) == 0 {
			return control.FSStat{}, errors.E("stat", pattern, errors.NotExist, fmt.Errorf("tenant %s has no such database open", id))
		}
		out.Tenants = append(out.Tenants, ts)
	}
	return out, nil
}

func databaseStat(d volume.DatabaseStat) control.DatabaseStat {
	mode := control.Rollback
	switch {
	case !d.Open || d.Pages == 0:
		mode = control.NoMode
	case d.WAL:
		mode = control.WAL
	}
	var cold *control.ColdStat
	if c := d.Cold; d.Open {
		cold = &control.ColdStat{
			WithTenant: d.Arrived, Index: milliseconds(c.Index), Hot: milliseconds(c.Hot), HotPages: c.HotPages,
			FirstFault: milliseconds(c.FirstFault), Requests: c.Requests, Bytes: c.Bytes, RoundTrips: d.RoundTrips(),
		}
	}
	return control.DatabaseStat{
		Path: d.Path, PageSize: d.PageSize, Pages: int64(d.Pages), PagesPresent: int64(d.Present),
		Mode: mode, Passthrough: d.Direct,
		TXID: uint64(d.TXID), Shipped: d.ShippedAt,
		PendingPages: d.PendingPages, PendingBytes: d.PendingBytes, PendingSince: d.PendingSince,
		Faults: d.Faults, FaultP50: milliseconds(d.FaultP50), FaultP99: milliseconds(d.FaultP99),
		FaultedBytes: d.FetchedBytes, CorruptPages: d.CorruptPages, Cold: cold,
		Waiting: waiting(d.Waits), Degraded: d.Degraded, Bucket: bucketStat(d.Bucket),
	}
}

func waiting(waits []database.Wait) (s []control.WaitStat) {
	for _, w := range waits {
		s = append(s, control.WaitStat{Writers: w.Writers, Since: w.Since, Why: w.Why})
	}
	return s
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func bucketStat(c bucket.Counts) control.BucketStat {
	return control.BucketStat(c)
}
