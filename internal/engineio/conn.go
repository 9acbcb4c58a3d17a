package engineio

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// Errors that end a Conn.
var (
	// ErrClosed means that this side closed it.
	ErrClosed = errors.New("engineio: connection closed by this side")
	// ErrSilent means that the server sent no ping for pingInterval + pingTimeout.
	ErrSilent = errors.New("engineio: no ping from the server")
	// ErrServerClosed means that the server ended the connection in order, as engine.io does: by a Close frame without a code, or a
	// CLOSE packet.
	ErrServerClosed = errors.New("engineio: connection closed by the server")
	// ErrServerAway means that the server ended its WebSocket with a close code: engine.io never does, but servers that stop do.
	ErrServerAway = errors.New("engineio: connection closed by the server, with a code")
	// ErrTooBig is an ErrServerClosed: the server was sent a message that it finds too big.
	ErrTooBig = fmt.Errorf("%w: message too big", ErrServerClosed)
)

// ConnHandler gets what happens on a Conn. Message, Flush and Closed are not
// called concurrently with one another. No method may wait, neither for the network nor for others. All may call
// the Conn.
type ConnHandler interface {
	// Message gets a message from the server, in order. data may be changed, and is valid, during the call only.
	Message(data []byte, binary bool)
	// Flush follows the Messages of one batch.
	Flush()
	// Drained says that all that was sent has been taken by the network.
	Drained()
	// Closed is the last call, once, but for a Panicked.
	Closed(err error)
	// Panicked says that a method of the handler's panicked, or the Conn itself, and with what. It is called from where that
	// happened. The handler is to Close the Conn.
	Panicked(v any)
}

// Conn is the client's side of an Engine.IO connection. It implements Engine.IO
// protocol v4: it answers pings, and a polling connection upgrades itself to
// WebSocket if the server offers that. It is safe for concurrent use.
//
// What each message needs stands first in it, as in a Socket.
type Conn struct {
	h ConnHandler // set by Start

	closed atomic.Bool // set with mu held

	input sync.Mutex // serialises calls to the handler but for Drained

	mu     sync.Mutex // guards the fields below, up to those that are immutable
	unused bool       // it need not be closed in order
	told   bool       // of the end: the handler
	paused bool
	// unflushed is set when the handler has got messages and is still to Flush; guarded by input.
	unflushed bool
	// A ping may wait for us behind data that we did not read while paused. It is answered when it must be
	// due; as many are left unanswered when they are read.
	behind bool // paused since lastPong

	ws  *wsLink  // the Conn itself; nil while the transport is polling
	out *Encoder // collects frames until Flush; nil if there are none

	// Of the WebSocket.
	stream  netpoll.Stream // not changed once ws is set
	frames  frameReader    // owned by the stream's reader, and by Dial before
	counted int            // bytes in frames, as Dialer.Incomplete knows; owned by the stream's reader

	poll *pollingLink // nil if the Conn began as a WebSocket
	err  error

	// Heartbeat.
	timer      *time.Timer
	lastPing   time.Time // or when reading was resumed
	lastPong   time.Time // the server's next ping is due an interval after it
	unseenPong *time.Timer
	surplus    int
	stuckAt    int64 // bytes that the server had taken when onSilence last looked, while others waited; or unknown

	// Immutable after Dial.
	dialer    *Dialer
	handshake Handshake

	begun *beginning // nil after the Start of a WebSocket
}

// beginning is what there is of the handshake, until Start. It is owned by Dial, then Start; what polling keeps of it is immutable
// from then on.
type beginning struct {
	request  Request     // repeated by polling requests, and kept for them
	response http.Header // to it
	// What came together with it.
	early   []Packet // by polling
	initial []byte   // by WebSocket, not yet read as frames
}

// Handshake is the server's OPEN packet.
func (c *Conn) Handshake() Handshake { return c.handshake }

// ResponseHeader is the header of the server's answer to the handshake. It must not be changed, and is
// gone after Start.
func (c *Conn) ResponseHeader() http.Header {
	if c.begun == nil {
		return nil
	}
	return c.begun.response
}

