package netpoll

import (
	"errors"
	"syscall"
)

// ConnBufferBytes is about how many unread bytes a Conn buffers.
const ConnBufferBytes = connBufferBytes

// AcceptPause is how long a listener waits after a failed accept.
const AcceptPause = acceptPause

// NewLoop starts an event loop.
func NewLoop() error {
	_, err := newLoop()
	return err
}

// SetBuffers sets the sizes of the kernel's socket buffers.
func (c *Conn) SetBuffers(n int) error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return errors.Join(
		syscall.SetsockoptInt(c.s.fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, n),
		syscall.SetsockoptInt(c.s.fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, n))
}

// NoDelay reports whether small writes are sent immediately.
func (c *Conn) NoDelay() bool {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	on, err := syscall.GetsockoptInt(c.s.fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY)
	return err == nil && on != 0
}
