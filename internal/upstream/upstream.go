package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"time"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/netpoll"
)

// idleTimeout is how long an idle connection stays open. It is shorter than that of Node.js (5 s), so that
// a request does not meet a connection that the server is just closing.
const idleTimeout = 4 * time.Second

// Upstream is the Socket.IO server behind holdfast. It is safe for concurrent use.
type Upstream struct {
	// Immutable.
	base      *url.URL // scheme and host; the host is a placeholder if the server is a Unix socket
	network   string
	address   string
	tls       *tls.Config // nil for plain HTTP
	timeout   time.Duration
	addr      net.Addr // the address if it needs no name lookup, or nil
	transport *http.Transport
	unshared  *http.Transport // uses each connection once
	dialer    *engineio.Dialer
	observe   func(err error, took time.Duration)

	throttle throttle
	breaker  *breaker
	slots    chan struct{} // one element per handshake under way
}

// Options are the parts of an Upstream that its user supplies.
type Options struct {
	// Observe is told how each handshake ended and how long it took. Handshakes that the breaker or the
	// context ended before they began are not reported. Nil observes nothing.
	Observe func(err error, took time.Duration)
	// Incomplete and UpgradeFailed are engineio.Dialer's.
	Incomplete    func(bytes int) bool
	UpgradeFailed func(err error)
	// DialContext replaces connecting to cfg's URL, for tests. Nil dials.
	DialContext func(ctx context.Context) (net.Conn, error)
}

// New returns the server that a valid cfg names. It does not connect. Errors say which file of upstream.tls
// cannot be used.
func New(cfg config.Upstream, opts Options) (*Upstream, error) {
	network, address, secure := cfg.Endpoint()
	u := &Upstream{
		network: network, address: address, timeout: cfg.DialTimeout, base: &url.URL{Scheme: "http", Host: address},
		observe: opts.Observe, breaker: newBreaker(), slots: make(chan struct{}, cfg.MaxConcurrentDials),
	}
	if u.observe == nil {
		u.observe = func(error, time.Duration) {}
	}
	if network == "unix" {
		u.base.Host = "localhost"
		u.addr = &net.UnixAddr{Name: address, Net: "unix"}
	} else if ap, err := netip.ParseAddrPort(address); err == nil {
		u.addr = net.TCPAddrFromAddrPort(ap)
	}
	if secure {
		u.base.Scheme = "https"
		var err error
		if u.tls, err = clientTLS(cfg, address); err != nil {
			return nil, err
		}
	}
	u.transport = &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return u.dialPlain(ctx) },
		DialTLSContext:      func(ctx context.Context, _, _ string) (net.Conn, error) { return u.dial(ctx) },
		DisableCompression:  true,
		MaxIdleConnsPerHost: 256,
		IdleConnTimeout:     idleTimeout,
	}
	u.unshared = u.transport.Clone()
	u.unshared.MaxIdleConnsPerHost = -1
	u.dialer = &engineio.Dialer{
		DialContext: u.dialWebSocket, DialPolling: u.dialPolling, Timeout: cfg.HandshakeTimeout, MaxPayload: int64(config.DefaultMaxPayload),
		Incomplete: opts.Incomplete, UpgradeFailed: opts.UpgradeFailed,
	}
	if opts.DialContext != nil {
		u.dialer.DialContext, u.dialer.DialPolling = opts.DialContext, nil
	}
	return u, nil
}

// Base returns the scheme and host of requests to the server. The caller must not change it.
func (u *Upstream) Base() *url.URL { return u.base }

// RoundTripper makes HTTP requests to the server.
func (u *Upstream) RoundTripper() http.RoundTripper { return u.transport }

// UnsharedRoundTripper makes each HTTP request over a new connection. Balancers such as @socket.io/sticky
// look only at the first request of a connection. This way they see every sid.
func (u *Upstream) UnsharedRoundTripper() http.RoundTripper { return u.unshared }

