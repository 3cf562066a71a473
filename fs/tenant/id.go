package tenant

import (
	"fmt"

	"atc/fs/errors"
)

// MaxIDLength is the longest tenant ID in bytes: that of a DNS label, so that
// every tenant can be a subdomain.
const MaxIDLength = 63

// CheckID reports whether id can name a tenant: [a-z0-9][a-z0-9_-]{0,62}. The
// error is of kind Invalid and says which rule is broken, and where.
func CheckID(id string) error {
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
	if len(id) > MaxIDLength {
		return refuse("%d bytes are too long: at most %d", len(id), MaxIDLength)
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
