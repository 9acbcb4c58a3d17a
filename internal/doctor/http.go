package doctor

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// RoundTrip makes a request over a separate connection, as a balancer may see it. If a mail server
// or a database speaks first, http.Transport would report and log an internal error. Here that is
// an answer that is not HTTP.
func (e *examiner) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	conn, err := e.dial(ctx, "tcp", hostPort(req.URL))
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	resp, err := e.roundTrip(conn, req)
	if err != nil {
		stop()
		conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	resp.Body = &connBody{resp.Body, func() { stop(); conn.Close() }}
	return resp, nil
}

func (e *examiner) roundTrip(conn net.Conn, req *http.Request) (*http.Response, error) {
	if req.URL.Scheme == "https" {
		config := e.o.tlsConfig()
		config.ServerName = req.URL.Hostname()
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(req.Context()); err != nil {
			return nil, err
		}
		e.tls = secure.ConnectionState()
		conn = secure
	}
	req.Close = true
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	return http.ReadResponse(bufio.NewReader(conn), req)
}

// hostPort returns the address of a URL, with the scheme's port if it names none.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// connBody closes a connection with the body of its answer.
type connBody struct {
	io.Reader
	close func()
}

func (b *connBody) Close() error {
	b.close()
	return nil
}
