package netpoll

import (
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Conn is a connection that a loop serves from its beginning, for as long as a handshake is made on it: a net.Conn. New
// makes a Stream of it then, without a further call of the system's. So it spares what net's own connections cost that
// are opened only to be taken over: they are registered with the runtime's poller, and taken off again.
//
// A write does not wait for the kernel. What comes waits in memory until it is read, as far as heldBytes goes.
type Conn struct {
	s      *loopStream
	remote net.Addr
	notify func() // see Notify

	mu       sync.Mutex // guards the fields below; taken before the stream's
	changed  sync.Cond  // broadcast when one of them has changed that somebody may wait for
	buf      []byte     // what came and was not read
	full     bool       // no more is read until some of it is
	dropping bool       // nothing that comes is wanted any more
	open     bool       // the connection has come about
	err      error      // why no more will come
	expired  bool       // the deadline for Read has passed
	until    time.Time  // that deadline
	deadline *time.Timer
	next     Handler // who gets the stream when it is started
	drained  bool    // the stream drained before that
	given    bool    // next has it
}

// heldBytes is how much of what comes is kept for Read, before the rest is left to the kernel. It is also the size of a read,
// so twice that is held at most.
const heldBytes = 16 << 10

// newConn makes a Conn of a descriptor that does not block, which it owns.
func newConn(l *loop, fd int, remote net.Addr) *Conn {
	c := &Conn{remote: remote}
	c.changed.L = &c.mu
	c.s = &loopStream{loop: l, fd: fd, h: heldReader{c}, held: c}
	return c
}

// Start has the loop serve the Conn. It is to be called once, or Close in its stead.
func (c *Conn) Start() error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.s.registerLocked()
}

// Notify has fn called in the loop whenever something has come, or the connection has ended, until a Stream is made of
// it. fn must not wait. It is to be called before Start.
func (c *Conn) Notify(fn func()) { c.notify = fn }

// OnRelease has fn called once, when the connection's descriptor is closed, unless it was detached. It is to be called before Start.
func (c *Conn) OnRelease(fn func()) { c.s.release = fn }

// Received is what has come and was not read, and why no more will come, if so. It is valid until the next Read, or until
// fn returns that was given to Notify.
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
		c.takeLocked(n)
		return n, nil
	case errors.Is(c.err, ErrClosed):
		return 0, net.ErrClosed
	}
	return 0, c.err
}

// Discard drops the first n bytes of what was Received.
func (c *Conn) Discard(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.takeLocked(n)
}

// takeLocked takes n bytes from what came.
func (c *Conn) takeLocked(n int) {
	if c.buf = c.buf[n:]; len(c.buf) == 0 {
		c.buf = nil
	}
	if c.full && len(c.buf) < heldBytes/2 {
		c.full = false
		c.s.hold(false)
	}
}

// Write implements net.Conn. It does not wait.
func (c *Conn) Write(p []byte) (int, error) {
	c.s.Write(p)
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	switch {
	case c.s.werr != nil:
		return 0, c.s.werr
	case c.s.closed:
		return 0, net.ErrClosed
	}
	return len(p), nil // or dropped, if the peer has ended: then what it said before is still to be read
}

// Close implements net.Conn. What waits to be written is dropped.
func (c *Conn) Close() error {
	c.s.Close()
	return nil
}

// Shutdown is Stream's. What comes from then on is dropped.
func (c *Conn) Shutdown(linger time.Duration) {
	c.mu.Lock()
	c.dropping = true
	c.takeLocked(len(c.buf))
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

// SetWriteDeadline implements net.Conn: a write does not wait.
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

// expire ends a Read that waits, unless the deadline was moved meanwhile.
func (c *Conn) expire(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.until.Equal(t) {
		c.expired = true
		c.changed.Broadcast()
	}
}

// Detach takes the Conn off its loop, and makes one of package net of it; what has been Received is not read from that
// again. release is what was to be called when the connection is closed; after an error that is done. Detach is to be called
// in the loop, by the function given to Notify.
func (c *Conn) Detach() (conn net.Conn, release func(), err error) {
	s := c.s
	s.mu.Lock()
	fd := s.fd
	if fd < 0 || s.closed {
		s.mu.Unlock()
		return nil, nil, net.ErrClosed
	}
	s.loop.forget(fd)
	s.loop.remove(s.slot)
	s.fd, release, s.release = -1, s.release, nil
	s.mu.Unlock()
	conn, err = s.loop.netConn(fd)
	if err != nil {
		if release != nil {
			release()
		}
		return nil, nil, err
	}
	return conn, release, nil
}

// netConn makes a connection of package net of a descriptor, which is closed. It needs a second one for a moment: where there
// is none, the loop's spare one makes room.
func (l *loop) netConn(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "")
	conn, err := net.FileConn(f)
	if l.spareFD >= 0 && (errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)) {
		closeFD(l.spareFD)
		l.spareFD = -1
		conn, err = net.FileConn(f)
	}
	_ = f.Close() // it is no file with something left to write
	if l.spareFD < 0 {
		l.spareFD, _ = newEventFD() // or the next time
	}
	return conn, err
}

