package sioclient

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/siotest/sioserver/wire"
)

var (
	// ErrDisconnected is wrapped when the connection ended before the operation was complete.
	ErrDisconnected = errors.New("sioclient: disconnected")
	// ErrHandshake is wrapped when the server does not answer as Engine.IO v4.
	ErrHandshake = errors.New("sioclient: bad handshake")
)

// ConnectError is the server's refusal of a namespace.
type ConnectError struct {
	Namespace string          `json:"-"`
	Message   string          `json:"message"`
	Data      json.RawMessage `json:"data"` // of the application, or nil
}

func (e *ConnectError) Error() string {
	return fmt.Sprintf("sioclient: connecting to %s: %s", e.Namespace, e.Message)
}

// Options of a Client.
type Options struct {
	// URL of the server, with the scheme http, https, ws or wss. Its path is
	// ignored, its query is not.
	URL string
	// Path of the Engine.IO requests. Default "/socket.io/".
	Path string
	// Namespace of the Client's own Socket. Default "/".
	Namespace string
	// Auth is sent with that Socket's CONNECT: it must be a JSON object.
	Auth any
	// Header is added to the handshake request.
	Header http.Header
	// NetDial replaces the default dialler.
	NetDial func(ctx context.Context, network, addr string) (net.Conn, error)
	// ReadBufferBytes of each connection. Default 4096.
	ReadBufferBytes int
}

// Client is a connection to a server, which can be lost and made again, and
// the sockets on it. Its embedded Socket is that of Options.Namespace. It is
// safe for concurrent use.
type Client struct {
	*Socket
	opts Options // immutable

	connecting sync.Mutex // one Connect at a time

	mu      sync.Mutex         // guards the fields below
	link    *link              // nil if there is none
	sockets map[string]*Socket // by namespace
}

// New returns a client that is not connected yet, for handlers to be added.
func New(opts Options) *Client {
	opts.Path = cmp.Or(opts.Path, "/socket.io/")
	opts.Namespace = cmp.Or(opts.Namespace, "/")
	opts.ReadBufferBytes = cmp.Or(opts.ReadBufferBytes, 4096)
	c := &Client{opts: opts, sockets: make(map[string]*Socket, 1)}
	c.Socket = c.Of(opts.Namespace, opts.Auth)
	return c
}

// Dial is New and Connect. Events that follow the CONNECT reply directly may be
// missed: use New where that matters.
func Dial(ctx context.Context, opts Options) (*Client, error) {
	c := New(opts)
	if err := c.Connect(ctx); err != nil {
		c.CloseTransport()
		return nil, err
	}
	return c, nil
}

// Of returns the socket of a namespace. A new one takes part in the next
// Connect of the client, or can be connected by itself; auth is only for it.
func (c *Client) Of(namespace string, auth any) *Socket {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sockets[namespace]
	if s == nil {
		s = &Socket{
			c: c, nsp: namespace, auth: auth,
			active:   true,
			handlers: make(map[string][]handler),
			acks:     make(map[int64]*pendingAck),
		}
		c.sockets[namespace] = s
	}
	return s
}

