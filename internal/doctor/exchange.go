package doctor

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/siotest/sioserver/wire"
)

// The transports, as a query names them.
const (
	polling   = "polling"
	webSocket = "websocket"
)

// maxBody bounds what is read of one answer or message.
const maxBody = 1 << 20

// answer is an HTTP response.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// unexpected is an answer to a handshake, or to a later request, that is not what Engine.IO
// demands.
type unexpected struct {
	what string // the request
	answer
}

func (u *unexpected) Error() string {
	return fmt.Sprintf("%s was answered with %d %s", u.what, u.status, http.StatusText(u.status))
}

// examiner makes connections to the server. Each is a separate client, with its own cookies.
type examiner struct {
	o        Options
	base     url.URL
	requests int64               // made so far; tells requests of the same millisecond apart
	tls      tls.ConnectionState // of the last connection, if it has TLS
}

func newExaminer(o Options) *examiner {
	e := &examiner{o: o, base: url.URL{Scheme: o.URL.Scheme, Host: o.URL.Host}}
	if o.URL.Scheme == "unix" {
		e.base = url.URL{Scheme: "http", Host: "localhost"}
	}
	return e
}

// dial connects to the server, which may be a Unix socket.
func (e *examiner) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if e.o.URL.Scheme == "unix" {
		network, address = "unix", e.o.URL.Path
	}
	return (&net.Dialer{Timeout: e.o.Timeout}).DialContext(ctx, network, address)
}

// newHTTP returns a client with its own cookies, which follows no redirections.
func (e *examiner) newHTTP() *http.Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		panic(err) // impossible without options
	}
	return &http.Client{
		Jar: jar, Timeout: e.o.Timeout, Transport: e,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// query returns the query of a request, as a client writes it. version is that of Engine.IO.
func (e *examiner) query(version int, transport, sid string) string {
	parts := []string{"EIO=" + strconv.Itoa(version), "transport=" + transport}
	if e.o.Query != "" {
		parts = append([]string{e.o.Query}, parts...)
	}
	if transport == polling {
		e.requests++
		parts = append(parts, "t="+strconv.FormatInt(time.Now().UnixMilli()<<8|e.requests&0xff, 36))
	}
	if sid != "" {
		parts = append(parts, "sid="+url.QueryEscape(sid))
	}
	return strings.Join(parts, "&")
}

func (e *examiner) header(origin string) http.Header {
	h := e.o.Header.Clone()
	if h.Get("User-Agent") == "" {
		h.Set("User-Agent", "holdfast-doctor")
	}
	if origin != "" {
		h.Set("Origin", origin)
	}
	return h
}

// request makes one HTTP request below the path of Engine.IO.
func (e *examiner) request(ctx context.Context, c *http.Client, method, file, query, origin, body string) (answer, error) {
	u := e.base
	u.Path, u.RawQuery = e.o.Path+file, query
	req, err := http.NewRequestWithContext(ctx, method, u.String(), strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header = e.header(origin)
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	if body != "" {
		req.Header.Set("Content-Type", "text/plain;charset=UTF-8")
	}
	resp, err := c.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return answer{}, err
	}
	return answer{resp.StatusCode, resp.Header, data}, nil
}

// session is an Engine.IO connection.
type session interface {
	// send sends one packet.
	send(ctx context.Context, packet string) error
	// next returns the next packet. It fails when ctx is done.
	next(ctx context.Context) (engineio.Packet, error)
	// close ends the session, so that the server need not wait for its heartbeat.
	close()
}

// pollingSession is a session over polling.
type pollingSession struct {
	e         *examiner
	client    *http.Client
	version   int // of Engine.IO, as the server answered
	handshake engineio.Handshake
	first     answer // to the handshake
	queue     []engineio.Packet
}

// openPolling makes a handshake over polling. The server may answer in another version than asked
// for. The error is an *unexpected if it answers otherwise.
func (e *examiner) openPolling(ctx context.Context, version int, origin string) (*pollingSession, error) {
	s := &pollingSession{e: e, client: e.newHTTP(), version: 4}
	var err error
	if s.first, err = e.request(ctx, s.client, http.MethodGet, "", e.query(version, polling, ""), origin, ""); err != nil {
		return nil, err
	}
	refused := &unexpected{"the handshake", s.first}
	if s.first.status != http.StatusOK {
		return nil, refused
	}
	if h, ok := parseV3(s.first.body); ok {
		s.version, s.handshake = 3, h
		return s, nil
	}
	var packets []engineio.Packet
	err = engineio.DecodePayload(s.first.body, func(p engineio.Packet) bool { packets = append(packets, p); return true })
	if err != nil || packets[0].Type != engineio.Open {
		return nil, refused
	}
	if s.handshake, err = engineio.ParseHandshake(packets[0].Data); err != nil {
		return nil, refused
	}
	s.queue = packets[1:]
	return s, nil
}

func (s *pollingSession) send(ctx context.Context, packet string) error {
	a, err := s.e.request(ctx, s.client, http.MethodPost, "", s.e.query(s.version, polling, s.handshake.SID), "", packet)
	if err == nil && a.status != http.StatusOK {
		err = &unexpected{"a POST", a}
	}
	return err
}

func (s *pollingSession) next(ctx context.Context) (engineio.Packet, error) {
	for len(s.queue) == 0 {
		a, err := s.e.request(ctx, s.client, http.MethodGet, "", s.e.query(s.version, polling, s.handshake.SID), "", "")
		if err != nil {
			return engineio.Packet{}, err
		}
		if a.status != http.StatusOK {
			return engineio.Packet{}, &unexpected{"a poll", a}
		}
		err = engineio.DecodePayload(a.body, func(p engineio.Packet) bool {
			p.Data = bytes.Clone(p.Data)
			s.queue = append(s.queue, p)
			return true
		})
		if err != nil {
			return engineio.Packet{}, err
		}
	}
	p := s.queue[0]
	s.queue = s.queue[1:]
	return p, nil
}

func (s *pollingSession) close() { _ = s.end() } // otherwise the server waits for a heartbeat

// end is close, and returns how the server answered.
func (s *pollingSession) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	packet := string(engineio.Close)
	if s.version == 3 {
		packet = "1:" + packet
	}
	return s.send(ctx, packet)
}

