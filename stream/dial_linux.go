package stream

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// Dial connects to a TCP or Unix address, within the timeout. The connection is a *Conn where a loop can serve it. Errors are
// *net.OpError, as of net.Dialer.
func Dial(ctx context.Context, addr net.Addr, timeout time.Duration) (net.Conn, error) {
	family, sa := sockaddr(addr)
	if sa == nil || pickLoop() == nil {
		d := net.Dialer{Timeout: timeout}
		return d.DialContext(ctx, addr.Network(), addr.String())
	}
	c, err := connect(family, sa, addr)
	if err == nil {
		err = c.awaitOpen(ctx, timeout)
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: addr.Network(), Addr: addr, Err: err}
	}
	return c, nil
}

// sockaddr is an address as the system takes it, or nil.
func sockaddr(addr net.Addr) (family int, sa syscall.Sockaddr) {
	switch a := addr.(type) {
	case *net.UnixAddr:
		return syscall.AF_UNIX, &syscall.SockaddrUnix{Name: a.Name}
	case *net.TCPAddr:
		if ip := a.IP.To4(); ip != nil {
			return syscall.AF_INET, &syscall.SockaddrInet4{Port: a.Port, Addr: [4]byte(ip)}
		}
		if ip := a.IP.To16(); ip != nil && a.Zone == "" {
			return syscall.AF_INET6, &syscall.SockaddrInet6{Port: a.Port, Addr: [16]byte(ip)}
		}
	}
	return 0, nil
}

// connect begins to connect, and has a loop serve the connection.
func connect(family int, sa syscall.Sockaddr, addr net.Addr) (*Conn, error) {
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	noDelay(fd, family)
	err = syscall.Connect(fd, sa)
	if err != nil && !errors.Is(err, syscall.EINPROGRESS) && !errors.Is(err, syscall.EINTR) {
		closeFD(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	c := newConn(fd, addr)
	c.open = err == nil
	if !c.open { // over the loopback it is mostly there already
		_, err := syscall.Getpeername(fd)
		c.open = err == nil
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	return c, nil
}

// noDelay has small writes sent at once, as package net does.
func noDelay(fd, family int) {
	if family != syscall.AF_UNIX {
		_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1) // else it is only slower
	}
}

// awaitOpen waits until the connection has come about. It is closed if it does not.
func (c *Conn) awaitOpen(ctx context.Context, timeout time.Duration) error {
	c.mu.Lock()
	open := c.open
	c.mu.Unlock()
	if open {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Now()) })
	err := c.opened()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = c.Close()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = ctx.Err()
	}
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		err = os.NewSyscallError("connect", errno)
	}
	return err
}

// opened waits until the connection has come about, or cannot, or the deadline for reading is over.
func (c *Conn) opened() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.open && c.err == nil && !c.expired {
		c.changed.Wait()
	}
	if c.err == nil && c.expired {
		return os.ErrDeadlineExceeded
	}
	return c.err
}
