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
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// Request is a handshake to make with an upstream server.
type Request struct {
	WebSocket bool
	Path      string // escaped, as on the wire
	RawQuery  string
	Host      string
	// Header has what the server is to see of the client's request. Hop-by-hop headers and those of
	// the WebSocket handshake are not in it, but for Sec-WebSocket-Protocol.
	Header http.Header

	head string // what Head returned, which changes with nothing
}

var headBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// Head is the request's first line and header as they are written, without the blank line behind them. What is changed in the
// Request after the first call makes no difference to it.
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
	_ = r.Header.Write(b) // a Buffer takes all
	r.head = b.String()   // of just its length, for it is kept for as long as the client is there
	return r.head
}

// RejectedError is a server's refusal of a handshake, to be passed on.
type RejectedError struct {
	Status int
	Header http.Header
	Body   []byte
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("engineio: handshake refused with status %d", e.Status)
}

// maxRejectionBytes bounds how much of a refusal's body is passed on.
const maxRejectionBytes = 1 << 20

// Dialer connects to an upstream server.
type Dialer struct {
	// DialContext opens a connection to the server for a WebSocket, with TLS if the server wants it.
	DialContext func(ctx context.Context) (net.Conn, error)
	// DialPolling opens one for polling requests. Nil is DialContext.
	DialPolling func(ctx context.Context) (net.Conn, error)
	// Timeout bounds a handshake, each of the two steps of an upgrade, and what is still to be posted at Close. Polls and
	// POSTs may take longer: a server that answers none of them is found by its silence.
	Timeout time.Duration
	// MaxPayload stands in for the server's where its handshake has none, in bytes.
	MaxPayload int64
	// Incomplete is Options.Incomplete for what has come in part of the server's messages and polling answers. Nil admits all.
	Incomplete func(bytes int) bool
	// UpgradeFailed is told why a connection stays with polling, though its server offered an upgrade. It may be nil.
	UpgradeFailed func(err error)
}

// maxHandshakeBytes bounds what a server may send before it has answered the handshake.
const maxHandshakeBytes = 2 << 20

// Dial makes the handshake, within ctx's deadline, or Timeout if it has none. A *RejectedError is the server's answer; other errors say why it
// could not be asked, or that it did not answer as an Engine.IO server.
func (d *Dialer) Dial(ctx context.Context, r Request) (*Conn, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.Timeout)
		defer cancel()
	}
	c := &Conn{dialer: d, begun: &beginning{request: r}}
	if r.WebSocket {
		if err := c.dialWebSocket(ctx); err != nil {
			return nil, err
		}
		return c, nil
	}
	c.poll = newPollingLink(c)
	if err := c.dialPolling(ctx); err != nil {
		c.poll.cancel()
		c.poll.cancelPost()
		c.poll.closeConnections()
		return nil, err
	}
	// Later requests go to the server that answered this one, behind a balancer which uses cookies.
	c.begun.request.Header, c.begun.request.head = withCookies(r.Header, c.begun.response), ""
	return c, nil
}

func (c *Conn) dialPolling(ctx context.Context) error {
	resp, body, err := c.roundTrip(ctx, http.MethodGet, c.begun.request.RawQuery, nil, func(r io.Reader) ([]byte, error) {
		return io.ReadAll(http.MaxBytesReader(nil, io.NopCloser(r), maxHandshakeBytes))
	})
	if err != nil {
		return err
	}
	if resp.status != http.StatusOK {
		return &RejectedError{resp.status, resp.header, body}
	}
	c.begun.response = resp.header
	c.poll.opened = time.Now()
	var packets []Packet
	if err := DecodePayload(body, func(p Packet) bool {
		packets = append(packets, p)
		return true
	}); err != nil {
		return err
	}
	c.begun.early = packets[1:]
	return c.opened(packets[0])
}

// rejection is the error for a handshake's answer that is none.
func rejection(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxRejectionBytes))
	if err != nil {
		return err
	}
	return &RejectedError{resp.StatusCode, resp.Header, body}
}

// opened takes the handshake from the server's first packet.
func (c *Conn) opened(p Packet) error {
	if p.Type != Open {
		return fmt.Errorf("%w: no OPEN packet", ErrMalformed)
	}
	h, err := ParseHandshake(p.Data)
	c.handshake = h
	c.lastPing = time.Now()
	c.lastPong = c.lastPing
	return err
}

const (
	// newSID is how long some servers may take to know a session that they have just opened.
	newSID = 3 * time.Second
	// newSIDPause is the time between two attempts meanwhile.
	newSIDPause = 20 * time.Millisecond
)

