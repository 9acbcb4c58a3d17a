package engineio

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// Errors that end a Conn.
var (
	// ErrClosed means that this side closed the connection.
	ErrClosed = errors.New("engineio: connection closed by this side")
	// ErrSilent means that the server sent no ping for pingInterval + pingTimeout, or in version 3
	// no pong.
	ErrSilent = errors.New("engineio: no heartbeat from the server")
	// ErrServerClosed means that the server closed the connection as the reference server does:
	// with a Close frame without a code, or a CLOSE packet.
	ErrServerClosed = errors.New("engineio: connection closed by the server")
	// ErrServerAway means that the server sent a Close frame with a code. The reference server
	// never does, but others do when they stop.
	ErrServerAway = errors.New("engineio: connection closed by the server, with a code")
	// ErrTooBig wraps ErrServerClosed: the server rejected a message as too big.
	ErrTooBig = fmt.Errorf("%w: message too big", ErrServerClosed)
)

// ConnHandler receives what happens on a Conn. Message, Flush and Closed are never concurrent with
// one another. No method may wait. All may call the Conn.
type ConnHandler interface {
	// Message receives a message from the server, in order. data is valid during the call only;
	// Message may change it.
	Message(data []byte, binary bool)
	// Flush follows the Messages of one batch.
	Flush()
	// Drained reports that the network has taken everything that was sent.
	Drained()
	// Closed is called once. Only Panicked may follow it.
	Closed(err error)
	// Panicked reports a panic in one of the handler's methods, or in the Conn. It is called from
	// the goroutine that panicked. Panicked must close the Conn.
	Panicked(v any)
}

// MemoryHandler is a ConnHandler that accounts for the server's messages that have arrived in part,
// instead of Dialer.Incomplete.
type MemoryHandler interface {
	// Incomplete is like Handler.Incomplete. It may Pause the Conn: then nothing more of a message
	// is read until Resume. It is called without a lock of the Conn that Pause needs.
	Incomplete(bytes int) bool
}

// Conn is the client side of an Engine.IO connection. It implements Engine.IO protocol v4, in which
// it answers pings, and v3, in which it sends them. A polling connection upgrades itself to
// WebSocket if the server offers that. It is safe for concurrent use.
//
// Field order matters, as in Socket: what each message needs comes first.
type Conn struct {
	h ConnHandler // set by Start

	state life // changes with mu held

	input sync.Mutex // serializes the handler's methods except Drained; guards unflushed

	mu         sync.Mutex // guards the fields below, up to the immutable ones
	readPaused bool       // Pause was called
	unflushed  bool       // the handler got messages and no Flush yet; guarded by input

	ws  *wsLink  // the Conn itself; nil while the transport is polling
	out *Encoder // collects frames until Flush; nil if there are none

	// For a WebSocket.
	stream   netpoll.Stream // does not change once ws is set
	frames   frameReader    // owned by the stream's reader, and by Dial before
	reserved int            // bytes in frames that Dialer.Incomplete counts; owned like frames

	poll *pollingLink // nil if the Conn began as a WebSocket
	err  error        // why the Conn ended

	pongs ponger

	// Immutable after Dial.
	protocol  Protocol
	dialer    *Dialer
	handshake Handshake

	dialed *dialResult // nil after Start, unless the Conn began with polling
}

// dialResult is what Dial leaves to Start. Dial owns it, then Start; from then on the request is
// immutable, because polling requests repeat it.
type dialResult struct {
	request  Request
	response http.Header // of the handshake; nil after Start
	// What arrived together with the handshake.
	handshakePackets []Packet // polling
	initial          []byte   // WebSocket, not parsed yet
}

// Handshake returns the server's OPEN packet.
func (c *Conn) Handshake() Handshake { return c.handshake }

// Dialer returns the Dialer that made the Conn.
func (c *Conn) Dialer() *Dialer { return c.dialer }

