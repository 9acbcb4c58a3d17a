//go:build !linux

package netpoll

import (
	"context"
	"net"
	"time"
)

// Dial connects to a TCP or Unix address, within the timeout. Errors are *net.OpError, as of net.Dialer.
func Dial(ctx context.Context, addr net.Addr, timeout time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: timeout}
	return d.DialContext(ctx, addr.Network(), addr.String())
}
