package proxy

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
	"github.com/holdfast/holdfast/internal/netpoll"
)

// upstream is how the server behind is reached.
type upstream struct {
	base      *url.URL // scheme and host; the host is for show where the server is a Unix socket
	network   string
	address   string
	tls       *tls.Config // nil for plain HTTP
	timeout   time.Duration
	client    *http.Client
	transport *http.Transport
	gate      *gate    // is told which connections come about
	addr      net.Addr // where it needs no looking up, or nil
}

func newUpstream(cfg config.Upstream) (*upstream, error) {
	network, address, secure := cfg.Endpoint()
	u := &upstream{network: network, address: address, timeout: cfg.DialTimeout, gate: newGate(), base: &url.URL{Scheme: "http", Host: address}}
	if network == "unix" {
		u.base.Host = "localhost"
		u.addr = &net.UnixAddr{Name: address, Net: "unix"}
	} else if ap, err := netip.ParseAddrPort(address); err == nil {
		u.addr = net.TCPAddrFromAddrPort(ap)
	}
	if secure {
		u.base.Scheme = "https"
		var err error
		if u.tls, err = upstreamTLS(cfg, address); err != nil {
			return nil, err
		}
	}
	u.transport = &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return u.dialPlain(ctx) },
		DialTLSContext:      func(ctx context.Context, _, _ string) (net.Conn, error) { return u.dial(ctx) },
		DisableCompression:  true,
		MaxIdleConnsPerHost: 256,
		IdleConnTimeout:     4 * time.Second, // less than Node.js keeps an idle connection (5 s)
	}
	u.client = &http.Client{
		Transport:     u.transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return u, nil
}

func upstreamTLS(cfg config.Upstream, address string) (*tls.Config, error) {
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

func (u *upstream) dialPlain(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: u.timeout}
	conn, err := d.DialContext(ctx, u.network, u.address)
	return conn, u.tell(ctx, err)
}

// tell has the gate know what came of an attempt to connect.
func (u *upstream) tell(ctx context.Context, err error) error {
	switch {
	case err == nil:
		u.gate.connected()
	case ctx.Err() == nil: // else nobody waits for it any more
		u.gate.unreachable(err)
	}
	return err
}

// dialWebSocket opens a connection for a WebSocket.
func (u *upstream) dialWebSocket(ctx context.Context) (net.Conn, error) {
	if u.tls != nil || u.addr == nil {
		return u.dial(ctx)
	}
	conn, err := netpoll.Dial(ctx, u.addr, u.timeout)
	return conn, u.tell(ctx, err)
}

// dial opens a connection, with TLS if the upstream wants it.
func (u *upstream) dial(ctx context.Context) (net.Conn, error) {
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
