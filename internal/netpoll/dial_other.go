//go:build !linux

package netpoll

import (
	"context"
	"net"
	"time"
)

// Dial connects to a TCP or Unix address within timeout. Errors are *net.OpError, like those of
// net.Dialer.
func Dial(ctx context.Context, addr net.Addr, timeout time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: timeout}
	return d.DialContext(ctx, addr.Network(), addr.String())
}