// Connect opens a connection, and connects all sockets that were not disconnected
// deliberately, and the client's own in any case. It first closes an existing
// connection, without a DISCONNECT. It returns when all sockets have a reply. If one
// was refused, it returns that error, and the others are connected.
func (c *Client) Connect(ctx context.Context) error {
	c.connecting.Lock()
	defer c.connecting.Unlock()
	c.CloseTransport()
	c.setActive(true)

	l, err := c.open(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.link = l
	sockets := slices.Collect(maps.Values(c.sockets))
	c.mu.Unlock()
	go l.readLoop() // ends with the connection

	stop := context.AfterFunc(ctx, l.abort) // also unblocks writes
	defer stop()
	var replies []<-chan error
	for _, s := range sockets {
		if s.isActive() {
			replies = append(replies, s.connect(l))
		}
	}
	var errs []error
	for _, reply := range replies {
		if err := await(ctx, reply); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 && l.ended() {
		return fmt.Errorf("%w while connecting", ErrDisconnected)
	}
	return errors.Join(errs...)
}

// Reconnect is Connect, for callers whose connection was cut.
func (c *Client) Reconnect(ctx context.Context) error { return c.Connect(ctx) }

// Cut resets the TCP connection without telling the server. Unsent data is lost.
func (c *Client) Cut() {
	l := c.current()
	if l == nil {
		return
	}
	nc := l.nc
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	if t, ok := nc.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // fails only if it is closed
	}
	nc.Close()
	<-l.done
}

// CloseTransport closes the WebSocket properly, but disconnects no sockets, like
// engine.close() in JavaScript.
func (c *Client) CloseTransport() {
	if l := c.current(); l != nil {
		l.close(true)
		<-l.done
	}
}

// closeIfUnused closes a link, without waiting, when no socket wants one.
func (c *Client) closeIfUnused(l *link) {
	c.mu.Lock()
	sockets := slices.Collect(maps.Values(c.sockets))
	c.mu.Unlock()
	if !slices.ContainsFunc(sockets, (*Socket).isActive) {
		l.close(true)
	}
}

// Close disconnects all sockets and closes the connection.
func (c *Client) Close() {
	c.mu.Lock()
	sockets := slices.Collect(maps.Values(c.sockets))
	c.mu.Unlock()
	for _, s := range sockets {
		s.Disconnect()
	}
	c.CloseTransport()
}

// SID returns the Engine.IO session id of the current connection, or "".
func (c *Client) SID() string {
	if l := c.current(); l != nil {
		return l.sid
	}
	return ""
}

func (c *Client) current() *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link
}

// open makes a connection and takes its handshake.
func (c *Client) open(ctx context.Context) (*link, error) {
	target, err := c.opts.target()
	if err != nil {
		return nil, err
	}
	dialer := ws.Dialer{
		NetDial:        c.opts.NetDial,
		Header:         ws.HandshakeHeaderHTTP(c.opts.Header),
		ReadBufferSize: c.opts.ReadBufferBytes,
	}
	nc, br, _, err := dialer.Dial(ctx, target)
	if err != nil {
		return nil, fmt.Errorf("sioclient: %w", err)
	}
	if br == nil {
		br = bufio.NewReaderSize(nc, c.opts.ReadBufferBytes)
	}
	l := &link{
		c: c, nc: nc,
		in:   wire.NewMessageReader(br, ws.StateClientSide, 0),
		done: make(chan struct{}),
	}
	stop := context.AfterFunc(ctx, l.abort)
	defer stop()
	op, payload, err := l.in.Next()
	if err == nil {
		err = l.onOpen(op, payload)
	}
	if err != nil {
		nc.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	return l, nil
}

// target is the URL of the WebSocket.
func (o Options) target() (string, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return "", fmt.Errorf("sioclient: %w", err)
	}
	switch u.Scheme {
	case "http", "ws":
		u.Scheme = "ws"
	case "https", "wss":
		u.Scheme = "wss"
	default:
		return "", fmt.Errorf("sioclient: URL %q: scheme is none of http, https, ws, wss", o.URL)
	}
	u.Path = o.Path
	query := "EIO=4&transport=websocket"
	if u.RawQuery != "" {
		query += "&" + u.RawQuery
	}
	u.RawQuery = query
	return u.String(), nil
}

