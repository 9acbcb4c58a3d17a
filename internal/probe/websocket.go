package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/siotest/sioserver/wire"
)

// webSocketConn is a WebSocket after its handshake.
type webSocketConn struct {
	nc net.Conn
	in *wire.MessageReader

	mu sync.Mutex // one frame at a time
}

// dialWebSocket makes the handshake. The error is a *statusError if the server refuses it.
func (c *conn) dialWebSocket(ctx context.Context, what string) (*webSocketConn, error) {
	u := *c.p.o.URL
	u.Path, u.RawQuery = c.p.o.Path, c.query(webSocket)
	jarURL := u
	header := c.requestHeader()
	for _, cookie := range c.p.jar.Cookies(&jarURL) {
		header.Add("Cookie", cookie.Name+"="+cookie.Value)
	}
	host := header.Get("Host")
	header.Del("Host")
	var refused *statusError
	answer := http.Header{}
	d := ws.Dialer{
		NetDial: c.dial, TLSConfig: c.p.tls, Header: ws.HandshakeHeaderHTTP(header), Host: host,
		OnStatusError: func(status int, _ []byte, resp io.Reader) { refused = readRefusal(what, status, resp) },
		OnHeader: func(key, value []byte) error {
			answer.Add(string(key), string(value))
			return nil
		},
	}
	nc, br, _, err := d.Dial(ctx, webSocketURL(&u))
	c.keepCookies(&jarURL, answer)
	switch {
	case refused != nil:
		return nil, refused
	case err != nil && ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, err
	}
	if err := nc.SetDeadline(time.Time{}); err != nil { // clears the dialer's deadline
		return nil, err
	}
	if br == nil {
		br = bufio.NewReader(nc)
	}
	return &webSocketConn{nc: nc, in: wire.NewMessageReader(br, ws.StateClientSide, maxResponse)}, nil
}

func webSocketURL(u *url.URL) string {
	w := *u
	w.Scheme = map[string]string{"http": "ws", "https": "wss"}[u.Scheme]
	w.User = nil
	return w.String()
}

// readRefusal reads the response to a handshake whose status is not 101.
func readRefusal(what string, status int, r io.Reader) *statusError {
	e := &statusError{what: what, status: status}
	resp, err := http.ReadResponse(bufio.NewReader(r), nil)
	if err != nil {
		return e
	}
	defer resp.Body.Close()
	e.header = resp.Header
	// A partial body is better than none.
	e.body, _ = io.ReadAll(io.LimitReader(resp.Body, maxResponse))
	return e
}

func (c *conn) keepCookies(u *url.URL, answer http.Header) {
	if cookies := (&http.Response{Header: answer}).Cookies(); len(cookies) > 0 {
		c.p.jar.SetCookies(u, cookies)
	}
}

// next returns the next Engine.IO packet. It fails when ctx is done.
func (w *webSocketConn) next(ctx context.Context) (engineio.Packet, error) {
	stop := context.AfterFunc(ctx, func() { _ = w.nc.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		op, payload, err := w.in.Next()
		switch {
		case err != nil && ctx.Err() != nil:
			return engineio.Packet{}, ctx.Err()
		case err != nil:
			return engineio.Packet{}, err
		case op == ws.OpClose:
			return engineio.Packet{}, errClosedByServer
		case op == ws.OpPing:
			if err := w.writeFrame(ws.NewPongFrame(payload)); err != nil {
				return engineio.Packet{}, err
			}
		case op == ws.OpBinary:
			return engineio.Packet{Type: engineio.Message, Binary: true}, nil
		case op == ws.OpText && len(payload) > 0:
			return engineio.Packet{Type: engineio.PacketType(payload[0]), Data: payload[1:]}, nil
		}
	}
}

func (w *webSocketConn) write(packet string) error {
	return w.writeFrame(ws.NewTextFrame([]byte(packet)))
}

func (w *webSocketConn) writeFrame(f ws.Frame) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return ws.WriteFrame(w.nc, ws.MaskFrameInPlace(f))
}

func (c *conn) openWebSocket(ctx context.Context) error {
	close(c.pollEnded) // there is no pollLoop
	w, err := c.dialWebSocket(ctx, "the WebSocket handshake")
	if err != nil {
		return err
	}
	p, err := w.next(ctx)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return &problem{CodeTimeout, "the WebSocket opens, but no message arrives", "A proxy in between answers the handshake itself, or holds messages back."}
	case err != nil:
		return err
	case p.Type != engineio.Open:
		return &problem{CodeNotSocketIO, fmt.Sprintf("the first WebSocket message is not a handshake but %.40q", p.Data), "Another WebSocket service answers at this path: set the right path with -path."}
	}
	if c.handshake, err = engineio.ParseHandshake(p.Data); err != nil {
		return &problem{CodeNotSocketIO, "the first WebSocket message: " + err.Error(), "Is there a Socket.IO server behind this path?"}
	}
	c.startWebSocket(w)
	return nil
}

// startWebSocket makes w the connection's transport.
func (c *conn) startWebSocket(w *webSocketConn) {
	c.wsMu.Lock()
	c.ws = w
	c.wsMu.Unlock()
	go c.readLoop(w) // ends with the connection
}

func (c *conn) readLoop(w *webSocketConn) {
	for {
		p, err := w.next(c.ctx)
		if err == nil {
			err = c.handle(p)
		}
		if err != nil {
			c.cancel(err)
			return
		}
	}
}

// upgrade moves a polling connection to WebSocket. It implements Engine.IO protocol v4, "Upgrade".
func (c *conn) upgrade(ctx context.Context) error {
	w, err := c.dialWebSocket(ctx, "the WebSocket handshake of the upgrade")
	if err != nil {
		return err
	}
	failed := func(format string, args ...any) error {
		return &problem{
			CodeUpgradeFailed, "the upgrade from polling to WebSocket failed: " + fmt.Sprintf(format, args...),
			"Clients stay on polling. Polling and WebSocket must reach the same holdfast: make the load balancer sticky, and make sure that no proxy holds polls back.",
		}
	}
	if err := w.write("2probe"); err != nil {
		return failed("%v", err)
	}
	if p, err := w.next(ctx); err != nil || p.Type != engineio.Pong || string(p.Data) != "probe" {
		return failed("the probe was not answered")
	}
	c.pausing.Store(true)
	select {
	case <-c.pollEnded:
	case <-ctx.Done():
		return failed("the pending poll was not answered")
	}
	if c.ctx.Err() != nil {
		return failed("polling ended: %s", plain(context.Cause(c.ctx)))
	}
	if err := w.write(string(engineio.Upgrade)); err != nil {
		return failed("%v", err)
	}
	c.startWebSocket(w)
	return nil
}