// CloseIdleConnections closes connections that carry no request, because they may be dead.
func (u *Upstream) CloseIdleConnections() { u.transport.CloseIdleConnections() }

// Dial makes an Engine.IO handshake with the server, as soon as the throttle, the breaker and
// upstream.max_concurrent_dials admit it. An *engineio.RejectedError is the server's refusal. Other errors
// say why the server could not be asked: ctx's error, or that of a connection that another caller tried
// meanwhile.
func (u *Upstream) Dial(ctx context.Context, req engineio.Request) (*engineio.Conn, error) {
	done, err := u.admit(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	start := time.Now()
	conn, err := u.dialer.Dial(ctx, req)
	if err == nil {
		u.breaker.Success() // req may have used an idle connection, which the breaker has not seen
	}
	u.throttle.Done(err)
	u.observe(err, time.Since(start))
	return conn, err
}

// admit returns when a handshake may begin. The caller must call done after it.
func (u *Upstream) admit(ctx context.Context) (done func(), err error) {
	for {
		ticket, err := u.throttle.Wait(ctx)
		if err != nil {
			return nil, err
		}
		probed, err := u.breaker.Allow(ctx)
		if err != nil {
			return nil, err
		}
		select {
		case u.slots <- struct{}{}:
		case <-ctx.Done():
			probed()
			return nil, ctx.Err()
		}
		done = func() {
			<-u.slots
			probed()
		}
		if ticket || !u.throttle.Active() {
			return done, nil
		}
		done() // the throttle became active while this caller waited for a slot
	}
}

func clientTLS(cfg config.Upstream, address string) (*tls.Config, error) {
	name := cfg.TLS.ServerName
	if name == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		name = host
	}
	c := &tls.Config{
		ServerName: name, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: cfg.TLS.InsecureSkipVerify, //nolint:gosec // the user's choice, off by default
	}
	if cfg.TLS.CAFile != "" {
		pem, err := os.ReadFile(cfg.TLS.CAFile)
		if err != nil {
			return nil, fmt.Errorf("upstream.tls.ca_file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("upstream.tls.ca_file: no certificate in %s", cfg.TLS.CAFile)
		}
	}
	return c, nil
}

func (u *Upstream) dialPlain(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: u.timeout}
	conn, err := d.DialContext(ctx, u.network, u.address)
	return conn, u.report(ctx, err)
}

// report tells the breaker how an attempt to connect ended.
func (u *Upstream) report(ctx context.Context, err error) error {
	switch {
	case err == nil:
		u.breaker.Success()
	case !isOver(ctx): // otherwise the caller gave up, which says nothing about the server
		u.breaker.Failure(err)
	}
	return err
}

// isOver reports whether ctx has ended or its deadline has passed. A dial may notice the deadline before
// ctx ends.
func isOver(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

// dialWebSocket opens a connection for a WebSocket.
func (u *Upstream) dialWebSocket(ctx context.Context) (net.Conn, error) {
	if u.tls != nil || u.addr == nil {
		return u.dial(ctx)
	}
	conn, err := netpoll.Dial(ctx, u.addr, u.timeout)
	return conn, u.report(ctx, err)
}

// dialPolling opens a connection for polling requests. The dial has no deadline of its own and ends when
// ctx does. It would otherwise notice the deadline first and look as if the server had failed.
func (u *Upstream) dialPolling(ctx context.Context) (net.Conn, error) {
	detached, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	return u.dial(detached)
}

// dial opens a connection, with TLS if the URL is https.
func (u *Upstream) dial(ctx context.Context) (net.Conn, error) {
	conn, err := u.dialPlain(ctx)
	if err != nil || u.tls == nil {
		return conn, err
	}
	ctx, cancel := context.WithTimeout(ctx, u.timeout)
	defer cancel()
	t := tls.Client(conn, u.tls)
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return t, nil
}