// laterRoundTrip makes a polling request with the sid. Right behind the handshake one that the server does not know is repeated: in a
// cluster the process that chooses the worker hears of a sid a little after the client (@socket.io/sticky), and a link is quick.
// What was refused for its sid was not handled. known is set once a request has been accepted; none is repeated from then on.
func (c *Conn) laterRoundTrip(ctx context.Context, known *bool, method, query string, body []byte, read bodyReader) (*response, []byte, error) {
	for {
		resp, answer, err := c.roundTrip(ctx, method, query, body, read)
		if err != nil || *known || resp.status != http.StatusBadRequest || time.Since(c.poll.opened) > newSID ||
			!bytes.HasPrefix(answer, []byte(`{"code":1,`)) {
			*known = true
			return resp, answer, err
		}
		select {
		case <-time.After(newSIDPause):
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// roundTrip makes one polling request.
func (c *Conn) roundTrip(ctx context.Context, method, query string, body []byte, read bodyReader) (*response, []byte, error) {
	r := &c.begun.request
	b := headBuffers.Get().(*bytes.Buffer)
	b.Reset()
	b.WriteString(method + " " + r.Path)
	if query != "" {
		b.WriteString("?" + query)
	}
	b.WriteString(" HTTP/1.1\r\nHost: " + r.Host + "\r\n")
	_ = r.Header.Write(b) // a Buffer takes all
	connection := &c.poll.polls
	if method == http.MethodPost {
		connection = &c.poll.postings
		b.WriteString("Content-Type: text/plain;charset=UTF-8\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n")
	}
	b.WriteString("\r\n")
	b.Write(body)
	request := bytes.Clone(b.Bytes()) // a poll waits for long
	headBuffers.Put(b)
	return connection.do(ctx, method, request, read)
}

func (c *Conn) dialWebSocket(ctx context.Context) error {
	o, err := c.openWebSocket(ctx, c.begun.request.RawQuery)
	if err != nil {
		return err
	}
	l := (*wsLink)(c)
	c.begun.response = o.header
	c.begun.initial, err = o.readUntil(l, func(p Packet) (bool, error) { return true, c.opened(p) })
	if err = o.end(err); err != nil {
		return err
	}
	l.stream = netpoll.New(o.conn, l)
	c.ws = l
	return nil
}

// framePacket reads a message or control frame as a packet; control frames other than CLOSE count as NOOP.
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

// opening is a WebSocket before a stream is made of it. What waits for it ends with the context that it was opened with.
type opening struct {
	ctx    context.Context
	conn   net.Conn
	br     *bufio.Reader
	header http.Header // of the answer
	stop   func() bool // stops watching ctx
}

// end is for when the opening is over. It closes the connection if err says so, or ctx, and returns why.
func (o *opening) end(err error) error {
	if !o.stop() { // the connection has a deadline now
		err = errors.Join(o.ctx.Err(), err)
	}
	if err != nil {
		o.conn.Close()
	}
	freeReader(o.br)
	return err
}

// readUntil reads packets until fn says that it is done, and returns the bytes that were read behind. Control frames are passed
// over.
func (o *opening) readUntil(l *wsLink, fn func(Packet) (done bool, err error)) ([]byte, error) {
	return l.read(o.br, func(op ws.OpCode, payload []byte) error {
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

// readers are those of handshakes. What is behind a handshake is copied from them.
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

// acceptKey is the answer to a Sec-WebSocket-Key (RFC 6455, 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// longAgo is a deadline that has passed, whatever the time is.
var longAgo = time.Unix(1, 0)

// openWebSocket makes the WebSocket handshake (RFC 6455, 4.1).
func (c *Conn) openWebSocket(ctx context.Context, query string) (*opening, error) {
	conn, err := c.dialer.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	o := &opening{ctx: ctx, conn: conn, br: newReader(io.LimitReader(conn, maxHandshakeBytes))}
	o.stop = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(longAgo) })
	if o.header, err = c.webSocketHandshake(conn, o.br, query); err != nil {
		return nil, o.end(err)
	}
	return o, nil
}

func (c *Conn) webSocketHandshake(conn net.Conn, br *bufio.Reader, query string) (http.Header, error) {
	var nonce [16]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return nil, err
	}
	key := base64.StdEncoding.EncodeToString(nonce[:])
	r := c.begun.request
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

// withCookies returns the header with the cookies that the response sets put into its Cookie header. All others stay
// as they are, even if they are written in a way that net/http does not accept.
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
	c, err := http.ParseSetCookie("x=;" + attributes) // whatever the value is
	return err == nil && (c.MaxAge < 0 || c.MaxAge == 0 && !c.Expires.IsZero() && c.Expires.Before(time.Now()))
}
