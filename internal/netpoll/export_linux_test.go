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

// MoveTo does what another process would do with a frozen Stream: it makes a Stream of a copy of
// its descriptor. This one is dropped without a message to the peer.
func MoveTo(s Stream, h Handler) (Stream, error) {
	l := s.(*loopStream)
	e, ok := l.Export()
	if !ok {
		return nil, ErrClosed
	}
	fd, err := syscall.Dup(e.FD)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.loop.unregister(l.fd)
	l.loop.freeSlot(l.slot)
	l.closeLocked()
	l.mu.Unlock()
	e.FD = fd
	next, err := Adopt(e, h)
	if err == nil {
		next.Start(e.Initial)
	}
	return next, err
}
