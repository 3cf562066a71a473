package proxy

import (
	"net/url"
	"testing"
)

func TestPoolKeysAreDistinctHosts(t *testing.T) {
	seen := map[string][2]string{}
	for _, tenant := range []string{"a", "a-1", "a_1", "x", "a-x"} {
		for _, run := range []string{"", "1", "-1", "x", "X", "1:80", "a/b", "a.b", "é", "\x00", "x.31", "3a"} {
			key := poolKey(tenant, run)
			if other, ok := seen[key]; ok {
				t.Errorf("%s %q and %q share %s", tenant, run, other, key)
			}
			seen[key] = [2]string{tenant, run}
			if u, err := url.Parse("http://" + key); err != nil || u.Hostname() != key {
				t.Errorf("%q is no host: %v", key, err)
			}
		}
	}
}
