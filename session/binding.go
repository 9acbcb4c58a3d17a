package session

import "crypto/subtle"

// Binding is a digest of what a session is bound to in addition to its pid, so that a stolen pid is
// worth nothing. The caller computes it, and does not keep the secrets. The empty Binding binds to
// nothing.
type Binding string

// equal compares in constant time.
func (b Binding) equal(other Binding) bool {
	return subtle.ConstantTimeCompare([]byte(b), []byte(other)) == 1
}
