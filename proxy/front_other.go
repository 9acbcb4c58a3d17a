//go:build !linux

package proxy

import "net"

// newFront returns nil: there is an event loop for Linux only.
func newFront(*Server, net.Listener, *limitedListener) net.Listener { return nil }