// Transport is "websocket" or "polling".
func (c *Conn) Transport() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ws != nil {
		return "websocket"
	}
	return "polling"
}

// Start begins to read. The Conn calls h from then on.
func (c *Conn) Start(h ConnHandler) {
	defer c.contain()
	c.input.Lock()
	defer c.input.Unlock()
	c.mu.Lock()
	c.h = h
	c.mu.Unlock()
	c.deliverEarly()

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		c.tellClosedLocked() // end had nobody to tell
		return
	}
	c.lastPing = time.Now()
	c.stuckAt = unknown
	c.timer = time.AfterFunc(c.silence(), c.onSilence)
	c.begun.response = nil // has been read; an idle connection keeps little
	if c.ws != nil {
		initial := c.begun.initial
		c.begun = nil
		c.ws.stream.Start(initial)
		return
	}
	c.startPolling()
}

// deliverEarly handles what came with the handshake; input is held.
func (c *Conn) deliverEarly() {
	early := c.begun.early
	c.begun.early = nil
	for _, p := range early {
		if !c.packet(p) {
			break
		}
	}
	if len(early) > 0 {
		c.h.Flush()
	}
}

// silence is how long a server that lives can go without a ping.
func (c *Conn) silence() time.Duration {
	return c.handshake.interval() + c.handshake.timeout()
}

// Send adds a message to the next Flush: text, then its binary attachments, with nothing in between. Arguments are copied.
func (c *Conn) Send(text []byte, attachments [][]byte) {
	defer c.contain()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return
	}
	if c.ws == nil {
		c.poll.queueText(text, c.maxPost())
		for _, a := range attachments {
			c.poll.queueBinary(a, c.maxPost())
		}
		return
	}
	e := c.encoderLocked()
	e.packet(Message, text, nil, nil)
	for _, a := range attachments {
		e.Binary(a)
	}
}

// SendBinary adds a binary message of its own to the next Flush.
func (c *Conn) SendBinary(data []byte) {
	defer c.contain()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed.Load():
	case c.ws == nil:
		c.poll.queueBinary(data, c.maxPost())
	default:
		c.encoderLocked().Binary(data)
	}
}

func (c *Conn) encoderLocked() *Encoder {
	if c.out == nil {
		c.out = newEncoder(clientFrames)
	}
	return c.out
}

// Flush sends what Send has added, without waiting, and returns how many bytes have to wait.
func (c *Conn) Flush() (queued int) {
	defer c.contain()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return 0
	}
	if c.ws == nil {
		c.startPostLocked()
		return c.poll.queuedBytes()
	}
	return c.flushLocked()
}

// flushLocked writes the frames that were collected for the WebSocket.
func (c *Conn) flushLocked() (queued int) {
	if c.out == nil {
		return c.ws.stream.Queued()
	}
	queued = c.ws.stream.Write(c.out.buf)
	c.out.free()
	c.out = nil
	return queued
}

// Pause stops reading, but for what was read already. The server is still sent pongs when its pings
// must be due, so that it does not give up on us.
func (c *Conn) Pause() {
	defer c.contain()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.paused || c.closed.Load() {
		return
	}
	c.paused = true
	if c.ws != nil {
		c.ws.stream.Pause()
	}
	c.behind = true
	c.armUnseenPongLocked()
}

// armUnseenPongLocked has the ping answered that must be on its way when it is due.
func (c *Conn) armUnseenPongLocked() {
	due := max(0, time.Until(c.lastPong.Add(c.handshake.interval()+c.pongMargin())))
	if c.unseenPong == nil {
		c.unseenPong = time.AfterFunc(due, c.onUnseenPong)
	} else {
		c.unseenPong.Reset(due)
	}
}

// pongMargin is how long after it is due a ping is answered unseen: late enough for it to have been sent.
func (c *Conn) pongMargin() time.Duration { return c.handshake.timeout() / 4 }

func (c *Conn) onUnseenPong() {
	defer c.contain()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() || !c.behind {
		return
	}
	if time.Until(c.lastPong.Add(c.handshake.interval())) <= 0 {
		c.surplus++
		c.sendPongLocked()
		c.behind = c.paused
	}
	if c.behind {
		c.armUnseenPongLocked()
	}
}