// Protocol returns the version that the server speaks.
func (c *Conn) Protocol() Protocol { return c.protocol }

// ResponseHeader returns the header of the server's answer to the handshake, or nil after Start.
// The caller must not change it.
func (c *Conn) ResponseHeader() http.Header {
	if c.dialed == nil {
		return nil
	}
	return c.dialed.response
}

// Transport returns "websocket" or "polling".
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
	defer recoverPanic(c)
	c.input.Lock()
	defer c.input.Unlock()
	c.mu.Lock()
	c.h = h
	c.mu.Unlock()
	c.deliverHandshakePackets()

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.ended() {
		c.reportClosedLocked() // there was no handler before
		return
	}
	c.startHeartbeatLocked()
	c.dialed.response = nil // an idle connection keeps little memory
	if c.ws != nil {
		initial := c.dialed.initial
		c.dialed = nil
		c.ws.stream.Start(initial)
		return
	}
	c.poll.startLocked()
}

// deliverHandshakePackets handles packets that arrived with the handshake; input is held.
func (c *Conn) deliverHandshakePackets() {
	packets := c.dialed.handshakePackets
	c.dialed.handshakePackets = nil
	for _, p := range packets {
		if !c.packet(p) {
			break
		}
	}
	if len(packets) > 0 {
		c.h.Flush()
	}
}

// Send adds a message to the next Flush: the text, directly followed by its binary attachments. It
// copies its arguments.
func (c *Conn) Send(text []byte, attachments [][]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.ended() {
		return
	}
	if c.ws == nil {
		c.poll.queue.addMessage(text, attachments)
		return
	}
	e := c.encoderLocked()
	e.packet(Message, text, nil, nil)
	for _, a := range attachments {
		e.Binary(a)
	}
}

// SendBinary adds a binary message without a text to the next Flush.
func (c *Conn) SendBinary(data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.state.ended():
	case c.ws == nil:
		c.poll.queue.addBinary(data)
	default:
		c.encoderLocked().Binary(data)
	}
}

func (c *Conn) encoderLocked() *Encoder {
	if c.out == nil {
		c.out = newEncoderFor(clientFrames, c.protocol)
	}
	return c.out
}

// Flush sends what Send has added, without waiting, and returns how many bytes are still queued.
func (c *Conn) Flush() (queued int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.ended() {
		return 0
	}
	if c.ws == nil {
		c.poll.startPostsLocked()
		return c.poll.queue.bytes
	}
	return c.flushLocked()
}

// flushLocked writes the frames collected for the WebSocket.
func (c *Conn) flushLocked() (queued int) {
	if c.out == nil {
		return c.ws.stream.Queued()
	}
	queued = c.ws.stream.Write(c.out.buf)
	c.out.free()
	c.out = nil
	return queued
}

// Pause stops reading until Resume. Data already read is still delivered. The Conn sends pongs when
// the server's pings must be due, so that the server does not time out. In version 3 it continues
// to send pings.
func (c *Conn) Pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.readPaused || c.state.ended() {
		return
	}
	c.readPaused = true
	if c.ws != nil {
		c.ws.stream.Pause()
	}
	if c.protocol == V4 {
		c.pongs.mayBeUnread = true
		c.armEarlyPongLocked()
	}
}

// Resume undoes Pause.
func (c *Conn) Resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.readPaused {
		return
	}
	c.readPaused = false
	c.pongs.lastSign = time.Now()
	if c.ws != nil {
		c.ws.stream.Resume()
	}
	c.poll.changedLocked()
}

// Close ends the connection in an orderly way, without waiting. What was sent before still goes
// out.
func (c *Conn) Close() { c.end(ErrClosed) }

// Abort ends a connection that was not used. A WebSocket ends without the closing handshake, which
// saves the server work: to it, the end of the stream closes the transport just as well. Polling
// ends as with Close.
func (c *Conn) Abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(ErrClosed, (*wsLink).shutdown)
}

