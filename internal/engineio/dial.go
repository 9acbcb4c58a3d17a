package engineio

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// Request describes a handshake with an upstream server.
type Request struct {
	Protocol  Protocol
	WebSocket bool
	// PollIfRefused makes Dial try polling if the server refuses a WebSocket as such.
	PollIfRefused bool
	// AnyProtocol accepts an answer of version 3 to a handshake of version 4, over polling. Conn's
	// Protocol says which it is.
	AnyProtocol bool
	Path        string // escaped, as on the wire
	RawQuery    string
	Host        string
	// Header holds the client's headers that the server should see. Hop-by-hop headers and those of
	// the WebSocket handshake, except for Sec-WebSocket-Protocol, are not part of it.
	Header http.Header

	head string // what Head returned
}

var headBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// Head returns the request's first line and header as on the wire, without the blank line that
// follows. Changes to the Request after the first call have no effect on it.
func (r *Request) Head() string {
	if r.head != "" {
		return r.head
	}
	b := headBuffers.Get().(*bytes.Buffer)
	defer headBuffers.Put(b)
	b.Reset()
	b.WriteString("GET " + r.Path)
	if r.RawQuery != "" {
		b.WriteString("?" + r.RawQuery)
	}
	b.WriteString(" HTTP/1.1\r\nHost: " + r.Host + "\r\n")
	_ = r.Header.Write(b) // writing to a Buffer does not fail
	r.head = b.String()   // has no spare capacity; it is kept as long as the client
	return r.head
}

// RejectedError is a server's refusal of a handshake. The proxy passes it on to the client.
type RejectedError struct {
	Status int
	Header http.Header
	Body   []byte
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("engineio: handshake refused with status %d", e.Status)
}

// maxRejectionBytes limits a refusal's body. The rest is dropped.
const maxRejectionBytes = 1 << 20

// Dialer connects to an upstream server.
type Dialer struct {
	// DialContext opens a connection to the server for a WebSocket, with TLS if the server needs
	// it.
	DialContext func(ctx context.Context) (net.Conn, error)
	// DialPolling opens a connection for polling requests. Nil means DialContext.
	DialPolling func(ctx context.Context) (net.Conn, error)
	// Timeout limits a handshake, each of the two steps of an upgrade, and the last POSTs after
	// Close. Polls and other POSTs may take longer: if the server answers none, its silence ends
	// the Conn.
	Timeout time.Duration
	// MaxPayload is used if the server's handshake has no maxPayload, in bytes.
	MaxPayload int64
	// Incomplete accounts for the server's messages and polling answers that have arrived in part,
	// like Handler.Incomplete. It may be nil.
	Incomplete func(bytes int) bool
	// Ended is called once for each Conn that Dial returned, when the Conn ends. It must neither wait
	// nor call the Conn. It may be nil.
	Ended func()
	// Owner is for the user of this package; see Conn.Dialer.
	Owner any
	// UpgradeFailed is called when a Conn stays with polling although the server offered an
	// upgrade. It may be nil.
	UpgradeFailed func(err error)

	// polls is set when the server has refused a WebSocket but not polling. Later Conns of requests
	// with PollIfRefused begin with polling: python-engineio 3 runs the application's handlers before
	// it refuses a WebSocket. They still upgrade if the server offers that.
	polls atomic.Bool
	keeps keeping // the server's connections for polling
}

// maxHandshakeBytes limits what a server may send before it has answered the handshake.
const maxHandshakeBytes = 2 << 20

// Dial makes the handshake, within ctx's deadline, or Timeout if ctx has none. A *RejectedError is
// the server's refusal. Other errors mean that the server was not reached, or did not answer like
// an Engine.IO server.
func (d *Dialer) Dial(ctx context.Context, r Request) (*Conn, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.Timeout)
		defer cancel()
	}
	refused := false
	if r.PollIfRefused && d.polls.Load() {
		r = r.ForPolling()
	}
	if r.WebSocket {
		c := newConn(d, r)
		err := c.dialWebSocket(ctx)
		if err == nil {
			return c, nil
		}
		if !r.PollIfRefused || !refusesWebSockets(err) {
			return nil, err
		}
		refused, r = true, r.ForPolling()
	}
	c := newConn(d, r)
	c.poll = newPollingLink(c)
	if err := c.dialPolling(ctx); err != nil {
		c.poll.cancel()
		c.poll.cancelPost()
		c.poll.closeConnections()
		return nil, err
	}
	if refused {
		d.polls.Store(true)
	}
	// With its cookies, later requests reach the same server behind a balancer.
	c.dialed.request.Header, c.dialed.request.head = withCookies(r.Header, c.dialed.response), ""
	return c, nil
}

func newConn(d *Dialer, r Request) *Conn {
	return &Conn{protocol: r.Protocol, dialer: d, dialed: &dialResult{request: r}}
}