// await waits for a reply, which a link gives at the latest when it ends, and
// ctx ends the link.
func await(ctx context.Context, reply <-chan error) error {
	err := <-reply
	if errors.Is(err, ErrDisconnected) && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// link is one Engine.IO connection.
type link struct {
	// Immutable after open.
	c        *Client
	nc       net.Conn
	sid      string
	pingWait time.Duration // longest time between two pings

	in  *wire.MessageReader // owned by readLoop
	dec wire.Decoder        // owned by readLoop

	writing sync.Mutex // one frame at a time; a leaf

	mu      sync.Mutex // guards the fields below and the read deadline
	closing bool       // a close frame was sent
	forced  bool       // and it was not an answer

	done chan struct{} // closed when readLoop has told the sockets of the end
}

// closeGrace is how long the server may take to answer a close frame.
const closeGrace = time.Second

// onOpen takes the handshake.
func (l *link) onOpen(op ws.OpCode, payload []byte) error {
	if op != ws.OpText || len(payload) == 0 || payload[0] != '0' {
		return fmt.Errorf("first message is %.40q", payload)
	}
	var h struct {
		SID          string `json:"sid"`
		PingInterval int64  `json:"pingInterval"`
		PingTimeout  int64  `json:"pingTimeout"`
	}
	if err := json.Unmarshal(payload[1:], &h); err != nil {
		return err
	}
	if h.SID == "" || h.PingInterval <= 0 || h.PingTimeout <= 0 {
		return fmt.Errorf("incomplete: %.100s", payload)
	}
	l.sid = h.SID
	l.pingWait = time.Duration(h.PingInterval+h.PingTimeout) * time.Millisecond
	l.expectPing()
	return nil
}

// expectPing postpones the ping timeout. Only pings do that.
func (l *link) expectPing() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closing {
		l.nc.SetReadDeadline(time.Now().Add(l.pingWait))
	}
}

// readLoop ends with the connection, and ends it.
func (l *link) readLoop() {
	defer close(l.done)
	err := l.read()
	l.nc.Close()

	reason := l.endReason(err)
	l.c.mu.Lock()
	if l.c.link == l {
		l.c.link = nil
	}
	sockets := slices.Collect(maps.Values(l.c.sockets))
	l.c.mu.Unlock()
	for _, s := range sockets {
		s.onLinkEnd(l, reason)
	}
}

// endReason returns socket.io-client's reason for the end of the connection.
func (l *link) endReason(err error) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.forced {
		return "forced close"
	}
	if netErr, ok := errors.AsType[net.Error](err); ok && netErr.Timeout() {
		return "ping timeout"
	}
	if errors.Is(err, wire.ErrMalformed) {
		return "parse error"
	}
	return "transport close"
}

// read handles messages until an error, or nil for the server's close frame.
func (l *link) read() error {
	for {
		op, payload, err := l.in.Next()
		if err != nil {
			return err
		}
		switch op {
		case ws.OpPing:
			l.write(ws.OpPong, nil, payload)
		case ws.OpPong:
		case ws.OpClose:
			l.close(false)
			return nil
		case ws.OpBinary:
			if err := l.onPacket(l.dec.Binary(payload)); err != nil {
				return err
			}
		default:
			if err := l.onText(payload); err != nil {
				return err
			}
		}
	}
}

func (l *link) onText(payload []byte) error {
	switch {
	case len(payload) == 0:
		return fmt.Errorf("%w: empty Engine.IO packet", wire.ErrMalformed)
	case payload[0] == '2':
		l.expectPing()
		l.write(ws.OpText, nil, []byte("3"))
	case payload[0] == '4':
		return l.onPacket(l.dec.Text(payload[1:]))
	}
	return nil // the rest says nothing over WebSocket
}

func (l *link) onPacket(p wire.Packet, complete bool, err error) error {
	if err != nil || !complete {
		return err
	}
	l.c.mu.Lock()
	s := l.c.sockets[p.Namespace]
	l.c.mu.Unlock()
	if s == nil {
		return nil
	}
	return s.onPacket(l, p)
}

// write sends one message of prefix and payload. An error ends the
// connection, which readLoop notices.
func (l *link) write(op ws.OpCode, prefix, payload []byte) {
	buf := frameBuffers.Get().(*[]byte)
	defer frameBuffers.Put(buf)
	*buf = appendFrame((*buf)[:0], op, prefix, payload)
	l.writeFrames(*buf)
}

