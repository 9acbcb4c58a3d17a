// Package buildinfo says which build of holdfast is running: version, commit, date and Go version.
//
// A release sets Version, Commit and Date at link time (the Makefile's LDFLAGS). Otherwise they
// come from what the Go tool recorded in the binary, as far as it did.
package buildinfo
