package engineio

import (
	"context"
	"io"
	"net"
	"sync"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/instant"
)

const (
	// batchBytes limits what one Fill adds for one write.
	batchBytes = 64 << 10
	// closeTimeout is how long a closed Socket waits for a poll that it can answer with CLOSE, as
	// in the reference server.
	closeTimeout = 30 * time.Second
	// lingerTimeout limits the closing handshake of a WebSocket.
	lingerTimeout = 5 * time.Second
)

// Socket is the server side of one client's Engine.IO connection. It implements Engine.IO protocol
// v4, and v3 (socket3.go), and is safe for concurrent use.
//
// Field order matters: what each message needs comes first, in as few cache lines as possible. With
// many clients, a Socket is not in the processor's cache when its next message arrives.
type Socket struct {
	h Handler // immutable

	input  sync.Mutex // serializes Handler.Message and Handler.Flush; guards ending
	mu     sync.Mutex // guards all fields below except ending, up to the immutable ones
	state  life
	ending Reason // how the client ended the connection, from the next Flush on; 0 if it did not

	reason     Reason
	output     outputState
	closeStyle closeStyle
	readPaused bool // Pause was called
	byPong     bool // Fill has returned ByPong
	ask        askState

	ws   *wsTransport // nil while the transport is polling
	ping pinger

	poll    *pollTransport // nil before the first request by polling, and after the upgrade
	probe   *wsTransport   // a WebSocket that may become the transport
	watched uint64         // the greatest number of an Encoder.Watch that has arrived

	// Immutable.
	sid  string
	opts Options
}

// NewSocket returns an open Socket whose transport is polling. Start starts its heartbeat.
func NewSocket(sid string, opts Options, h Handler) *Socket {
	return &Socket{sid: sid, opts: opts, h: h}
}

// onlyPongsConfirm reports whether polls confirm nothing. s.mu is held.
func (s *Socket) onlyPongsConfirm() bool {
	return (s.opts.ConfirmByPong || s.byPong) && s.opts.Protocol == V4
}

// NumbersPings reports whether Encoder.Ping works. Clients of version 3 answer no pings in a batch.
func (s *Socket) NumbersPings() bool { return s.opts.Protocol == V4 }

// SID returns the Engine.IO session id.
func (s *Socket) SID() string { return s.sid }

// Options returns the Socket's settings.
func (s *Socket) Options() Options { return s.opts }

// StartWebSocket makes a WebSocket the transport, sends the OPEN packet and starts the heartbeat.
// The Socket owns conn from then on. initial holds bytes already read from conn. answer is the HTTP
// response that accepts the WebSocket; it is sent first.
func (s *Socket) StartWebSocket(conn net.Conn, initial, answer []byte, h Handshake) {
	t := newWSTransport(s, conn)
	s.openWebSocket(t, answer, h)
	t.stream.Start(initial)
}

func (s *Socket) openWebSocket(t *wsTransport, answer []byte, h Handshake) {
	s.mu.Lock()
	defer s.unlock()
	s.ws = t
	t.role.move(roleTransport)
	e := newEncoder(serverFrames)
	e.buf = append(e.buf, answer...)
	e.packet(Open, h.Encode(), nil, nil)
	t.write(e)
	switch s.state.get() {
	case stateOpen:
		s.startHeartbeatLocked()
		s.askAgainLocked()
	case stateClosing: // Close came first
		s.flushLocked()
	case stateClosed, stateReported: // Abort came first
		s.closeWebSocketLocked()
	}
}

// OpenAnswer answers a handshake made by polling.
func (s *Socket) OpenAnswer(h Handshake) Answer {
	e := newEncoder(s.opts.pollFormat())
	defer e.free()
	e.packet(Open, h.Encode(), nil, nil)
	return s.opts.packetsAnswer(append([]byte(nil), e.buf...))
}

// Poll waits for packets and returns the answer to a poll. id is the request's "t" parameter: a
// poll with the same id as the previous one is a retry. If ctx ends first, the client canceled the
// poll. The Socket closes then, as in the reference server, and ok is false, because no client
// waits for an answer.
func (s *Socket) Poll(ctx context.Context, id string) (a Answer, ok bool) {
	return s.polling().handle(ctx, id)
}

