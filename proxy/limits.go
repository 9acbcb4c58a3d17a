package proxy

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/limit"
	"github.com/holdfast/holdfast/metrics"
)

// clientAddress is where a request comes from: the peer or, where that is trusted, the last address that is not among those
// which X-Forwarded-For names. What stands before it, the client may have made up. It is the zero Addr on a Unix socket.
func (s *Server) clientAddress(r *http.Request) netip.Addr {
	peer := hostAddr(r.RemoteAddr)
	if !s.trustsAddr(peer) {
		return peer
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		addr, ok := parseHop(strings.TrimSpace(hop))
		if !ok {
			break
		}
		peer = addr
		if !s.trustsAddr(peer) {
			break
		}
	}
	return peer
}

// parseHop reads an address as proxies write it: some add the port, and some put an IPv6 address into brackets.
func parseHop(hop string) (addr netip.Addr, ok bool) {
	if addr := hostAddr(hop); addr.IsValid() {
		return addr, true
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(hop, "["), "]"))
	return addr.Unmap(), err == nil
}

func hostAddr(hostPort string) netip.Addr {
	ap, err := netip.ParseAddrPort(hostPort)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

func (s *Server) trustsAddr(addr netip.Addr) bool {
	for _, p := range s.settings().trusted {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// Listener counts the connections of a listener for clients, and closes those over the limits at once. Where it can, it answers
// the handshakes of WebSockets itself. With tls, the connections are going to be wrapped in TLS.
func (s *Server) Listener(ln net.Listener, tls bool) net.Listener {
	counted := &limitedListener{Listener: ln, srv: s, perAddress: make(map[netip.Addr]int)}
	if !tls {
		if f := newFront(s, ln, counted); f != nil {
			return f
		}
	}
	return counted
}

type limitedListener struct {
	net.Listener
	srv *Server

	mu         sync.Mutex // guards the fields below
	total      int
	perAddress map[netip.Addr]int
}

// Accept implements net.Listener.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			if isOutOfDescriptors(err) { // net/http waits a little, a second at most, and accepts again
				l.srv.outOfDescriptors(err)
			}
			return nil, err
		}
		addr := hostAddr(conn.RemoteAddr().String())
		if reached := l.admit(addr); reached != "" {
			l.srv.refused(reached, addr)
			conn.Close()
			continue
		}
		return countedConn(conn, sync.OnceFunc(func() { l.leave(addr) }), begun{}), nil
	}
}

// countedConn returns the connection as one that calls leave when it is closed, and that has begun already. It stays a
// *net.TCPConn or *net.UnixConn inside: package stream wants the plain socket.
func countedConn(conn net.Conn, leave func(), b begun) net.Conn {
	switch c := conn.(type) {
	case *net.TCPConn:
		return &countedTCP{c, leave, b}
	case *net.UnixConn:
		return &countedUnix{c, leave, b}
	}
	leave()
	return conn
}

// begun is what a connection has behind it when net/http gets it. It is read and changed by those who read the connection.
type begun struct {
	unread []byte    // was read, and is to be read again
	headBy time.Time // when the first request's head has to be there, if the time for that runs already
}

// Unread takes what is to be read again.
func (b *begun) Unread() []byte {
	p := b.unread
	b.unread = nil
	return p
}

// readFrom reads that, and then r.
func (b *begun) readFrom(r io.Reader, p []byte) (int, error) {
	if len(b.unread) == 0 {
		return r.Read(p)
	}
	n := copy(p, b.unread)
	if b.unread = b.unread[n:]; len(b.unread) == 0 {
		b.unread = nil
	}
	return n, nil
}

// writeTo writes it, and then all of r.
func (b *begun) writeTo(w io.Writer, r io.WriterTo) (int64, error) {
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

// readDeadline is the deadline to set for t. The first that is set is for the first request's head: net/http counts from
// when it got the connection.
func (b *begun) readDeadline(t time.Time) time.Time {
	if b.headBy.IsZero() {
		return t
	}
	if !t.IsZero() && b.headBy.Before(t) {
		t = b.headBy
	}
	b.headBy = time.Time{}
	return t
}

// admit counts a connection, or returns the limit that it would pass.
func (l *limitedListener) admit(addr netip.Addr) metrics.RefusalLimit {
	limits := l.srv.settings().Limits
	counted := addr.IsValid() && limits.MaxConnectionsPerAddress > 0 && !l.srv.trustsAddr(addr)
	addr = limit.Network(addr)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case limits.MaxConnections > 0 && l.total >= limits.MaxConnections:
		return metrics.Connections
	case counted && l.perAddress[addr] >= limits.MaxConnectionsPerAddress:
		return metrics.ConnectionsPerAddress
	}
	l.total++
	l.perAddress[addr]++
	return ""
}

func (l *limitedListener) leave(addr netip.Addr) {
	addr = limit.Network(addr)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.perAddress[addr]--; l.perAddress[addr] <= 0 {
		delete(l.perAddress, addr)
	}
}

type countedTCP struct {
	*net.TCPConn
	leave func()
	begun
}

// Read implements net.Conn.
func (c *countedTCP) Read(p []byte) (int, error) { return c.readFrom(c.TCPConn, p) }

// SetReadDeadline implements net.Conn.
func (c *countedTCP) SetReadDeadline(t time.Time) error {
	return c.TCPConn.SetReadDeadline(c.readDeadline(t))
}

// WriteTo implements io.WriterTo.
func (c *countedTCP) WriteTo(w io.Writer) (int64, error) { return c.writeTo(w, c.TCPConn) }

// Close implements net.Conn.
func (c *countedTCP) Close() error {
	c.leave()
	return c.TCPConn.Close()
}

// Release implements stream.Counted.
func (c *countedTCP) Release() (net.Conn, func()) { return c.TCPConn, c.leave }

type countedUnix struct {
	*net.UnixConn
	leave func()
	begun
}

// Read implements net.Conn.
func (c *countedUnix) Read(p []byte) (int, error) { return c.readFrom(c.UnixConn, p) }

// SetReadDeadline implements net.Conn.
func (c *countedUnix) SetReadDeadline(t time.Time) error {
	return c.UnixConn.SetReadDeadline(c.readDeadline(t))
}

// Close implements net.Conn.
func (c *countedUnix) Close() error {
	c.leave()
	return c.UnixConn.Close()
}

// Release implements stream.Counted.
func (c *countedUnix) Release() (net.Conn, func()) { return c.UnixConn, c.leave }
