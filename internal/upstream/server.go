package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/netpoll"
)

// idleTimeout is how long an idle connection stays open. It is shorter than that of Node.js (5 s),
// so that a request does not meet a connection that the server is just closing.
const idleTimeout = 4 * time.Second

// target says where a server is.
type target struct {
	network, address string // for net.Dial
	secure           bool   // speaks TLS
	host             string // the name in its certificate, unless configured
}

// targetOf returns the target that a valid URL names.
func targetOf(text string) target {
	t := target{}
	t.network, t.address, t.secure = config.SplitURL(text)
	if host, _, err := net.SplitHostPort(t.address); err == nil && t.secure {
		t.host = host
	}
	return t
}

func targetsOf(urls []string) []target {
	targets := make([]target, 0, len(urls))
	for _, text := range urls {
		targets = append(targets, targetOf(text))
	}
	return targets
}

// at returns the target at one of the addresses of t's host name.
func (t target) at(ip netip.Addr) target {
	_, port, err := net.SplitHostPort(t.address)
	if err != nil {
		return t
	}
	t.address = net.JoinHostPort(ip.Unmap().String(), port)
	return t
}

// String returns the target as a URL.
func (t target) String() string {
	switch {
	case t.network == "unix":
		return "unix://" + t.address
	case t.secure:
		return "https://" + t.address
	}
	return "http://" + t.address
}

// Server is one of the servers behind holdfast. It is safe for concurrent use.
type Server struct {
	// Immutable.
	target    target
	pool      *Upstream
	base      *url.URL // scheme and host of requests; the host is a placeholder for a Unix socket
	tls       *tls.Config
	addr      net.Addr // the address if it needs no name lookup, or nil
	mayLoop   bool     // it listens on the same port as holdfast
	transport *http.Transport
	unshared  *http.Transport // uses each connection once
	dialer    *engineio.Dialer

	throttle throttle
	breaker  *breaker
	slots    chan struct{} // one element per handshake in progress

	membership // guarded by pool.mu
}

// newServer returns a server that is not in the list yet.
func newServer(u *Upstream, t target) *Server {
	s := &Server{
		target: t, pool: u, base: &url.URL{Scheme: "http", Host: t.address},
		breaker: newBreaker(), slots: make(chan struct{}, u.maxDials), mayLoop: mayLoop(u.opts.Listen, t),
	}
	if t.network == "unix" {
		s.base.Host = "localhost"
		s.addr = &net.UnixAddr{Name: t.address, Net: "unix"}
	} else if ap, err := netip.ParseAddrPort(t.address); err == nil {
		s.addr = net.TCPAddrFromAddrPort(ap)
	}
	if t.secure {
		s.base.Scheme = "https"
		s.tls = u.tls.Clone()
		if s.tls.ServerName == "" {
			s.tls.ServerName = t.host
		}
	}
	s.transport = &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dialPlain(ctx) },
		DialTLSContext:      func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx) },
		DisableCompression:  true,
		MaxIdleConnsPerHost: 256,
		IdleConnTimeout:     idleTimeout,
		// A server may refuse a request before its body (Expect: 100-continue).
		ExpectContinueTimeout: time.Second,
	}
	s.unshared = s.transport.Clone()
	s.unshared.MaxIdleConnsPerHost = -1
	s.dialer = &engineio.Dialer{
		DialContext: s.dialWebSocket, DialPolling: s.dialPolling, Timeout: u.handshakeTimeout, MaxPayload: int64(config.DefaultMaxPayload),
		Incomplete: u.opts.Incomplete, UpgradeFailed: u.opts.UpgradeFailed, Ended: s.release, Owner: s,
	}
	return s
}

// ServerOf returns the server of a connection that Upstream.Dial returned.
func ServerOf(c *engineio.Conn) *Server {
	s, _ := c.Dialer().Owner.(*Server)
	return s
}

// String returns the server's URL. If DNS discovered the server, it contains the address.
func (s *Server) String() string { return s.target.String() }

// CloseIdleConnections closes connections that carry no request, because they may be dead.
func (s *Server) CloseIdleConnections() { s.transport.CloseIdleConnections() }