// end closes the Conn; only the first call counts.
func (c *Conn) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(err, (*wsLink).close)
}

// endLocked is end, with the function that ends a WebSocket.
func (c *Conn) endLocked(err error, endWebSocket func(*wsLink)) {
	if !c.state.moveLocked(stateClosed) {
		return
	}
	c.err = err
	defer c.reportClosedLocked() // even after a panic
	if c.dialer.Ended != nil {
		c.dialer.Ended()
	}
	started := c.pongs.stopLocked()
	switch {
	case c.ws != nil:
		c.flushLocked()
		endWebSocket(c.ws)
		if !started {
			c.ws.stream.Start(nil) // to read the server's end of the stream
		}
	case errors.Is(err, ErrClosed):
		go c.run(c.poll.postClose) // ends with its requests, or after Dialer.Timeout
	default:
		c.poll.abandon()
	}
	c.poll.changedLocked()
	if c.poll != nil {
		c.poll.cancel()
	}
}

// reportClosedLocked reports the end to the handler, if there is one already.
func (c *Conn) reportClosedLocked() {
	if c.h != nil && c.state.moveLocked(stateReported) {
		// The caller may hold locks of the handler. The goroutine ends when Closed returns.
		go c.run(c.reportClosed)
	}
}

func (c *Conn) reportClosed() {
	c.input.Lock()
	defer c.input.Unlock()
	defer c.h.Closed(c.err) // even if Flush panics
	c.flushInput()
}

// incomplete accounts for bytes of what has arrived in part.
func (c *Conn) incomplete(bytes int) bool {
	if bytes == 0 {
		return true
	}
	if h, ok := c.handler().(MemoryHandler); ok { // the Conn may end before Start
		return h.Incomplete(bytes)
	}
	return reserve(c.dialer.Incomplete, bytes)
}

// packet handles one packet from the server; input is held. It returns false if no more should
// follow.
func (c *Conn) packet(p Packet) bool {
	switch p.Type {
	case Message:
		if c.state.ended() {
			return false
		}
		c.h.Message(p.Data, p.Binary)
	case Ping:
		c.onPing()
	case Pong:
		c.onPong()
	case Close:
		c.end(ErrServerClosed)
		return false
	case Open, Upgrade, Noop:
	}
	return true
}

// deliverText handles one text frame or packet from the server; input is held.
func (c *Conn) deliverText(payload []byte) error {
	// It may be base64: a server that saw "b64" in the query sends binary messages like that.
	p, err := c.protocol.decodeText(payload)
	if err != nil {
		return err
	}
	if !c.packet(p) {
		return errStop
	}
	return nil
}

// flushInput ends a batch of messages; input is held.
func (c *Conn) flushInput() {
	if c.unflushed {
		c.unflushed = false
		c.h.Flush()
	}
}

func (c *Conn) panicked(v any) {
	if h := c.handler(); h != nil {
		h.Panicked(v)
	}
}

// handler returns nil before Start.
func (c *Conn) handler() ConnHandler {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.h
}

// afterFunc calls fn after d in its own goroutine, with mu held.
func (c *Conn) afterFunc(d time.Duration, fn func(*Conn)) *time.Timer {
	return time.AfterFunc(d, func() {
		defer recoverPanic(c)
		c.mu.Lock()
		defer c.mu.Unlock()
		fn(c)
	})
}

// AfterFunc calls fn after d in its own goroutine, without a lock. A panic in fn is one of the
// handler's.
func (c *Conn) AfterFunc(d time.Duration, fn func()) *time.Timer {
	return time.AfterFunc(d, func() { c.run(fn) })
}

// run is the entry point of the Conn's goroutines.
func (c *Conn) run(fn func()) {
	defer recoverPanic(c)
	fn()
}

// withoutLock releases mu, which the caller holds, while fn runs.
func (c *Conn) withoutLock(fn func()) {
	c.mu.Unlock()
	defer c.mu.Lock()
	fn()
}