// Resume undoes Pause.
func (c *Conn) Resume() {
	defer c.contain()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.paused {
		return
	}
	c.paused = false
	c.lastPing = time.Now()
	if c.ws != nil {
		c.ws.stream.Resume()
	}
	c.poll.changedLocked()
}

// Close ends the connection in order, without waiting.
func (c *Conn) Close() { c.end(ErrClosed) }

// Leave ends a connection that was not used. A WebSocket's server is spared the closing handshake: it sees the end of the
// stream, which for it is as much a close of the transport.
func (c *Conn) Leave() {
	c.mu.Lock()
	c.unused = true
	c.mu.Unlock()
	c.end(ErrClosed)
}

// end closes the Conn; the first error counts.
func (c *Conn) end(err error) {
	defer c.contain()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return
	}
	c.closed.Store(true)
	c.err = err
	defer c.tellClosedLocked() // whatever happens
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.unseenPong != nil {
		c.unseenPong.Stop()
	}
	switch {
	case c.ws != nil:
		c.flushLocked()
		c.ws.end(!c.unused)
		if c.timer == nil { // not started: nobody else will read the server's end of it
			c.ws.stream.Start(nil)
		}
	case errors.Is(err, ErrClosed):
		go c.sayClose() // ends with its requests, or when their time is up
	default:
		c.poll.cancelPost()
		c.poll.closeConnections()
	}
	c.poll.changedLocked()
	if c.poll != nil {
		c.poll.cancel()
	}
}

// tellClosedLocked tells the handler of the end, if there is one already.
func (c *Conn) tellClosedLocked() {
	if c.h != nil && !c.told {
		c.told = true
		go c.tellClosed(c.h, c.err) // the caller may hold locks of the handler
	}
}

func (c *Conn) tellClosed(h ConnHandler, err error) {
	defer c.contain()
	c.input.Lock()
	defer c.input.Unlock()
	defer h.Closed(err) // whatever becomes of the Flush
	c.flushInput()
}

func (c *Conn) onSilence() {
	defer c.contain()
	if c.silent() {
		c.end(ErrSilent)
	}
}

// silent reports whether the server must be dead; if not, it lets the timer fire again.
func (c *Conn) silent() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return false
	}
	left := c.silence() - time.Since(c.lastPing)
	if c.paused { // the server's pings may wait behind what is not read, but it has to take what we send
		left = c.silence()
		queued, taken := c.progressLocked()
		if queued > 0 && taken == c.stuckAt {
			return true
		}
		c.stuckAt = unknown
		if queued > 0 {
			c.stuckAt = taken
		}
	} else {
		c.stuckAt = unknown
	}
	if left <= 0 {
		return true
	}
	c.timer.Reset(left)
	return false
}

// progressLocked is how many bytes wait for the server, and how much it has taken so far.
func (c *Conn) progressLocked() (queued int, taken int64) {
	if c.ws != nil {
		return c.ws.stream.Queued(), c.ws.stream.Delivered()
	}
	return c.poll.bytes, c.poll.taken
}

// packet handles one packet from the server; input is held. It reports whether more are wanted.
func (c *Conn) packet(p Packet) bool {
	switch p.Type {
	case Message:
		if c.closed.Load() {
			return false
		}
		c.h.Message(p.Data, p.Binary)
	case Ping:
		c.mu.Lock()
		defer c.mu.Unlock()
		c.lastPing = time.Now()
		if c.surplus > 0 {
			c.surplus--
			return true
		}
		c.sendPongLocked()
		c.behind = c.paused
	case Close:
		c.end(ErrServerClosed)
		return false
	case Open, Pong, Upgrade, Noop:
	}
	return true
}

func (c *Conn) sendPongLocked() {
	if c.closed.Load() {
		return
	}
	c.lastPong = time.Now()
	if c.ws == nil {
		c.poll.queue(appendPacket(nil, Pong, nil), c.maxPost())
		c.startPostLocked()
		return
	}
	c.encoderLocked().packet(Pong, nil, nil, nil)
	c.flushLocked()
}

