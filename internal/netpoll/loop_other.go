//go:build !linux

package netpoll

import "net"

// startLoops does nothing: the event loop exists on Linux only.
func startLoops() error { return nil }

// newLoopStream returns nil, so that New makes a goStream.
func newLoopStream(net.Conn, Handler) Stream { return nil }
