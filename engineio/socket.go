package engineio

import (
	"net"
	"sync"
	"time"
)

// Reason says why a Socket or a Conn ended.
type Reason uint8

// Reasons, as engine.io names them where it has a name.
const (
	TransportClose Reason = iota + 1 // the peer ended its transport in order
	TransportError                   // the network failed, or a poll was cancelled
	PingTimeout                      // no answer to a ping in time
	ClientClose                      // the peer sent an Engine.IO CLOSE packet
	GoingAway                        // WebSocket close 1001: a page was left
	ParseError                       // the peer broke the protocol
	ForcedClose                      // this side closed it
)

var reasonNames = [...]string{
	"unknown", "transport close", "transport error", "ping timeout", "client close", "going away", "parse error",
	"forced close",
}

func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return reasonNames[0]
}

// FillResult is what a Handler says about the batch it filled.
type FillResult struct {
	// Confirm asks for a ping behind the batch, ahead of the interval, so that its
	// arrival is known soon. Heeded over WebSocket, with one ping in flight at most.
	Confirm bool
}

// Handler is what a Socket carries messages for. Its methods must not wait for the client.
type Handler interface {
	// Message gets a message from the client, in order, never concurrently. data may be changed, and
	// is valid, during the call only.
	Message(data []byte, binary bool)
	// Flush follows the Messages of one batch.
	Flush()
	// Fill adds what is to be sent, as long as e.Len() is below maxBytes.
	Fill(e *Encoder, maxBytes int) FillResult
	// Pending reports whether Fill would add anything.
	Pending() bool
	// Mark names all that has been filled so far; marks grow.
	Mark() uint64
	// ConfirmPing says that a ping was sent because Fill asked for it.
	ConfirmPing()
	// Confirm says that all up to the mark has arrived at the client.
	Confirm(mark uint64)
	// Upgraded says that the client moved to WebSocket.
	Upgraded()
	// Closed is the last call, once.
	Closed(reason Reason)
}

// Options are a Socket's settings.
type Options struct {
	PingInterval   time.Duration
	PingTimeout    time.Duration
	MaxPayload     int64 // bytes of a message or POST body
	UpgradeTimeout time.Duration
	// Upgrades says whether the client may upgrade to WebSocket.
	Upgrades bool
}

const (
	// batchBytes bounds what is taken from the Handler for one write.
	batchBytes = 64 << 10
	// closeTimeout is how long a closed Socket waits for a poll to tell its client, as engine.io's.
	closeTimeout = 30 * time.Second
	// lingerTimeout bounds the closing handshake of a WebSocket.
	lingerTimeout = 5 * time.Second
	// noopDelay is how long a poll waits during a probe, as in engine.io.
	noopDelay = 100 * time.Millisecond
	// pollLinger is how long a poll waits for more once there is something to answer it with.
	pollLinger = 10 * time.Millisecond
	// timerSlack is how much later than asked a timer may fire, on both sides.
	timerSlack = 5 * time.Millisecond
)

type socketState uint8

// A Socket's states:
//
//	open    -> closing  Close was called; what the Handler still has is delivered
//	either  -> closed   the transport ended, or the client was told; terminal
const (
	stateOpen socketState = iota
	stateClosing
	stateClosed
)

// Socket is the server's side of one client's Engine.IO connection.
// It implements Engine.IO protocol v4. It is safe for concurrent use.
type Socket struct {
	// Immutable.
	sid  string
	opts Options
	h    Handler

	input sync.Mutex // serialises calls to Handler.Message and Handler.Flush

	mu       sync.Mutex // guards the fields below
	state    socketState
	reason   Reason
	notified bool // Handler.Closed was called

	ws      *wsTransport // nil while the transport is polling
	blocked bool         // the WebSocket's kernel buffer is full
	probe   *wsTransport // a WebSocket that may become the transport
	polling pollingState

	paused  bool          // the Handler takes no more for now
	resumed chan struct{} // closed by Resume; nil unless a POST waits

	// Heartbeat. The timer fires at nextPing or later; it is not moved for pings ahead of the interval.
	timer        *time.Timer
	timerAt      time.Time // when the timer fires
	nextPing     time.Time
	pingInFlight bool
	pingQueued   bool // in flight, but no poll has taken it yet
	pingSent     time.Time
	pingMark     uint64
	progress     time.Time // the last sign of life: anything received, or taken by the kernel
}