// Post handles the packets in the body of a POST. It returns when they have been handled and
// reading is not paused. id is the request's "t" parameter. If ok is false, the request's
// connection should be closed without an answer.
func (s *Socket) Post(ctx context.Context, id, contentType string, length int64, body io.Reader) (a Answer, ok bool) {
	return s.polling().handlePost(ctx, id, contentType, length, body)
}

// Wake tells the Socket that the Handler has something to fill.
func (s *Socket) Wake() {
	defer recoverPanic(s)
	s.mu.Lock()
	defer s.unlock()
	s.flushLocked()
}

// Input runs fn like a message from the client: never concurrently with Handler.Message, and
// followed by Handler.Flush.
func (s *Socket) Input(fn func()) {
	defer recoverPanic(s)
	s.input.Lock()
	defer s.input.Unlock()
	fn()
	s.h.Flush()
}

// Pause stops reading until Resume: a WebSocket is not read, a POST is not answered, and the ping
// timeout is suspended.
func (s *Socket) Pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readPaused || s.state.ended() {
		return
	}
	s.readPaused = true
	if s.ws != nil {
		s.ws.stream.Pause()
	}
	if s.ping.inFlight() && s.state.get() == stateOpen {
		// The wait no longer times out, but an extra ping may be due sooner.
		s.awaitPongLocked(instant.Now())
	}
}

// Resume undoes Pause.
func (s *Socket) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resumeLocked()
}

func (s *Socket) resumeLocked() {
	if !s.readPaused {
		return
	}
	s.readPaused = false
	s.ping.lastSign = instant.Now()
	if s.ws != nil {
		s.ws.stream.Resume()
	}
	s.poll.resumedLocked()
}

// ShowBroken makes the end of the connection look as if the server had died. The stream ends
// without a Close frame, and a poll is answered like one for an unknown sid. Every client
// reconnects then. After a Close frame without a code, or a CLOSE packet in a poll's answer, some
// do not. Call it before Close or Abort.
func (s *Socket) ShowBroken() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeStyle.moveLocked(closeBroken)
}

// ShowTooBig makes the end of a WebSocket say that the client's message was too big. Call it before
// Close or Abort.
func (s *Socket) ShowTooBig() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeStyle.moveLocked(closeTooBig)
}

// Close ends the connection in an orderly way: what the Handler still fills is sent first. It does
// not wait.
func (s *Socket) Close() {
	defer recoverPanic(s)
	s.mu.Lock()
	defer s.unlock()
	if !s.state.moveLocked(stateClosing) {
		return
	}
	s.reason = ForcedClose
	s.resumeLocked()
	s.ping.checkAt = 0
	wait := lingerTimeout
	if s.ws == nil {
		wait = closeTimeout
	}
	s.armLocked(wait)
	s.flushLocked()
	if s.poll.waitsLocked() {
		s.closeLocked(s.reason) // everything is delivered, and the poll can report the end
	}
}

// Abort ends the connection immediately. An open WebSocket still gets a Close frame, unless
// ShowBroken was called.
func (s *Socket) Abort() {
	defer recoverPanic(s)
	s.mu.Lock()
	defer s.unlock()
	s.closeLocked(ForcedClose)
}

// Probing reports whether a WebSocket is open to which the client may upgrade.
func (s *Socket) Probing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.probe != nil
}

// Reached returns the greatest number of an Encoder.Watch that is known to have reached the client.
func (s *Socket) Reached() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watched
}

// flushLocked moves messages from the Handler to the transport, as far as it takes them.
func (s *Socket) flushLocked() {
	if s.state.ended() {
		return
	}
	if s.ws == nil {
		s.poll.flushLocked()
		return
	}
	for s.output == outputWritable && !s.state.ended() {
		e := newEncoderFor(serverFrames, s.ws.protocol)
		e.pings = s.ping.sent
		r := s.h.Fill(e, batchBytes)
		confirm := !s.notePingsLocked(e) && r.Confirm && !s.ping.inFlight()
		if e.Len() == 0 && !confirm { // a batch may consist of an Encoder.Watch only
			e.free()
			// While a ping is in flight, the Handler may hold messages back until it hears of the
			// pong.
			if s.state.get() == stateClosing && !s.ping.inFlight() {
				s.closeLocked(s.reason)
			}
			return
		}
		if confirm {
			s.addPingLocked(e, instant.Now())
			s.h.ConfirmPing()
		}
		if r.ConfirmLater {
			s.confirmLaterLocked()
		}
		s.sendLocked(e)
		if !r.More && s.state.get() == stateOpen {
			return
		}
	}
}

