package stream

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
