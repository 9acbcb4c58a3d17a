package accept

import (
	"io"
	"net"
	"time"
)

// track wraps conn. The wrapper calls closed when it is closed, and its reader gets the bytes in b
// first. It embeds a *net.TCPConn or *net.UnixConn, because package netpoll needs the plain socket
// (Unwrap).
func track(conn net.Conn, closed func(), b bufferedBytes) net.Conn {
	switch c := conn.(type) {
	case *net.TCPConn:
		return &trackedTCP{c, closed, b}
	case *net.UnixConn:
		return &trackedUnix{c, closed, b}
	}
	closed()
	return conn
}

// bufferedBytes is the state of a connection from before net/http got it. Only the connection's
// reader uses it.
type bufferedBytes struct {
	unread []byte    // read from the socket, but not yet by net/http
	headBy time.Time // deadline for the first request's head; zero if that has not begun
}

// Unread removes and returns what was already read.
func (b *bufferedBytes) Unread() []byte {
	p := b.unread
	b.unread = nil
	return p
}

// readFrom reads the buffered bytes first, then r.
func (b *bufferedBytes) readFrom(r io.Reader, p []byte) (int, error) {
	if len(b.unread) == 0 {
		return r.Read(p)
	}
	n := copy(p, b.unread)
	if b.unread = b.unread[n:]; len(b.unread) == 0 {
		b.unread = nil
	}
	return n, nil
}

// writeTo writes the buffered bytes to w, then all of r.
func (b *bufferedBytes) writeTo(w io.Writer, r io.WriterTo) (int64, error) {
	var n int
	if p := b.Unread(); len(p) > 0 {
		var err error
		if n, err = w.Write(p); err != nil {
			return int64(n), err
		}
	}
	m, err := r.WriteTo(w)
	return int64(n) + m, err
}

// readDeadline returns the deadline to set in place of t. The first one that net/http sets is for
// the first request's head. It counts from when net/http got the connection, so the earlier headBy
// replaces it.
func (b *bufferedBytes) readDeadline(t time.Time) time.Time {
	if b.headBy.IsZero() {
		return t
	}
	if !t.IsZero() && b.headBy.Before(t) {
		t = b.headBy
	}
	b.headBy = time.Time{}
	return t
}

// trackedTCP is a TCP connection that the Listener counts.
type trackedTCP struct {
	*net.TCPConn

	closed func()
	bufferedBytes
}

// Read implements net.Conn.
func (c *trackedTCP) Read(p []byte) (int, error) { return c.readFrom(c.TCPConn, p) }

// SetReadDeadline implements net.Conn.
func (c *trackedTCP) SetReadDeadline(t time.Time) error {
	return c.TCPConn.SetReadDeadline(c.readDeadline(t))
}

// WriteTo implements io.WriterTo.
func (c *trackedTCP) WriteTo(w io.Writer) (int64, error) { return c.writeTo(w, c.TCPConn) }

// Close implements net.Conn.
func (c *trackedTCP) Close() error {
	c.closed()
	return c.TCPConn.Close()
}

// Unwrap implements netpoll.TrackedConn.
func (c *trackedTCP) Unwrap() (net.Conn, func()) { return c.TCPConn, c.closed }

// trackedUnix is a connection over a Unix socket that the Listener counts.
type trackedUnix struct {
	*net.UnixConn

	closed func()
	bufferedBytes
}

// Read implements net.Conn.
func (c *trackedUnix) Read(p []byte) (int, error) { return c.readFrom(c.UnixConn, p) }

// SetReadDeadline implements net.Conn.
func (c *trackedUnix) SetReadDeadline(t time.Time) error {
	return c.UnixConn.SetReadDeadline(c.readDeadline(t))
}

// Close implements net.Conn.
func (c *trackedUnix) Close() error {
	c.closed()
	return c.UnixConn.Close()
}

// Unwrap implements netpoll.TrackedConn.
func (c *trackedUnix) Unwrap() (net.Conn, func()) { return c.UnixConn, c.closed }
