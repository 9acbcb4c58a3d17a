package netpoll

import (
	"errors"
	"syscall"
)

// HeldBytes is how much a Conn holds, more or less.
const HeldBytes = heldBytes

// SetBuffers sets the sizes of the kernel's buffers.
func (c *Conn) SetBuffers(n int) error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return errors.Join(
		syscall.SetsockoptInt(c.s.fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, n),
		syscall.SetsockoptInt(c.s.fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, n))
}

// NoDelay reports whether small writes are sent at once.
func (c *Conn) NoDelay() bool {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	on, err := syscall.GetsockoptInt(c.s.fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY)
	return err == nil && on != 0
}
