package tenantid_test

import (
	"strings"
	"testing"

	"atc/fs/errors"
	"atc/fs/tenant/tenantid"
)

func TestIDs(t *testing.T) {
	for id, reason := range map[string]string{
		"":                           "empty",
		"../x":                       "'.' at byte 0",
		"a/b":                        "'/' at byte 1",
		"a\x00b":                     `'\x00' at byte 1`,
		"Acme":                       "upper-case 'A' at byte 0",
		"-a":                         "begins with '-'",
		"_a":                         "begins with '_'",
		strings.Repeat("a", 64):      "64 bytes are too long",
		strings.Repeat("../", 10000): "too long",
		"K":                          "at byte 0", // Kelvin sign, which lower-cases to k
	} {
		err := tenantid.Check(id)
		if !errors.Is(errors.Invalid, err) || !strings.Contains(err.Error(), reason) || len(err.Error()) > 300 {
			t.Errorf("%.20q: %v, want %q", id, err, reason)
		}
	}
	for _, id := range []string{"a", "0", "a-b_c", strings.Repeat("a", 63)} {
		if err := tenantid.Check(id); err != nil {
			t.Error(err)
		}
	}
}