// refusesWebSockets reports whether err may mean that the server takes no WebSockets. Servers of
// version 3 answer 400 then, but also if the application refuses the client. Only over polling do
// they say which.
func refusesWebSockets(err error) bool {
	var rejected *RejectedError
	if !errors.As(err, &rejected) {
		return false
	}
	switch rejected.Status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusUpgradeRequired, http.StatusNotImplemented:
		return true
	}
	return false
}

// ForPolling returns the request for the same handshake over polling.
func (r Request) ForPolling() Request {
	var pairs []string
	for pair := range strings.SplitSeq(r.RawQuery, "&") {
		if key, _, _ := strings.Cut(pair, "="); key != "" && key != "transport" {
			pairs = append(pairs, pair)
		}
	}
	r.WebSocket, r.head = false, ""
	r.RawQuery = strings.Join(append(pairs, "transport=polling"), "&")
	return r
}

// ErrOtherVersion is wrapped if a server speaks another version of Engine.IO than expected. It wraps
// ErrMalformed.
var ErrOtherVersion = fmt.Errorf("%w: the server speaks Engine.IO version 3, as socket.io 2.x does (upstream.protocol)", ErrMalformed)

// RefusesVersion reports whether err is the refusal of a server that speaks version 3 only, such as
// python-engineio 3, of a handshake of version 4.
func RefusesVersion(err error) bool {
	var rejected *RejectedError
	return errors.As(err, &rejected) && rejected.Status == http.StatusBadRequest && bytes.Contains(rejected.Body, []byte("version"))
}

func (c *Conn) dialPolling(ctx context.Context) error {
	resp, body, err := c.roundTrip(ctx, &c.poll.polls, http.MethodGet, c.dialed.request.RawQuery, nil, func(r io.Reader) ([]byte, error) {
		return io.ReadAll(http.MaxBytesReader(nil, io.NopCloser(r), maxHandshakeBytes))
	})
	if err != nil {
		return err
	}
	if resp.status != http.StatusOK {
		return &RejectedError{resp.status, resp.header, body}
	}
	c.dialed.response = resp.header
	c.poll.handshakeAt = time.Now()
	if c.protocol == V4 && isPayload3(body) {
		if !c.dialed.request.AnyProtocol {
			return ErrOtherVersion
		}
		c.protocol = V3
	}
	var packets []Packet
	c.poll.v3 = c.protocol == V3
	if err := c.decodePayload(body, func(p Packet) bool {
		packets = append(packets, p)
		return true
	}); err != nil {
		return err
	}
	if len(packets) == 0 {
		return fmt.Errorf("%w: no OPEN packet", ErrMalformed)
	}
	c.dialed.handshakePackets = packets[1:]
	return c.setHandshake(packets[0])
}

// rejection returns the error for a response that refuses the handshake.
func rejection(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxRejectionBytes))
	if err != nil {
		return err
	}
	return &RejectedError{resp.StatusCode, resp.Header, body}
}

// setHandshake reads the handshake from the server's first packet.
func (c *Conn) setHandshake(p Packet) error {
	if p.Type != Open {
		return fmt.Errorf("%w: no OPEN packet", ErrMalformed)
	}
	h, err := ParseHandshake(p.Data)
	c.handshake = h
	c.pongs.lastPong = time.Now()
	c.pongs.lastSign = c.pongs.lastPong
	return err
}

func (c *Conn) dialWebSocket(ctx context.Context) error {
	d, err := c.openWebSocket(ctx, c.dialed.request.RawQuery)
	if err != nil {
		return err
	}
	l := (*wsLink)(c)
	c.dialed.response = d.header
	c.dialed.initial, err = d.readUntil(l, func(p Packet) (bool, error) { return true, c.setHandshake(p) })
	if err = d.finish(err); err != nil {
		return err
	}
	l.stream = netpoll.New(d.conn, l)
	c.ws = l
	return nil
}

// framePacket converts a message or a control frame to a packet. Pings and pongs become NOOP.
func framePacket(op ws.OpCode, payload []byte) (Packet, error) {
	switch {
	case op == ws.OpClose:
		return Packet{}, ErrServerClosed
	case op.IsControl():
		return Packet{Type: Noop}, nil
	case op == ws.OpBinary:
		return Packet{Type: Message, Binary: true, Data: payload}, nil
	}
	return decodeText(payload)
}

// wsDial is a WebSocket before it becomes a stream. Its context limits all I/O.
type wsDial struct {
	ctx    context.Context
	conn   net.Conn
	br     *bufio.Reader
	header http.Header // of the answer
	stop   func() bool // stops watching ctx
}

// finish ends the dial. If err is not nil, or ctx has ended, it closes the connection and returns
// why.
func (d *wsDial) finish(err error) error {
	if !d.stop() { // the connection has a deadline now
		err = errors.Join(d.ctx.Err(), err)
	}
	if err != nil {
		d.conn.Close()
	}
	freeReader(d.br)
	return err
}

