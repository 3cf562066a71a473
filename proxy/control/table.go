// This file shows a filesystem's state to people: what atc fs stat prints.

package control

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// WriteTable writes s as lines of text: the machine, then one row a database,
// then a line for everything that needs attention. Names of files are quoted
// where they hold what a terminal would act on.
func WriteTable(w io.Writer, s FSStat) error {
	return writeTable(w, s, time.Now())
}

func writeTable(w io.Writer, s FSStat, now time.Time) error {
	var head strings.Builder
	fmt.Fprintf(&head, "machine %s, session %s\n", plain(s.Machine), plain(s.Session))
	fmt.Fprintf(&head, "mount   %s\ncache   %s\nstore   %s\n", plain(s.Mountpoint), plain(s.Cache), plain(s.Store))
	fmt.Fprintf(&head, "bucket  %s\nlease   %s\n\n", bucketText(s.Bucket), plain(s.Lease))
	if _, err := io.WriteString(w, head.String()); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TENANT\tSTATE\tEPOCH\tDATABASE\tMODE\tTXID\tSHIPPED\tPENDING\tPAGES\tFAULTS\tP50/P99\tFETCHED\tREQUESTS")
	var notes []string
	for _, tenant := range s.Tenants {
		lead := fmt.Sprintf("%s\t%s\t%d\t", plain(tenant.ID), plain(string(tenant.State)), tenant.Epoch)
		if len(tenant.Databases) == 0 {
			fmt.Fprintf(t, "%s-\t\t\t\t\t\t\t\t\t%d\n", lead, tenant.Bucket.Requests())
		}
		for _, d := range tenant.Databases {
			fmt.Fprintf(t, "%s%s\t%s\t%d\t%s\t%s\t%s\t%d\t%s\t%s\t%d\n", lead, plain(d.Path), mode(d), d.TXID,
				age(d.Shipped, now), pending(d, now), present(d), d.Faults, latency(d), size(d.FaultedBytes), d.Bucket.Requests())
			name := plain(tenant.ID) + "/" + plain(d.Path)
			if d.CorruptPages > 0 {
				notes = append(notes, fmt.Sprintf("%s: %d pages from the bucket were corrupt", name, d.CorruptPages))
			}
			for _, w := range d.Waiting {
				notes = append(notes, fmt.Sprintf("%s: waiting: %s for %s: %s", name, writers(w.Writers), age(w.Since, now), plain(w.Why)))
			}
			for _, why := range d.Degraded {
				notes = append(notes, fmt.Sprintf("%s: degraded: %s", name, plain(why)))
			}
		}
		if tenant.Files.Pending > 0 {
			notes = append(notes, fmt.Sprintf("%s: %d of %d plain files are not shipped yet", plain(tenant.ID), tenant.Files.Pending, tenant.Files.Count))
		}
		if tenant.State == Fenced {
			notes = append(notes, fmt.Sprintf("%s: another machine has taken it over", plain(tenant.ID)))
		}
	}
	for _, l := range s.Lost {
		kept := "everything had been shipped"
		if l.Folder != "" {
			kept = fmt.Sprintf("%d captured pages and what else was not shipped are kept in %s", l.Pages, plain(l.Folder))
		}
		notes = append(notes, fmt.Sprintf("%s: lost %s ago in epoch %d; %s", plain(l.Tenant), age(l.At, now), l.Epoch, kept))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if err := writeOpenings(w, s); err != nil {
		return err
	}
	if len(notes) > 0 {
		if _, err := fmt.Fprintf(w, "\n%s\n", strings.Join(notes, "\n")); err != nil {
			return err
		}
	}
	return nil
}

// writeOpenings writes where the time of each opening went that asked the bucket.
func writeOpenings(w io.Writer, s FSStat) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nOPENED\tRECORD\tACQUIRE\tINDEX\tHOT PACK\tFIRST FAULT\tFETCHED\tREQUESTS\tROUND TRIPS")
	rows := 0
	for _, tenant := range s.Tenants {
		for _, d := range tenant.Databases {
			c := d.Cold
			if c == nil || c.Requests == 0 {
				continue
			}
			rows++
			record, acquire := "-", "-"
			if o := tenant.Opening; o != nil && c.WithTenant {
				record, acquire = took(o.Record), took(o.Acquire)
			}
			fmt.Fprintf(t, "%s/%s\t%s\t%s\t%s\t%s, %d pages\t%s\t%s\t%d\t%d\n", plain(tenant.ID), plain(d.Path), record, acquire,
				took(c.Index), took(c.Hot), c.HotPages, took(c.FirstFault), size(c.Bytes), c.Requests, c.RoundTrips)
		}
	}
	if rows == 0 {
		return nil
	}
	return t.Flush()
}

// took is a time in milliseconds; none for what did not happen.
func took(ms float64) string {
	if ms == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", ms)
}

func bucketText(b BucketStat) string {
	return fmt.Sprintf("%d get, %d put, %d list, %d copy, %d delete, %d failed; %s in, %s out",
		b.Get, b.Put, b.List, b.Copy, b.Delete, b.Failed, size(b.BytesIn), size(b.BytesOut))
}

func mode(d DatabaseStat) string {
	if d.Passthrough {
		return plain(string(d.Mode)) + ", passthrough"
	}
	return plain(string(d.Mode))
}

func present(d DatabaseStat) string {
	if d.Pages == 0 {
		return "0"
	}
	return fmt.Sprintf("%d/%d (%d%%)", d.PagesPresent, d.Pages, d.PagesPresent*100/d.Pages)
}

func pending(d DatabaseStat, now time.Time) string {
	if d.PendingPages == 0 {
		return "-"
	}
	text := fmt.Sprintf("%d pages, %s", d.PendingPages, size(d.PendingBytes))
	if !d.PendingSince.IsZero() {
		text += ", " + age(d.PendingSince, now)
	}
	return text
}

func writers(n int) string {
	if n == 1 {
		return "1 writer"
	}
	return fmt.Sprintf("%d writers", n)
}

func latency(d DatabaseStat) string {
	if d.Faults == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f/%.1f ms", d.FaultP50, d.FaultP99)
}

// age is how long ago t was, in one unit.
func age(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case t.IsZero():
		return "-"
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), -1
	for f >= 1024 && unit < len(units)-1 {
		f /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", f, units[unit])
}

// plain quotes a name that is not printable text: applications choose them.
func plain(s string) string {
	if s == "" {
		return "-"
	}
	if q := fmt.Sprintf("%q", s); len(q) != len(s)+2 {
		return q
	}
	return s
}