// handshake makes an Engine.IO handshake with the server, as soon as it is admitted. If it is
// urgent, it fails instead of waiting for a server that cannot be reached: there are others.
func (s *Server) handshake(ctx context.Context, req engineio.Request, urgent bool) (*engineio.Conn, error) {
	if urgent {
		if err := s.breaker.Failing(); err != nil {
			return nil, err
		}
	}
	done, err := s.admit(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	start := time.Now()
	conn, err := s.dialer.Dial(ctx, req)
	if err == nil {
		s.breaker.Success() // req may have used an idle connection, which the breaker has not seen
	}
	s.throttle.Done(err)
	s.pool.noteHandshake(s, err)
	s.pool.opts.Observe(s, err, time.Since(start))
	return conn, err
}

// admit returns when a handshake may begin. The caller must call done after it.
func (s *Server) admit(ctx context.Context) (done func(), err error) {
	for {
		ticket, err := s.throttle.Wait(ctx)
		if err != nil {
			return nil, err
		}
		probed, err := s.breaker.Allow(ctx)
		if err != nil {
			return nil, err
		}
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			probed()
			return nil, ctx.Err()
		}
		done = func() {
			<-s.slots
			probed()
		}
		if ticket || !s.throttle.Active() {
			return done, nil
		}
		done() // the throttle became active while this caller waited for a slot
	}
}

// connect opens a connection without TLS.
func (s *Server) connect(ctx context.Context) (net.Conn, error) {
	if s.pool.opts.Connect != nil {
		return s.pool.opts.Connect(ctx, s.target.network, s.target.address)
	}
	d := net.Dialer{Timeout: s.pool.dialTimeout}
	return d.DialContext(ctx, s.target.network, s.target.address)
}

func (s *Server) dialPlain(ctx context.Context) (net.Conn, error) {
	conn, err := s.connect(ctx)
	return s.checked(ctx, conn, err)
}

// checked reports how an attempt to connect ended, and refuses a connection that leads to holdfast's
// own listener.
func (s *Server) checked(ctx context.Context, conn net.Conn, err error) (net.Conn, error) {
	if err == nil && s.mayLoop && leadsBack(s.pool.opts.Listen, conn) {
		conn.Close()
		err = &net.OpError{Op: "dial", Net: s.target.network, Addr: conn.RemoteAddr(), Err: errOwnListener}
	}
	if err = s.report(ctx, err); err != nil {
		return nil, err
	}
	return conn, nil
}

// report tells the breaker and the pool how an attempt to connect ended.
func (s *Server) report(ctx context.Context, err error) error {
	switch {
	case err == nil:
		s.breaker.Success()
	case !isOver(ctx): // otherwise the caller gave up, which says nothing about the server
		s.breaker.Failure(err)
		s.pool.noteUnreachable(s, err)
	}
	return err
}

// isOver reports whether ctx has ended or its deadline has passed. A dial may notice the deadline
// before ctx ends.
func isOver(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

// dialWebSocket opens a connection for a WebSocket.
func (s *Server) dialWebSocket(ctx context.Context) (net.Conn, error) {
	if s.tls != nil || s.addr == nil || s.pool.opts.Connect != nil {
		return s.dial(ctx)
	}
	conn, err := netpoll.Dial(ctx, s.addr, s.pool.dialTimeout)
	return s.checked(ctx, conn, err)
}

// dialPolling opens a connection for polling requests. The dial has no deadline of its own and ends
// when ctx does. It would otherwise notice the deadline first and look as if the server had failed.
func (s *Server) dialPolling(ctx context.Context) (net.Conn, error) {
	detached, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	return s.dial(detached)
}

// dial opens a connection, with TLS if the URL is https.
func (s *Server) dial(ctx context.Context) (net.Conn, error) {
	conn, err := s.dialPlain(ctx)
	if err != nil || s.tls == nil {
		return conn, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.pool.dialTimeout)
	defer cancel()
	t := tls.Client(conn, s.tls)
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, &tlsError{err}
	}
	return t, nil
}

// tlsError says that a connection could not be used because TLS failed.
type tlsError struct{ error }

func (e *tlsError) Unwrap() error { return e.error }

// neverSent reports whether err says that there was no connection to send a request on.
func neverSent(err error) bool {
	var op *net.OpError
	var handshake *tlsError
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &handshake)
}
