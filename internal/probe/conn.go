package probe

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/internal/engineio"
)

// The transports, as a query names them.
const (
	polling   = "polling"
	webSocket = "websocket"
)

// maxResponse bounds the size of a response.
const maxResponse = 8 << 20

// prober makes connections that share their cookies, like those of one browser.
type prober struct {
	o        Options
	jar      *cookiejar.Jar
	tls      *tls.Config
	key      string        // of the current check, with Options.Key
	requests atomic.Uint64 // made so far; distinguishes polls of the same millisecond
}

// conn is an Engine.IO connection. Unless they say otherwise, its methods must be called from one
// goroutine.
type conn struct {
	// Immutable after the handshake.
	p         *prober
	key       string       // of the check that it belongs to, with Options.Key
	client    *http.Client // for polling
	handshake engineio.Handshake
	header    http.Header // of the response to a polling handshake
	ctx       context.Context
	cancel    context.CancelCauseFunc // ends the connection

	in        chan []byte   // received Socket.IO packets
	pausing   atomic.Bool   // tells pollLoop to make no more polls
	pollEnded chan struct{} // closed when pollLoop has ended

	wsMu sync.Mutex // guards ws
	ws   *webSocketConn

	netMu sync.Mutex // guards nets
	nets  []net.Conn // every TCP connection
}

func (p *prober) newConn() *conn {
	ctx, cancel := context.WithCancelCause(context.Background())
	// 64: room for some events.
	c := &conn{p: p, key: p.key, ctx: ctx, cancel: cancel, in: make(chan []byte, 64), pollEnded: make(chan struct{})}
	c.client = &http.Client{
		Jar: p.jar,
		// HTTP/1.1 and no proxy from the environment, like socket.io-client in Node.js.
		Transport: &http.Transport{
			DialContext: c.dial, TLSClientConfig: p.tls, TLSHandshakeTimeout: p.o.Timeout,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

// open makes the handshake over the transport.
func (p *prober) open(ctx context.Context, transport string) (*conn, error) {
	c := p.newConn()
	var err error
	if transport == polling {
		err = c.openPolling(ctx)
	} else {
		err = c.openWebSocket(ctx)
	}
	if err != nil {
		c.cut()
		return nil, err
	}
	return c, nil
}

// dial opens a TCP connection that cut can find.
func (c *conn) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: c.p.o.Timeout}
	nc, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c.netMu.Lock()
	defer c.netMu.Unlock()
	c.nets = append(c.nets, nc)
	return nc, nil
}

// query returns the query of the next request.
func (c *conn) query(transport string) string {
	parts := []string{"EIO=4", "transport=" + transport}
	if c.p.o.Query != "" {
		parts = append([]string{c.p.o.Query}, parts...)
	}
	if c.p.o.Key != "" {
		parts = append(parts, c.p.o.Key+"="+c.key)
	}
	if transport == polling {
		now := time.Now().UnixMilli()<<8 | int64(c.p.requests.Add(1)&0xff)
		parts = append(parts, "t="+strconv.FormatInt(now, 36))
	}
	if c.handshake.SID != "" {
		parts = append(parts, "sid="+c.handshake.SID)
	}
	return strings.Join(parts, "&")
}

// requestHeader returns the headers of each request.
func (c *conn) requestHeader() http.Header {
	h := c.p.o.Header.Clone()
	if h.Get("User-Agent") == "" {
		h.Set("User-Agent", "holdfast-probe")
	}
	if c.p.o.Origin != "" {
		h.Set("Origin", c.p.o.Origin)
	}
	return h
}

// request makes one polling request, and returns the response's body and headers.
func (c *conn) request(ctx context.Context, what, method string, body []byte) ([]byte, http.Header, error) {
	u := *c.p.o.URL
	u.Path, u.RawQuery = c.p.o.Path, c.query(polling)
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	req.Header = c.requestHeader()
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	if body != nil {
		req.Header.Set("Content-Type", "text/plain;charset=UTF-8")
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse))
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, nil, &statusError{what, resp.StatusCode, resp.Header, data}
	}
	return data, resp.Header, nil
}

