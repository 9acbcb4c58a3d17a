package netpoll

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Conn is a connection that the event loop serves from its beginning: a net.Conn for as long as a
// handshake is made on it. New then makes a Stream of it without another system call. A connection
// of package net would first be registered with the runtime's poller, and then taken off it.
//
// Writes never block. What arrives stays in memory until it is read: up to connBufferBytes, and one
// more read.
type Conn struct {
	// Immutable once started.
	s      *loopStream
	remote net.Addr
	notify func() // see Notify

	mu       sync.Mutex // guards the fields below; taken before the Stream's
	changed  sync.Cond  // broadcast when a field changes that Read or Dial waits for
	state    connState
	buf      []byte // arrived and not read
	err      error  // why nothing more will arrive
	until    time.Time
	deadline *time.Timer // of Read, at until
	expired  bool        // the deadline has passed
	next     Handler     // gets the Stream's events once it is handed over
	drained  bool        // the Stream drained before that
}

// connState is a Conn's place in its life:
//
//	connecting            -> connected   the kernel reports a dialled connection writable
//	connecting, connected -> discarding  Shutdown: what arrives is dropped
//	any                   -> handedOver  Start of the Stream that New made of it
type connState uint8

const (
	connecting connState = iota
	connected
	discarding
	handedOver
)

var connStateNames = [...]string{
	connecting: "connecting", connected: "connected", discarding: "discarding", handedOver: "handedOver",
}

func (s connState) String() string { return nameOf(connStateNames[:], s) }

// moveLocked is the only place where a connState changes: it makes the transition if the drawing
// has it.
func (c *Conn) moveLocked(to connState) {
	if to > c.state { // no transition leads back
		c.state = to
	}
}

// connBufferBytes is how much a Conn keeps unread before it leaves the rest to the kernel. It is
// also the size of a Conn's reads, so it keeps twice that at most.
const connBufferBytes = 16 << 10

// newConn makes a Conn of a non-blocking descriptor, and owns it.
func newConn(l *loop, fd int, remote net.Addr, state connState) *Conn {
	c := &Conn{remote: remote, state: state}
	c.changed.L = &c.mu
	c.s = &loopStream{loop: l, fd: fd, h: connHandler{c}, conn: c}
	return c
}

// Start makes the loop serve the Conn. Call it once, or Close instead.
func (c *Conn) Start() error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.s.registerLocked()
}

// Notify sets a function that the loop calls when bytes have arrived, or the connection has ended,
// until a Stream is made of the Conn. fn must not wait. Call Notify before Start.
func (c *Conn) Notify(fn func()) { c.notify = fn }

// OnClose sets a function that is called once, when the descriptor is closed, unless it was
// detached. Call OnClose before Start.
func (c *Conn) OnClose(fn func()) { c.s.onClose = fn }

// Received returns the bytes that have arrived and not been read, and the reason why no more will
// arrive, if there is one. The bytes are valid until the next Read, or until the function given to
// Notify returns.
func (c *Conn) Received() ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf, c.err
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.buf) == 0 && c.err == nil && !c.expired {
		c.changed.Wait()
	}
	switch {
	case c.expired:
		return 0, os.ErrDeadlineExceeded
	case len(c.buf) > 0:
		n := copy(p, c.buf)
		c.consumeLocked(n)
		return n, nil
	case errors.Is(c.err, ErrClosed):
		return 0, net.ErrClosed
	}
	return 0, c.err
}

// Discard drops the first n bytes of what Received returns.
func (c *Conn) Discard(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.consumeLocked(n)
}

// consumeLocked removes n bytes from the buffer. When little is left, the Stream reads again.
func (c *Conn) consumeLocked(n int) {
	before := len(c.buf)
	if c.buf = c.buf[n:]; len(c.buf) == 0 {
		c.buf = nil
	}
	if before >= connBufferBytes/2 && len(c.buf) < connBufferBytes/2 {
		c.s.setFull(false)
	}
}

// Write implements net.Conn. It never blocks.
func (c *Conn) Write(p []byte) (int, error) {
	c.s.Write(p)
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	switch err := c.s.err; {
	case errors.Is(err, ErrClosed):
		return 0, net.ErrClosed
	case err != nil:
		return 0, err
	}
	// Even if the peer has ended and p is dropped, what it sent before can still be read.
	return len(p), nil
}

// Close implements net.Conn. It drops bytes that wait to be written.
func (c *Conn) Close() error {
	c.s.Close()
	return nil
}

// Shutdown is like Stream's. What arrives from then on is dropped.
func (c *Conn) Shutdown(linger time.Duration) {
	c.mu.Lock()
	c.moveLocked(discarding)
	c.consumeLocked(len(c.buf))
	c.mu.Unlock()
	c.s.Shutdown(linger)
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	sa, err := syscall.Getsockname(c.s.fd)
	if err != nil {
		return nil
	}
	return netAddr(sa)
}

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn. It has no effect, because writes never block.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deadline != nil {
		c.deadline.Stop()
		c.deadline = nil
	}
	c.until = t
	left := time.Until(t)
	if c.expired = !t.IsZero() && left <= 0; !t.IsZero() && left > 0 {
		c.deadline = time.AfterFunc(left, func() { c.expire(t) })
	}
	c.changed.Broadcast()
	return nil
}

// expire ends a Read that waits, unless the deadline has been moved.
func (c *Conn) expire(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.until.Equal(t) {
		c.expired = true
		c.changed.Broadcast()
	}
}

// Detach takes the Conn off its loop and makes a connection of package net of it. That connection
// does not read again what was Received. The caller must call onClose, which may be nil, when it
// closes conn; after an error Detach has done so. Call Detach in the loop, from the function given
// to Notify.
func (c *Conn) Detach() (conn net.Conn, onClose func(), err error) {
	s := c.s
	s.mu.Lock()
	fd := s.fd
	if fd < 0 || s.phase == closing {
		s.mu.Unlock()
		return nil, nil, net.ErrClosed
	}
	s.loop.unregister(fd)
	s.loop.freeSlot(s.slot)
	s.phase.moveLocked(closed)
	s.fd, onClose, s.onClose = -1, s.onClose, nil
	s.mu.Unlock()
	conn, err = s.loop.netConn(fd)
	if err != nil {
		if onClose != nil {
			onClose()
		}
		return nil, nil, err
	}
	return conn, onClose, nil
}

// netConn makes a connection of package net of a descriptor, which it closes. That takes a second
// descriptor for a moment; if there is none left, netConn gives up the loop's spare one.
func (l *loop) netConn(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "")
	conn, err := net.FileConn(f)
	if l.spareFD >= 0 && (errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)) {
		closeFD(l.spareFD)
		l.spareFD = -1
		conn, err = net.FileConn(f)
	}
	_ = f.Close() // nothing is buffered that could fail to be written
	if l.spareFD < 0 {
		l.spareFD, _ = newEventFD() // or at the next call
	}
	return conn, err
}
