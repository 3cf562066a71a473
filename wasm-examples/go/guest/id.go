//go:build wasip1

package guest

// IDRule is what ValidID checks, in words for a client.
const IDRule = "a tenant ID has 1 to 63 characters a-z, 0-9, '_' or '-', and begins with a letter or a digit."

// ValidID reports whether id can be a tenant's at all. [Tenant] answers for any
// bytes; this is for telling a client more than that there is no such tenant.
func ValidID(id string) bool {
	if id == "" || len(id) > 63 {
		return false
	}
	for i := 0; i < len(id); i++ {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case (c == '_' || c == '-') && i > 0:
		default:
			return false
		}
	}
	return true
}