func (c *conn) openPolling(ctx context.Context) error {
	const what = "the polling handshake"
	body, header, err := c.request(ctx, what, http.MethodGet, nil)
	if err != nil {
		return err
	}
	c.header = header
	var packets []engineio.Packet
	err = engineio.DecodePayload(body, func(p engineio.Packet) bool { packets = append(packets, p); return true })
	if err != nil || packets[0].Type != engineio.Open {
		return &statusError{what, http.StatusOK, header, body}
	}
	if c.handshake, err = engineio.ParseHandshake(packets[0].Data); err != nil {
		return &statusError{what, http.StatusOK, header, body}
	}
	go c.pollLoop(packets[1:]) // ends with the connection, or when pausing is set
	return nil
}

// pollLoop keeps one poll pending at all times.
func (c *conn) pollLoop(packets []engineio.Packet) {
	defer close(c.pollEnded)
	for {
		for _, p := range packets {
			if err := c.handle(p); err != nil {
				c.cancel(err)
				return
			}
		}
		if c.pausing.Load() {
			return
		}
		body, _, err := c.request(c.ctx, "a poll", http.MethodGet, nil)
		if err == nil {
			packets = packets[:0]
			err = engineio.DecodePayload(body, func(p engineio.Packet) bool { packets = append(packets, p); return true })
		}
		if err != nil {
			c.cancel(err)
			return
		}
	}
}

// errClosedByServer means that the server closed the connection properly.
var errClosedByServer = &problem{
	CodeLost, "the server closed the connection", "Its log may say why. Servers close clients that do not connect a namespace in time.",
}

// handle handles one packet from the server. Only the reading goroutine calls it.
func (c *conn) handle(p engineio.Packet) error {
	switch p.Type { //nolint:exhaustive // the other types need no answer
	case engineio.Ping:
		return c.write(c.ctx, string(engineio.Pong))
	case engineio.Close:
		return errClosedByServer
	case engineio.Message:
		if p.Binary {
			return nil // an attachment: the probe only looks at the text of events
		}
		select {
		case c.in <- bytes.Clone(p.Data):
		case <-c.ctx.Done():
		}
	}
	return nil
}

// write sends one Engine.IO packet over the current transport. It is safe for concurrent use.
func (c *conn) write(ctx context.Context, packet string) error {
	c.wsMu.Lock()
	w := c.ws
	c.wsMu.Unlock()
	if w != nil {
		return w.write(packet)
	}
	_, _, err := c.request(ctx, "a POST", http.MethodPost, []byte(packet))
	return err
}

// send sends a Socket.IO packet.
func (c *conn) send(ctx context.Context, packet []byte) error {
	return c.write(ctx, string(engineio.Message)+string(packet))
}

// receive returns the next Socket.IO packet. It fails if ctx is done or the connection has ended.
func (c *conn) receive(ctx context.Context) ([]byte, error) {
	select {
	case p := <-c.in:
		return p, nil
	default:
	}
	select {
	case p := <-c.in:
		return p, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-c.ctx.Done():
		return nil, context.Cause(c.ctx)
	}
}

// errCut is the cause of a connection's end after cut.
var errCut = errors.New("probe: cut")

// cut resets all TCP connections, without a word of the protocol.
func (c *conn) cut() {
	c.netMu.Lock()
	nets := c.nets
	c.nets = nil
	c.netMu.Unlock()
	for _, nc := range nets {
		if t, ok := nc.(*net.TCPConn); ok {
			_ = t.SetLinger(0) // fails only on a closed connection
		}
		nc.Close()
	}
	c.cancel(errCut)
	c.client.CloseIdleConnections()
}

// leave sends a DISCONNECT and closes the connection properly if possible, so that the server keeps
// nothing of the probe.
func (c *conn) leave(disconnect []byte) {
	ctx, cancel := context.WithTimeout(c.ctx, time.Second)
	defer cancel()
	if c.send(ctx, disconnect) == nil {
		_ = c.write(ctx, string(engineio.Close)) // cut follows in any case
	}
	c.cut()
}