// NewSocket returns an open Socket whose transport is polling. Start starts its heartbeat.
func NewSocket(sid string, opts Options, h Handler) *Socket {
	return &Socket{sid: sid, opts: opts, h: h}
}

// SID is the Engine.IO session id.
func (s *Socket) SID() string { return s.sid }

// Start starts the heartbeat: from now on the client has to answer pings.
func (s *Socket) Start() {
	s.mu.Lock()
	defer s.unlock()
	if s.state == stateClosed {
		return
	}
	now := time.Now()
	s.progress = now
	s.nextPing = now.Add(s.opts.PingInterval)
	s.armLocked(s.opts.PingInterval)
}

// armLocked lets the timer fire after d.
func (s *Socket) armLocked(d time.Duration) {
	s.timerAt = time.Now().Add(d)
	if s.timer == nil {
		s.timer = time.AfterFunc(d, s.onTimer)
	} else {
		s.timer.Reset(d)
	}
}

// StartWebSocket makes a WebSocket the transport, sends the OPEN packet, and starts the heartbeat.
// The Socket owns conn from then on; initial is what was read from it already.
func (s *Socket) StartWebSocket(conn net.Conn, initial []byte, h Handshake) {
	t := newWSTransport(s, conn)
	s.mu.Lock()
	s.ws = t
	e := newEncoder(serverFrames)
	e.packet(Open, h.Encode(), nil, nil)
	t.stream.Write(e.buf)
	e.free()
	s.unlock()
	s.Start()
	t.stream.Start(initial)
}

// Wake says that the Handler has something to fill.
func (s *Socket) Wake() {
	s.mu.Lock()
	s.flushLocked()
	s.unlock()
}

// Input runs fn as if a message had come: not concurrently with Handler.Message, and followed by Handler.Flush.
func (s *Socket) Input(fn func()) {
	s.input.Lock()
	defer s.input.Unlock()
	fn()
	s.h.Flush()
}

// Pause asks for no more messages until Resume: a WebSocket is not read, a POST is not
// answered, and the ping timeout is suspended.
func (s *Socket) Pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused || s.state == stateClosed {
		return
	}
	s.paused = true
	if s.ws != nil {
		s.ws.stream.Pause()
	}
}

// Resume undoes Pause.
func (s *Socket) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resumeLocked()
}

func (s *Socket) resumeLocked() {
	if !s.paused {
		return
	}
	s.paused = false
	s.progress = time.Now()
	if s.ws != nil {
		s.ws.stream.Resume()
	}
	if s.resumed != nil {
		close(s.resumed)
		s.resumed = nil
	}
}

// Close ends the connection in order: what the Handler still fills is sent first. It does not wait.
func (s *Socket) Close() {
	s.mu.Lock()
	defer s.unlock()
	if s.state != stateOpen {
		return
	}
	s.state = stateClosing
	s.reason = ForcedClose
	s.resumeLocked()
	wait := lingerTimeout
	if s.ws == nil {
		wait = closeTimeout
	}
	s.armLocked(wait)
	s.flushLocked()
	if s.polling.waiting != nil {
		s.closeLocked(s.reason) // all is delivered, and the poll tells of the end
	}
}

// Abort ends the connection at once; an open WebSocket still gets its CLOSE frame.
func (s *Socket) Abort() {
	s.mu.Lock()
	defer s.unlock()
	s.closeLocked(ForcedClose)
}