// deliverText takes one text frame or packet from the server; input is held.
func (c *Conn) deliverText(payload []byte) error {
	p, err := decodeText(payload) // a server that saw "b64" in the query writes binary as text here too
	if err != nil {
		return err
	}
	if !c.packet(p) {
		return errStop
	}
	return nil
}

// wsLink is a Conn as the Handler of its WebSocket's stream.
type wsLink Conn

// Read implements netpoll.Handler.
func (l *wsLink) Read(p []byte) {
	c := (*Conn)(l)
	defer c.contain()
	c.input.Lock()
	defer c.input.Unlock()
	if c.closed.Load() {
		return
	}
	c.unflushed = true
	_, err := l.frames.feed(p, l.frame)
	if err == nil && !l.count() {
		err = ErrNoMemory
	}
	if err != nil && !errors.Is(err, errStop) {
		c.end(err)
	}
}

// count tells Dialer.Incomplete of what is kept of a message.
func (l *wsLink) count() bool {
	n := l.frames.incomplete()
	if !takeIncomplete(l.dialer.Incomplete, n-l.counted) {
		return false
	}
	l.counted = n
	return true
}

// Flush implements netpoll.Handler.
func (l *wsLink) Flush() {
	c := (*Conn)(l)
	defer c.contain()
	c.input.Lock()
	defer c.input.Unlock()
	c.flushInput()
}

// flushInput ends a batch of messages; input is held.
func (c *Conn) flushInput() {
	if c.unflushed {
		c.unflushed = false
		c.h.Flush()
	}
}

func (l *wsLink) frame(op ws.OpCode, payload []byte) error {
	c := (*Conn)(l)
	switch op { //nolint:exhaustive // the others mean nothing here
	case ws.OpText:
		return c.deliverText(payload)
	case ws.OpBinary:
		if !c.packet(Packet{Type: Message, Binary: true, Data: payload}) {
			return errStop
		}
	case ws.OpPing:
		e := newEncoder(clientFrames)
		e.frame(ws.OpPong, 0, payload, nil, nil)
		l.stream.Write(e.buf)
		e.free()
	case ws.OpClose:
		switch code, err := closeCode(payload); {
		case err == nil && code == ws.StatusNoStatusRcvd:
			c.end(ErrServerClosed)
		case err == nil && code == ws.StatusMessageTooBig:
			c.end(ErrTooBig)
		default:
			c.end(ErrServerAway)
		}
		return errStop
	}
	return nil
}

// Drained implements netpoll.Handler.
func (l *wsLink) Drained() {
	if h := (*Conn)(l).handler(); h != nil { // else the Conn was not started: TLS writes from a goroutine
		h.Drained()
	}
}

// Closed implements netpoll.Handler.
func (l *wsLink) Closed(err error) {
	l.frames = frameReader{}
	l.count()
	(*Conn)(l).end(err)
}

// end closes the WebSocket, in order with a CLOSE frame.
func (l *wsLink) end(inOrder bool) {
	if inOrder {
		e := newEncoder(clientFrames)
		e.frame(ws.OpClose, 0, nil, nil, nil)
		l.stream.Write(e.buf)
		e.free()
	}
	l.stream.Shutdown(lingerTimeout)
}

func appendPacket(dst []byte, t PacketType, data []byte) []byte {
	return append(append(dst, byte(t)), data...)
}

// laterQuery is the query of the requests that follow a handshake: the handshake's own, with the transport, the sid
// and a cache buster in place of its. A client's wish for base64 ("b64") is not ours.
func laterQuery(handshake, transport, sid, t string) string {
	var b strings.Builder
	for pair := range strings.SplitSeq(handshake, "&") {
		key, _, _ := strings.Cut(pair, "=")
		switch key {
		case "", "transport", "sid", "t", "b64":
			continue
		}
		b.WriteString(pair)
		b.WriteByte('&')
	}
	b.WriteString("transport=" + transport + "&sid=" + url.QueryEscape(sid))
	if t != "" {
		b.WriteString("&t=" + t)
	}
	return b.String()
}
