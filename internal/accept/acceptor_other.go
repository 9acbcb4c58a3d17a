//go:build !linux

package accept

import "net"

// acceptor is never created, because only Linux has an event loop.
type acceptor struct{}

func newAcceptor(*Listener) *acceptor { return nil }

func (*acceptor) next() (net.Conn, error) { return nil, net.ErrClosed }

func (*acceptor) close() {}

func (*acceptor) pause() {}

func (*acceptor) resume() {}