// writePacket sends a Socket.IO packet, its attachments right behind it.
func (l *link) writePacket(text []byte, attachments [][]byte) {
	buf := frameBuffers.Get().(*[]byte)
	defer frameBuffers.Put(buf)
	*buf = appendFrame((*buf)[:0], ws.OpText, []byte{'4'}, text)
	for _, a := range attachments {
		*buf = appendFrame(*buf, ws.OpBinary, nil, a)
	}
	l.writeFrames(*buf)
}

func (l *link) writeFrames(frames []byte) {
	l.writing.Lock()
	defer l.writing.Unlock()
	if _, err := l.nc.Write(frames); err != nil {
		l.nc.Close()
	}
}

// close sends a close frame, once, and bounds the wait for the answer.
func (l *link) close(forced bool) {
	l.mu.Lock()
	first := !l.closing
	if first {
		l.closing, l.forced = true, forced
		l.nc.SetDeadline(time.Now().Add(closeGrace))
	}
	l.mu.Unlock()
	if first {
		l.write(ws.OpClose, nil, nil)
	}
}

// abort ends the connection immediately.
func (l *link) abort() { l.nc.Close() }

func (l *link) ended() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

var frameBuffers = sync.Pool{New: func() any { return new([]byte) }}

// appendFrame appends a masked frame to dst.
func appendFrame(dst []byte, op ws.OpCode, prefix, payload []byte) []byte {
	n := len(prefix) + len(payload)
	dst = append(dst, 0x80|byte(op))
	switch {
	case n < 126:
		dst = append(dst, 0x80|byte(n))
	case n < 1<<16:
		dst = append(dst, 0x80|126, byte(n>>8), byte(n))
	default:
		dst = append(dst, 0x80|127)
		for shift := 56; shift >= 0; shift -= 8 {
			dst = append(dst, byte(uint64(n)>>shift))
		}
	}
	mask := ws.NewMask()
	dst = append(dst, mask[:]...)
	start := len(dst)
	dst = append(append(dst, prefix...), payload...)
	ws.Cipher(dst[start:], mask, 0)
	return dst
}

// ConnectPayload is the CONNECT payload of socket.io-client: the keys of auth, which must be a JSON
// object or nil, after pid and offset, which they override in place. It is nil if there are none.
func ConnectPayload(pid, offset string, auth any) (json.RawMessage, error) {
	keys, values, err := object(auth)
	if err != nil || pid == "" && auth == nil {
		return nil, err // CONNECT needs no payload
	}
	if pid == "" {
		return render(keys, values), nil
	}
	merged := []string{"pid"}
	own := map[string]json.RawMessage{"pid": quote(pid)}
	if offset != "" {
		merged = append(merged, "offset")
		own["offset"] = quote(offset)
	}
	for _, k := range keys {
		if _, ok := own[k]; !ok {
			merged = append(merged, k)
		}
	}
	maps.Copy(own, values)
	return render(merged, own), nil
}

// object returns the keys of a JSON object in their order.
func object(v any) (keys []string, values map[string]json.RawMessage, err error) {
	if v == nil {
		return nil, nil, nil
	}
	data, err := json.Marshal(v)
	if err != nil {
		return nil, nil, fmt.Errorf("sioclient: auth: %w", err)
	}
	if err := json.Unmarshal(data, &values); err != nil {
		return nil, nil, fmt.Errorf("sioclient: auth is no JSON object: %w", err)
	}
	dec := json.NewDecoder(strings.NewReader(string(data)))
	if _, err := dec.Token(); err != nil {
		return nil, nil, err
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, nil, err
		}
		keys = append(keys, key.(string)) // JSON has no other keys
		var skipped json.RawMessage
		if err := dec.Decode(&skipped); err != nil {
			return nil, nil, err
		}
	}
	return keys, values, nil
}

func render(keys []string, values map[string]json.RawMessage) json.RawMessage {
	out := []byte{'{'}
	for i, k := range keys {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(append(out, quote(k)...), ':'), values[k]...)
	}
	return append(out, '}')
}

func quote(s string) json.RawMessage {
	data, _ := json.Marshal(s) // strings cannot fail
	return data
}