// webSocketSession is a session over WebSocket.
type webSocketSession struct {
	conn net.Conn
	in   *wire.MessageReader
}

// openWebSocket makes a handshake over WebSocket. The error is an *unexpected if the server refuses
// it.
func (e *examiner) openWebSocket(ctx context.Context, version int) (*webSocketSession, engineio.Handshake, error) {
	ctx, cancel := context.WithTimeout(ctx, e.o.Timeout)
	defer cancel()
	const what = "the WebSocket handshake"
	u := e.base
	u.Scheme = map[string]string{"http": "ws", "https": "wss"}[u.Scheme]
	u.Path, u.RawQuery = e.o.Path, e.query(version, webSocket, "")
	header := e.header(e.o.Origin)
	host := header.Get("Host")
	header.Del("Host")
	var refused *unexpected
	d := ws.Dialer{
		NetDial: e.dial, TLSConfig: e.o.tlsConfig(), Header: ws.HandshakeHeaderHTTP(header), Host: host,
		OnStatusError: func(status int, _ []byte, resp io.Reader) { refused = readRefusal(what, status, resp) },
	}
	conn, br, _, err := d.Dial(ctx, u.String())
	switch {
	case refused != nil:
		return nil, engineio.Handshake{}, refused
	case err != nil:
		return nil, engineio.Handshake{}, errors.Join(ctx.Err(), err)
	}
	if br == nil {
		br = bufio.NewReader(conn)
	}
	s := &webSocketSession{conn, wire.NewMessageReader(br, ws.StateClientSide, maxBody)}
	p, err := s.next(ctx)
	var h engineio.Handshake
	if err == nil {
		if h, err = engineio.ParseHandshake(p.Data); p.Type != engineio.Open || err != nil {
			err = &unexpected{what, answer{status: http.StatusSwitchingProtocols}}
		}
	}
	if err != nil {
		s.close()
		return nil, engineio.Handshake{}, err
	}
	return s, h, nil
}

// readRefusal reads the response to a handshake whose status is not 101.
func readRefusal(what string, status int, r io.Reader) *unexpected {
	u := &unexpected{what, answer{status: status, header: http.Header{}}}
	resp, err := http.ReadResponse(bufio.NewReader(r), nil)
	if err != nil {
		return u
	}
	defer resp.Body.Close()
	u.header = resp.Header
	u.body, _ = io.ReadAll(io.LimitReader(resp.Body, maxBody)) // a part is better than nothing
	return u
}

func (s *webSocketSession) send(ctx context.Context, packet string) error {
	return s.write(ctx, ws.NewTextFrame([]byte(packet)))
}

func (s *webSocketSession) write(ctx context.Context, f ws.Frame) error {
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	return ws.WriteFrame(s.conn, ws.MaskFrameInPlace(f))
}

func (s *webSocketSession) next(ctx context.Context) (engineio.Packet, error) {
	if err := s.conn.SetReadDeadline(time.Time{}); err != nil {
		return engineio.Packet{}, err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		op, payload, err := s.in.Next()
		switch {
		case err != nil:
			return engineio.Packet{}, errors.Join(ctx.Err(), err)
		case op == ws.OpClose:
			return engineio.Packet{}, io.EOF
		case op == ws.OpPing:
			if err := s.write(ctx, ws.NewPongFrame(payload)); err != nil {
				return engineio.Packet{}, err
			}
		case op == ws.OpBinary:
			return engineio.Packet{Type: engineio.Message, Binary: true}, nil
		case op == ws.OpText && len(payload) > 0:
			return engineio.Packet{Type: engineio.PacketType(payload[0]), Data: bytes.Clone(payload[1:])}, nil
		}
	}
}

func (s *webSocketSession) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	// The end of the stream says the same.
	_ = s.write(ctx, ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusNormalClosure, "")))
	s.conn.Close()
}
