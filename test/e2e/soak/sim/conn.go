package main

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// conn is a client's TCP connection with faults. With zero fields it has none.
type conn struct {
	*net.TCPConn
	stalled  atomic.Int64 // when reading resumes, in Unix nanoseconds
	trickle  atomic.Bool  // one byte per write
	delay    atomic.Int64 // nanoseconds before each write
	deserted atomic.Bool  // the client is gone, without telling the peer

	closing sync.Once
	closed  chan struct{}
}

func newConn(nc *net.TCPConn) *conn { return &conn{TCPConn: nc, closed: make(chan struct{})} }

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if wait := time.Until(time.Unix(0, c.stalled.Load())); wait > 0 {
		c.sleep(wait)
	}
	if c.deserted.Load() {
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	if d := time.Duration(c.delay.Load()); d > 0 {
		c.sleep(d)
	}
	if c.deserted.Load() {
		return 0, net.ErrClosed
	}
	if !c.trickle.Load() {
		return c.TCPConn.Write(p)
	}
	for i := range p {
		if n, err := c.TCPConn.Write(p[i : i+1]); err != nil {
			return i + n, err
		}
	}
	return len(p), nil
}

// Close implements net.Conn. It ends only the client's side of a deserted
// connection.
func (c *conn) Close() error {
	c.closing.Do(func() { close(c.closed) })
	if c.deserted.Load() {
		return nil
	}
	return c.TCPConn.Close()
}

// reset ends the connection by a TCP reset.
func (c *conn) reset() {
	_ = c.SetLinger(0) // fails only if it is closed
	_ = c.Close()
}

// desert ends the client without telling the peer, which notices only its silence.
func (c *conn) desert(silence time.Duration) {
	c.deserted.Store(true)
	_ = c.SetReadDeadline(time.Now()) // interrupts a pending read; fails only if closed
	time.AfterFunc(silence, func() { _ = c.TCPConn.Close() })
}

func (c *conn) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.closed:
	}
}