// sendLocked sends what e holds over the WebSocket, and frees e.
func (s *Socket) sendLocked(e *Encoder) {
	if s.ws.write(e) > 0 {
		s.output.moveLocked(outputBlocked)
	}
}

// closeLocked ends the Socket; unlock then calls Handler.Closed.
func (s *Socket) closeLocked(reason Reason) {
	if !s.state.moveLocked(stateClosed) {
		return
	}
	s.reason = reason
	s.resumeLocked()
	if s.ping.timer != nil {
		s.ping.timer.Stop()
	}
	if s.probe != nil {
		s.probe.close(0)
		s.detachProbeLocked()
	}
	if s.ws != nil {
		s.closeWebSocketLocked()
	}
	s.poll.closeLocked(reason)
}

func (s *Socket) closeWebSocketLocked() {
	switch s.closeStyle {
	case closeOrderly:
		s.ws.close(0)
	case closeTooBig:
		s.ws.close(ws.StatusMessageTooBig)
	case closeBroken:
		s.ws.shutdown()
	}
}

// unlock unlocks mu, and calls Handler.Closed if the Socket has just ended.
func (s *Socket) unlock() {
	if s.state.get() != stateClosed {
		s.mu.Unlock()
		return
	}
	s.state.moveLocked(stateReported)
	reason := s.reason
	s.mu.Unlock()
	s.h.Closed(reason)
}

// packet handles one packet from the client; input is held. It returns false if no more should
// follow.
func (s *Socket) packet(p Packet) bool {
	switch p.Type {
	case Message:
		state := s.state.get()
		if state == stateOpen {
			s.h.Message(p.Data, p.Binary)
		}
		return state < stateClosed
	case Pong:
		return s.opts.Protocol == V3 || s.pong()
	case Close:
		s.ending = ClientClose
		return false
	case Ping: // only servers ping in v4
		if s.opts.Protocol == V3 {
			return s.clientPing()
		}
		s.ending = ParseError
		return false
	case Open, Upgrade, Noop: // ignored, as in the reference server
	}
	return true
}

// endBatch flushes a batch of packets, and closes the Socket if the client ended the connection or
// err is not nil; input is held.
func (s *Socket) endBatch(err error) {
	s.h.Flush()
	if err != nil && s.ending == 0 {
		s.ending = ParseError
	}
	if s.ending != 0 {
		s.closeFor(s.ending)
	}
}

func (s *Socket) closeFor(reason Reason) {
	s.mu.Lock()
	defer s.unlock()
	s.closeLocked(reason)
}

// afterFunc calls fn after d in its own goroutine, with mu held.
func (s *Socket) afterFunc(d time.Duration, fn func(*Socket)) *time.Timer {
	return time.AfterFunc(d, func() {
		defer recoverPanic(s)
		s.mu.Lock()
		defer s.unlock()
		fn(s)
	})
}

// AfterFunc calls fn after d in its own goroutine, without a lock. A panic in fn is one of the
// Handler's.
func (s *Socket) AfterFunc(d time.Duration, fn func()) *time.Timer {
	return time.AfterFunc(d, func() { s.run(fn) })
}

// Go calls fn in its own goroutine. A panic in fn is one of the Handler's.
func (s *Socket) Go(fn func()) { go s.run(fn) }

func (s *Socket) run(fn func()) {
	defer recoverPanic(s)
	fn()
}

func (s *Socket) panicked(v any) { s.h.Panicked(v) }

// polling returns the Socket's pollTransport, and makes one at the first request.
func (s *Socket) polling() *pollTransport {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ws != nil { // the request comes after the upgrade, and is refused
		return &pollTransport{socket: s}
	}
	return s.pollingLocked()
}

func (s *Socket) pollingLocked() *pollTransport {
	if s.poll == nil {
		s.poll = &pollTransport{socket: s}
	}
	return s.poll
}
