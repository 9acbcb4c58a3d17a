package accept

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/limit"
	"github.com/holdfast/holdfast/internal/neterr"
	"github.com/holdfast/holdfast/metrics"
)

// Options are what a Listener asks the server that it accepts for. All functions are required
// unless a comment says otherwise; they must be safe for concurrent use.
type Options struct {
	// TLS says that the connections will be wrapped in TLS. Their handshakes are then served by
	// net/http.
	TLS bool
	// Limits returns the limits in force.
	Limits func() Limits
	// Match returns the handler of a WebSocket handshake, or nil if net/http has to serve the
	// request. The handler may panic with http.ErrAbortHandler only.
	Match func(r *http.Request) http.HandlerFunc
	// Begin is called before a matched handshake is served, and the function it returns after the
	// answer was written.
	Begin func() (end func())
	// Refused is told of each connection that was closed because of a limit.
	Refused func(reached metrics.RefusalLimit, addr netip.Addr)
	// Failed is told why a connection could not be accepted.
	Failed func(err error)
	// NoLoop is told why no event loop accepts the connections, on a system that has event loops,
	// unless they are switched off. It may be nil.
	NoLoop func(err error)
	// Panicked is told the value of a panic that happened while a connection was pending. The
	// connection is closed.
	Panicked func(v any)
}

// Limits bound connections.
type Limits struct {
	MaxConnections           int // 0 is no limit
	MaxConnectionsPerAddress int // 0 is no limit
	// Exempt reports whether MaxConnectionsPerAddress does not apply to an address, such as that of
	// a trusted proxy.
	Exempt func(netip.Addr) bool
	// HeadTimeout bounds the time from accepting a connection to the end of its first request's
	// head.
	HeadTimeout time.Duration
	// HeadBytes bounds the size of that head.
	HeadBytes int
	// HandshakeTimeout bounds how long a matched handshake is served.
	HandshakeTimeout time.Duration
}

// Listener accepts clients' connections for an http.Server. Connections over a limit are closed
// immediately.
type Listener struct {
	net.Listener // for its Addr and its socket

	opts     Options
	acceptor *acceptor // nil unless an event loop accepts

	mu         sync.Mutex    // guards the fields below
	resumed    chan struct{} // closed by Resume; nil unless Pause was called
	total      int
	perAddress map[netip.Addr]int
}

// Listen returns a Listener for the connections of ln, which it owns from then on.
func Listen(ln net.Listener, opts Options) *Listener {
	l := &Listener{Listener: ln, opts: opts, perAddress: make(map[netip.Addr]int)}
	if !opts.TLS {
		l.acceptor = newAcceptor(l) // nil where there is no event loop
	}
	return l
}

// Accept implements net.Listener. It returns the connections that Match did not take.
func (l *Listener) Accept() (net.Conn, error) {
	if l.acceptor != nil {
		return l.acceptor.next()
	}
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			if l.awaitResume() {
				continue
			}
			// net/http retries within a second if the error is temporary.
			if !errors.Is(err, net.ErrClosed) {
				l.opts.Failed(err)
			}
			return nil, err
		}
		addr := addrOf(conn.RemoteAddr())
		if !l.admit(addr) {
			conn.Close()
			continue
		}
		return track(conn, sync.OnceFunc(func() { l.leave(addr) }), bufferedBytes{}), nil
	}
}

// Close implements net.Listener.
func (l *Listener) Close() error {
	if l.acceptor != nil {
		l.acceptor.close()
	}
	return l.Listener.Close()
}

// Connections is the number of open connections that the Listener accepted.
func (l *Listener) Connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

// admit counts a connection and reports whether it is within the limits.
func (l *Listener) admit(addr netip.Addr) bool {
	reached := l.count(addr)
	if reached != "" {
		l.opts.Refused(reached, addr)
	}
	return reached == ""
}

// count counts a connection, or returns the limit that it would exceed.
func (l *Listener) count(addr netip.Addr) (reached metrics.RefusalLimit) {
	limits := l.opts.Limits()
	perAddress := addr.IsValid() && limits.MaxConnectionsPerAddress > 0 && !limits.Exempt(addr)
	addr = limit.Network(addr)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case limits.MaxConnections > 0 && l.total >= limits.MaxConnections:
		return metrics.Connections
	case perAddress && l.perAddress[addr] >= limits.MaxConnectionsPerAddress:
		return metrics.ConnectionsPerAddress
	}
	l.total++
	l.perAddress[addr]++
	return ""
}

// leave undoes count when the connection ends.
func (l *Listener) leave(addr netip.Addr) {
	addr = limit.Network(addr)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.perAddress[addr]--; l.perAddress[addr] <= 0 {
		delete(l.perAddress, addr)
	}
}

// addrOf is the IP address in a, or the zero Addr for a Unix socket.
func addrOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// IsOutOfDescriptors reports whether err says that this process, or the system, has no file
// descriptor left.
func IsOutOfDescriptors(err error) bool {
	return neterr.IsTooManyFiles(err)
}