// heldReader is the Handler of a Conn's stream, until New gives it another.
type heldReader struct{ c *Conn }

// Read implements Handler.
func (r heldReader) Read(p []byte) {
	c := r.c
	c.mu.Lock()
	switch {
	case c.given: // just now
		c.mu.Unlock()
		c.s.passOn(p)
		return
	case c.dropping:
		c.mu.Unlock()
		return
	}
	c.buf = append(c.buf, p...)
	if len(c.buf) >= heldBytes {
		c.full = true
		c.s.hold(true)
	}
	c.changed.Broadcast()
	c.mu.Unlock()
	if c.notify != nil {
		c.notify()
	}
}

// Flush implements Handler.
func (r heldReader) Flush() {
	c := r.c
	c.mu.Lock()
	given := c.given
	c.mu.Unlock()
	if given { // since it was read
		c.next.Flush()
	}
}

// Drained implements Handler.
func (r heldReader) Drained() {
	c := r.c
	c.mu.Lock()
	given := c.given
	c.drained = true
	c.mu.Unlock()
	if given {
		c.next.Drained()
	}
}

// Closed implements Handler.
func (r heldReader) Closed(err error) {
	c := r.c
	c.mu.Lock()
	given := c.given
	c.err = err
	c.changed.Broadcast()
	c.mu.Unlock()
	switch {
	case given: // just now: what came before is to be read first
		c.s.endFor(err)
	case c.notify != nil:
		c.notify()
	}
}

// connected says that the connection has come about.
func (c *Conn) connected() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = true
	c.changed.Broadcast()
}

// become has h get what happens from the stream's start on.
func (c *Conn) become(h Handler) Stream {
	c.next = h
	return c.s
}

// give starts the stream for the Handler that became its own.
func (c *Conn) give(initial []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deadline != nil {
		c.deadline.Stop()
	}
	initial = append(slices.Clip(initial), c.buf...)
	c.buf = nil
	c.given = true
	c.s.startHeld(c.next, initial, c.err)
	if c.drained && c.err == nil {
		go c.s.tellDrained(c.next)
	}
}

// hold stops the reading of a stream whose Conn has enough for now, or goes on with it.
func (s *loopStream) hold(full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full = full && s.werr == nil && !s.closed // else the end is to be found
	if !s.full && s.unread {
		s.unread = false
		s.loop.schedule(s)
	}
}

// startHeld gives the stream its Handler; ended is not nil if the connection has ended.
func (s *loopStream) startHeld(h Handler, initial []byte, ended error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.h, s.held, s.initial, s.full = h, nil, initial, false
	switch {
	case ended != nil:
		s.endedLocked(ended)
	case len(initial) > 0, s.unread:
		s.loop.schedule(s) // no event will come for that
	}
}

// endFor has the Handler read what came before, and then told of the end, when it is not paused.
func (s *loopStream) endFor(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endedLocked(err)
}

func (s *loopStream) endedLocked(err error) {
	s.ended, s.werr = true, err
	s.loop.schedule(s)
}

// passOn gives p to the Handler that the stream got while p was read, after what came before. It runs in the loop.
func (s *loopStream) passOn(p []byte) {
	s.mu.Lock()
	h, initial := s.h, s.initial
	switch {
	case s.closed:
		s.mu.Unlock()
		return
	case s.paused:
		s.initial, s.unread = append(initial, p...), true
		s.mu.Unlock()
		return
	}
	s.initial = nil
	s.mu.Unlock()
	if len(initial) > 0 {
		h.Read(initial)
	}
	h.Read(p)
}

func (s *loopStream) tellDrained(h Handler) {
	defer recoverFor(h, s.Close)
	h.Drained()
}

// netAddr is a socket's address as package net has it.
func netAddr(sa syscall.Sockaddr) net.Addr {
	switch sa := sa.(type) {
	case *syscall.SockaddrInet4:
		return &net.TCPAddr{IP: slices.Clone(sa.Addr[:]), Port: sa.Port}
	case *syscall.SockaddrInet6:
		return &net.TCPAddr{IP: slices.Clone(sa.Addr[:]), Port: sa.Port, Zone: zone(sa.ZoneId)}
	case *syscall.SockaddrUnix:
		return &net.UnixAddr{Name: sa.Name, Net: "unix"}
	}
	return nil
}

// zone is the name of a link-local address's interface.
func zone(index uint32) string {
	if index == 0 {
		return ""
	}
	ifi, err := net.InterfaceByIndex(int(index))
	if err != nil {
		return ""
	}
	return ifi.Name
}