// readUntil reads packets until fn is done, and returns the bytes that follow. It skips control
// frames.
func (d *wsDial) readUntil(l *wsLink, fn func(Packet) (done bool, err error)) ([]byte, error) {
	return l.read(d.br, func(op ws.OpCode, payload []byte) error {
		p, err := framePacket(op, payload)
		if err != nil || op.IsControl() {
			return err
		}
		done, err := fn(p)
		if done && err == nil {
			return errStop
		}
		return err
	})
}

// read feeds frames to fn until it returns an error. On errStop it returns the bytes that follow.
func (l *wsLink) read(br *bufio.Reader, fn func(ws.OpCode, []byte) error) (rest []byte, err error) {
	for {
		if _, err := br.Peek(1); err != nil {
			return nil, err
		}
		p, err := br.Peek(br.Buffered())
		if err != nil {
			return nil, err
		}
		rest, err := l.frames.feed(p, fn)
		if errors.Is(err, errStop) {
			return append([]byte(nil), rest...), nil
		}
		if err != nil {
			return nil, err
		}
		if _, err := br.Discard(len(p)); err != nil {
			return nil, err
		}
	}
}

// readers are used for handshakes only. Bytes that follow a handshake are copied.
var readers = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

func newReader(r io.Reader) *bufio.Reader {
	br := readers.Get().(*bufio.Reader)
	br.Reset(r)
	return br
}

func freeReader(br *bufio.Reader) {
	br.Reset(nil)
	readers.Put(br)
}

// acceptKey returns the Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455, 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// longAgo is a deadline that has passed, whatever the time is.
var longAgo = time.Unix(1, 0)

// openWebSocket makes the WebSocket handshake (RFC 6455, 4.1).
func (c *Conn) openWebSocket(ctx context.Context, query string) (*wsDial, error) {
	conn, err := c.dialer.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	d := &wsDial{ctx: ctx, conn: conn, br: newReader(io.LimitReader(conn, maxHandshakeBytes))}
	d.stop = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(longAgo) })
	if d.header, err = c.webSocketHandshake(conn, d.br, query); err != nil {
		return nil, d.finish(err)
	}
	return d, nil
}

func (c *Conn) webSocketHandshake(conn net.Conn, br *bufio.Reader, query string) (http.Header, error) {
	var nonce [16]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return nil, err
	}
	key := base64.StdEncoding.EncodeToString(nonce[:])
	r := c.dialed.request
	if query != r.RawQuery {
		r.RawQuery, r.head = query, ""
	}
	head := []byte(r.Head() +
		"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + "\r\n\r\n")
	if _, err := conn.Write(head); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodGet})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, rejection(resp)
	}
	if resp.Header.Get("Sec-WebSocket-Accept") != acceptKey(key) {
		return nil, fmt.Errorf("%w: wrong Sec-WebSocket-Accept", ErrMalformed)
	}
	if ext := resp.Header.Get("Sec-WebSocket-Extensions"); ext != "" {
		return nil, fmt.Errorf("%w: extension %q that was not offered", ErrMalformed, ext)
	}
	return resp.Header, nil
}

// withCookies returns header with the cookies that the response sets. Other cookies stay as they
// are, even if net/http would not accept them.
func withCookies(header, response http.Header) http.Header {
	set := response.Values("Set-Cookie")
	if len(set) == 0 {
		return header
	}
	var pairs []string
	for _, line := range header.Values("Cookie") {
		for pair := range strings.SplitSeq(line, ";") {
			if pair = strings.TrimSpace(pair); pair != "" {
				pairs = append(pairs, pair)
			}
		}
	}
	for _, line := range set {
		pair, _, _ := strings.Cut(line, ";")
		pair = strings.TrimSpace(pair)
		name := cookieName(pair)
		if name == "" {
			continue
		}
		pairs = slices.DeleteFunc(pairs, func(old string) bool { return cookieName(old) == name })
		if !expired(line) {
			pairs = append(pairs, pair)
		}
	}
	header = header.Clone()
	header.Del("Cookie")
	if len(pairs) > 0 {
		header.Set("Cookie", strings.Join(pairs, "; "))
	}
	return header
}

func cookieName(pair string) string {
	name, _, ok := strings.Cut(pair, "=")
	if !ok {
		return ""
	}
	return strings.TrimSpace(name)
}

// expired reports whether a Set-Cookie header deletes its cookie.
func expired(line string) bool {
	_, attributes, _ := strings.Cut(line, ";")
	c, err := http.ParseSetCookie("x=;" + attributes) // with any value
	return err == nil && (c.MaxAge < 0 || c.MaxAge == 0 && !c.Expires.IsZero() && c.Expires.Before(time.Now()))
}
