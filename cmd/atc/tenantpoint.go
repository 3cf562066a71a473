package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/superfly/ltx"
)

// This file defines how an operator writes a moment and a transaction.

// parseMoment reads a moment: RFC 3339, a date for its midnight in UTC, or how
// long before now.
func parseMoment(s string, now time.Time) (time.Time, error) {
	refuse := func(why string) (time.Time, error) {
		return time.Time{}, fmt.Errorf("--at %s: %s; write 2026-11-21T10:00:00Z, 2026-11-21, or -90m, -2h or -3d for so long ago", s, why)
	}
	if ago, ok := strings.CutPrefix(s, "-"); ok {
		d, err := parseAgo(ago)
		if err != nil || d <= 0 {
			return refuse("no duration")
		}
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		if t.After(now) {
			return refuse("it is in the future")
		}
		return t, nil
	}
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		if t.After(now) {
			return refuse("it is in the future")
		}
		return t, nil
	}
	for _, without := range []string{"2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04"} {
		if _, err := time.Parse(without, s); err == nil {
			return refuse("it has no time zone, such as a Z at its end")
		}
	}
	return refuse("no time")
}

// parseAgo is time.ParseDuration with days.
func parseAgo(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(s)
}

// parseTXID reads a transaction's number: as names of files have it, or decimal.
func parseTXID(s string) (ltx.TXID, error) {
	const digits = 16
	base := 10
	if len(s) == digits {
		base = 16
	}
	n, err := strconv.ParseUint(s, base, 64)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("--txid %s: write 16 hexadecimal digits as in the names of LTX files, or a decimal number from 1", s)
	}
	return ltx.TXID(n), nil
}
