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

// Dial connects to a TCP or Unix address, within the timeout. The connection is a *Conn where a loop can serve it. Errors are
// *net.OpError, as of net.Dialer.
func Dial(ctx context.Context, addr net.Addr, timeout time.Duration) (net.Conn, error) {
	family, sa := sockaddr(addr)
	if sa == nil || pickLoop() == nil {
		d := net.Dialer{Timeout: timeout}
		return d.DialContext(ctx, addr.Network(), addr.String())
	}
	c, err := connect(ctx, family, sa, addr, timeout)
	for range 2 { // as package net does
		if !errors.Is(err, errItself) && !errors.Is(err, syscall.EADDRNOTAVAIL) {
			break
		}
		c, err = connect(ctx, family, sa, addr, timeout)
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: addr.Network(), Addr: addr, Err: err}
	}
	return c, nil
}

// errItself is for a connection to itself, which comes about if the system chooses the very port that is dialled for the end
// that dials, and nobody listens there.
var errItself = fmt.Errorf("connected to itself: %w", syscall.ECONNREFUSED)

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

// connect makes a connection that a loop serves.
func connect(ctx context.Context, family int, sa syscall.Sockaddr, addr net.Addr, timeout time.Duration) (*Conn, error) {
	c, err := beginToConnect(family, sa, addr)
	if err != nil {
		return nil, err
	}
	err = c.awaitOpen(ctx, timeout)
	if err == nil && c.isItself() {
		err = errItself
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func beginToConnect(family int, sa syscall.Sockaddr, addr net.Addr) (*Conn, error) {
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
	c := newConn(pickLoop(), fd, addr)
	c.open = err == nil
	if !c.open { // over the loopback it is mostly there already
		_, err := syscall.Getpeername(fd)
		c.open = err == nil
	}
	return c, c.Start()
}

// noDelay has small writes sent at once, as package net does.
func noDelay(fd, family int) {
	if family != syscall.AF_UNIX {
		_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1) // else it is only slower
	}
}

// awaitOpen waits until the connection has come about.
func (c *Conn) awaitOpen(ctx context.Context, timeout time.Duration) error {
	c.mu.Lock()
	open := c.open
	c.mu.Unlock()
	if open {
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Now()) })
	err := c.opened()
	if !stop() { // the connection has a deadline now
		return ctx.Err()
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
	switch {
	case c.open: // even if it has ended since
		return nil
	case c.err != nil:
		return c.err
	}
	return os.ErrDeadlineExceeded
}

// isItself reports whether both ends of the connection are one.
func (c *Conn) isItself() bool {
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
