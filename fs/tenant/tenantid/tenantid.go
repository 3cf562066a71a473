// Package tenantid says what the ID of a tenant may look like. It is apart from
// the rest of a tenant, because resolvers and the proxy check IDs and know
// nothing of storage.
package tenantid

import (
	"fmt"

	"atc/fs/errors"
)

// MaxLength is the longest tenant ID in bytes: that of a DNS label, so that
// every tenant can be a subdomain.
const MaxLength = 63

// Check reports whether id can name a tenant: [a-z0-9][a-z0-9_-]{0,62}. The
// error is of kind Invalid and says which rule is broken, and where.
func Check(id string) error {
	refuse := func(format string, args ...any) error {
		shown := id
		if len(shown) > 80 {
			shown = shown[:80] + "..."
		}
		return errors.E("check tenant ID", fmt.Sprintf("%q", shown), errors.Invalid, fmt.Errorf(format, args...))
	}
	if id == "" {
		return refuse("it is empty")
	}
	if len(id) > MaxLength {
		return refuse("%d bytes are too long: at most %d", len(id), MaxLength)
	}
	for i := 0; i < len(id); i++ {
		c := id[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case (c == '_' || c == '-') && i > 0:
		case c == '_' || c == '-':
			return refuse("it begins with %q: the first character is a lower-case letter or a digit", c)
		case 'A' <= c && c <= 'Z':
			return refuse("upper-case %q at byte %d: use lower-case letters", c, i)
		default:
			return refuse("%q at byte %d: only a-z, 0-9, '_' and '-' are allowed", c, i)
		}
	}
	return nil
}