// flushLocked moves what the Handler has to the transport, as far as that takes it.
func (s *Socket) flushLocked() {
	if s.state == stateClosed {
		return
	}
	if s.ws == nil {
		s.flushPollLocked()
		return
	}
	for !s.blocked && s.state != stateClosed {
		e := newEncoder(serverFrames)
		r := s.h.Fill(e, batchBytes)
		early := r.Confirm && !s.pingInFlight && s.state == stateOpen
		if e.packets == 0 && !early {
			e.free()
			if s.state == stateClosing {
				s.closeLocked(s.reason)
			}
			return
		}
		if early {
			s.pingLocked(e, time.Now())
			s.h.ConfirmPing()
		}
		s.blocked = s.ws.stream.Write(e.buf) > 0
		e.free()
	}
}

// pingLocked adds a ping to a batch and remembers what it will confirm.
func (s *Socket) pingLocked(e *Encoder, now time.Time) {
	if !s.pingInFlight {
		s.pingInFlight = true
		s.pingSent = now
	}
	s.pingQueued = false
	s.pingMark = s.h.Mark()
	e.packet(Ping, nil, nil, nil)
}

func (s *Socket) pongLocked() {
	if !s.pingInFlight || s.pingQueued {
		return
	}
	s.pingInFlight = false
	s.nextPing = time.Now().Add(s.opts.PingInterval)
	if s.timerAt.After(s.nextPing) {
		s.armLocked(s.opts.PingInterval)
	}
	s.h.Confirm(s.pingMark)
	s.flushLocked()
}

func (s *Socket) onTimer() {
	s.mu.Lock()
	defer s.unlock()
	now := time.Now()
	switch {
	case s.state == stateClosed:
	case s.state == stateClosing:
		s.closeLocked(s.reason)
	case s.pingInFlight:
		last := s.pingSent
		if s.progress.After(last) {
			last = s.progress
		}
		if s.paused {
			last = now
		}
		if left := s.opts.PingTimeout - now.Sub(last); left > 0 {
			s.armLocked(left)
		} else {
			s.closeLocked(PingTimeout)
		}
	case now.Before(s.nextPing):
		s.armLocked(s.nextPing.Sub(now))
	default:
		s.pingInFlight, s.pingQueued = true, true
		s.pingSent = now
		s.armLocked(s.opts.PingTimeout)
		if s.ws == nil {
			s.flushPollLocked()
			return
		}
		e := newEncoder(serverFrames)
		s.pingLocked(e, now)
		if s.ws.stream.Write(e.buf) > 0 {
			s.blocked = true
		}
		e.free()
	}
}

// closeLocked ends the Socket; unlock then calls Handler.Closed.
func (s *Socket) closeLocked(reason Reason) {
	if s.state == stateClosed {
		return
	}
	s.state = stateClosed
	s.reason = reason
	s.resumeLocked()
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.probe != nil {
		s.probe.end(0)
		s.probe = nil
	}
	if s.ws != nil {
		s.ws.end(0)
	}
	s.closePollLocked(reason)
}

// unlock unlocks mu, and tells the Handler of the end if that has just come.
func (s *Socket) unlock() {
	if s.state != stateClosed || s.notified {
		s.mu.Unlock()
		return
	}
	s.notified = true
	reason := s.reason
	s.mu.Unlock()
	s.h.Closed(reason)
}

// packet handles one packet from the client; input is held. It reports whether the Socket is still open for more.
func (s *Socket) packet(p Packet) bool {
	if p.Type == Message {
		s.mu.Lock()
		open := s.state == stateOpen
		s.mu.Unlock()
		if open {
			s.h.Message(p.Data, p.Binary)
		}
		return open
	}
	s.mu.Lock()
	defer s.unlock()
	switch p.Type {
	case Pong:
		s.pongLocked()
	case Close:
		s.closeLocked(ClientClose)
	case Ping: // only servers ping in v4
		s.closeLocked(ParseError)
	case Open, Upgrade, Noop, Message: // ignored, as engine.io does
	}
	return s.state == stateOpen
}
