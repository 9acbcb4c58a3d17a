package session

import "crypto/subtle"

// Binding is a digest of what a session is bound to beside its pid: with it a stolen pid alone is worth nothing. It is
// made by the caller, of secrets that it does not keep. Empty, a session is bound to nothing.
type Binding string

// equal takes a time that does not depend on where two bindings differ.
func (b Binding) equal(other Binding) bool {
	return subtle.ConstantTimeCompare([]byte(b), []byte(other)) == 1
}
