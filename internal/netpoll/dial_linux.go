package netpoll

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// Dial connects to a TCP or Unix address within timeout. It returns a *Conn if the event loop can
// serve the connection, and otherwise one of package net. Errors are *net.OpError, like those of
// net.Dialer.
func Dial(ctx context.Context, addr net.Addr, timeout time.Duration) (net.Conn, error) {
	family, sa := sockaddr(addr)
	l := pickLoop()
	if sa == nil || l == nil {
		d := net.Dialer{Timeout: timeout}
		return d.DialContext(ctx, addr.Network(), addr.String())
	}
	c, err := connect(ctx, l, family, sa, addr, timeout)
	for range 2 { // as package net does
		if !errors.Is(err, errSelfConnect) && !errors.Is(err, syscall.EADDRNOTAVAIL) {
			break
		}
		c, err = connect(ctx, l, family, sa, addr, timeout)
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: addr.Network(), Addr: addr, Err: err}
	}
	return c, nil
}

// errSelfConnect is for a connection to itself. If no process listens on the port, the kernel may
// choose that very port as the local one. TCP's simultaneous open then succeeds.
var errSelfConnect = fmt.Errorf("connected to itself: %w", syscall.ECONNREFUSED)

// connect makes a connection that l serves.
func connect(ctx context.Context, l *loop, family int, sa syscall.Sockaddr, addr net.Addr, timeout time.Duration) (*Conn, error) {
	c, err := startConnect(l, family, sa, addr)
	if err != nil {
		return nil, err
	}
	err = c.awaitConnected(ctx, timeout)
	if err == nil && c.isSelfConnected() {
		err = errSelfConnect
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func startConnect(l *loop, family int, sa syscall.Sockaddr, addr net.Addr) (*Conn, error) {
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	noDelay(fd, family)
	err = connectFD(fd, sa)
	if err != nil && !errors.Is(err, syscall.EINPROGRESS) && !errors.Is(err, syscall.EINTR) {
		closeFD(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	state := connected
	if err != nil { // over the loopback it is mostly connected already
		if _, err := syscall.Getpeername(fd); err != nil {
			state = connecting
		}
	}
	c := newConn(l, fd, addr, state)
	return c, c.Start()
}

// noDelay turns off Nagle's algorithm, as package net does.
func noDelay(fd, family int) {
	if family != syscall.AF_UNIX {
		// Without it writes are only slower.
		_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	}
}

// awaitConnected waits until the connection is established, or fails.
func (c *Conn) awaitConnected(ctx context.Context, timeout time.Duration) error {
	c.mu.Lock()
	state := c.state
	c.mu.Unlock()
	if state != connecting {
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Now()) })
	err := c.waitConnected()
	if !stop() { // the connection has a deadline now
		return ctx.Err()
	}
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		err = os.NewSyscallError("connect", errno)
	}
	return err
}

// waitConnected waits for the same, or for Read's deadline.
func (c *Conn) waitConnected() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.state == connecting && c.err == nil && !c.expired {
		c.changed.Wait()
	}
	switch {
	case c.state != connecting: // even if it has ended since
		return nil
	case c.err != nil:
		return c.err
	}
	return os.ErrDeadlineExceeded
}

// isSelfConnected reports whether both ends of the connection are the same socket.
func (c *Conn) isSelfConnected() bool {
	remote, ok := c.remote.(*net.TCPAddr)
	if !ok {
		return false
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	sa, err := syscall.Getsockname(c.s.fd)
	local, ok := netAddr(sa).(*net.TCPAddr)
	if err != nil || !ok || local.Port != remote.Port {
		return false
	}
	sa, err = syscall.Getpeername(c.s.fd)
	return err == nil && netAddr(sa).String() == local.String()
}
