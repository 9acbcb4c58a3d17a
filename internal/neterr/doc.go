// Package neterr recognizes the errors of the network that callers branch on, on every system.
//
// On Windows the constants of package syscall such as ECONNREFUSED are inventions of Go: the
// system's own numbers are others, and errors.Is does not equate them.
package neterr
