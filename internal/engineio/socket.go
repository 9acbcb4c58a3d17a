package engineio

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"
)

// Reason says why a Socket or a Conn ended.
type Reason uint8

// Reasons, as engine.io names them where it has a name.
const (
	TransportClose Reason = iota + 1 // the stream ended
	TransportError                   // the network failed
	PingTimeout                      // no answer to a ping in time
	ClientClose                      // the peer sent an Engine.IO CLOSE packet
	GoingAway                        // WebSocket close 1001: a page was left
	ParseError                       // the peer broke the protocol
	ForcedClose                      // this side closed it
	PollError                        // a polling request was cancelled, or overlapped another
	CloseFrame                       // the peer sent a WebSocket Close frame, with another code than 1001
)

var reasonNames = [...]string{
	"unknown", "transport close", "transport error", "ping timeout", "client close", "going away", "parse error",
	"forced close", "poll error",
	"transport close",
}

func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return reasonNames[0]
}

// FillResult is what a Handler says about the batch it filled.
type FillResult struct {
	// More says that Fill would add more to another batch.
	More bool
	// Confirm asks for a ping behind the batch, ahead of the interval, so that its
	// arrival is known soon. Heeded over WebSocket, and with Options.ConfirmByPong by polling, with one ping in flight at most.
	Confirm bool
	// ConfirmLater asks for such a ping only if the client does not confirm by itself: see Handler.Unconfirmed.
	ConfirmLater bool
}

// Handler is what a Socket carries messages for. Its methods must not wait, neither for the client nor for
// others. Message, Flush and Closed may call the Socket; the others are called with its lock held.
type Handler interface {
	// Message gets a message from the client, in order, never concurrently. data may be changed, and
	// is valid, during the call only.
	Message(data []byte, binary bool)
	// Flush follows the Messages of one batch, never concurrently with them.
	Flush()
	// Fill adds what is to be sent, as long as e.Len() is below maxBytes.
	Fill(e *Encoder, maxBytes int) FillResult
	// Pending reports whether Fill would add anything; with Options.ConfirmByPong, or ask for a ping.
	Pending() bool
	// Mark names all that has been filled so far; marks grow.
	Mark() uint64
	// ConfirmPing says that a ping was sent because Fill asked for it.
	ConfirmPing()
	// Unconfirmed is called every confirmDelay after Fill asked to confirm later. pending reports whether anything of that kind
	// is still unconfirmed, and overdue whether it was already at the last call.
	Unconfirmed() (pending, overdue bool)
	// Confirm says that all up to the mark has arrived at the client.
	Confirm(mark uint64)
	// Upgraded says that the client moved to WebSocket.
	Upgraded()
	// Closed comes once. If the client ended the connection, it follows the Flush of all that the client sent; if
	// this side did, or a timeout, a Message under way may outlast it, and the Flush of a batch still comes.
	Closed(reason Reason)
	// Panicked says that a method of the Handler's panicked, or the Socket itself, and with what. It is called from where
	// that happened, with the Socket's locks free unless a method that is called with one panicked. The Handler is to
	// Abort the Socket, from a goroutine of its own.
	Panicked(v any)
}

// Options are a Socket's settings.
type Options struct {
	PingInterval time.Duration
	PingTimeout  time.Duration
	MaxPayload   int64 // bytes of a message or POST body
	// TooLarge is told of a message or POST body over MaxPayload, which closes the client or is refused. It may be nil, must not
	// wait, and may be called with the Socket's locks held.
	TooLarge       func()
	UpgradeTimeout time.Duration
	// HandshakeID is the "t" parameter of the handshake. A request that bears the same has one that the
	// application made up, and tells nothing of retries.
	HandshakeID string
	// Upgrades says whether the client may upgrade to WebSocket.
	Upgrades bool
	// ConfirmByPong has nothing but the answer to a ping confirm what was sent. A poll, or the change to WebSocket, comes over
	// another connection than the POSTs, and may overtake what the client said before.
	ConfirmByPong bool
	// Incomplete is told how many bytes more, or less, are kept of a message or POST body that has not all come. Where it returns
	// false, for more only, the client is closed. Nil counts nothing. It may be called with the Socket's locks held.
	Incomplete func(bytes int) bool
}

// smallBytes is what a message may have without being counted by Options.Incomplete.
const smallBytes = 16 << 10

// takeIncomplete calls an Incomplete function, if there is one and it has something to count.
func takeIncomplete(take func(bytes int) bool, bytes int) bool {
	return bytes == 0 || take == nil || take(bytes)
}

func (o *Options) tooLarge() {
	if o.TooLarge != nil {
		o.TooLarge()
	}
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
	// confirmDelay is how long the client has, and at most twice as long, to confirm by itself what FillResult.ConfirmLater is for.
	confirmDelay = 250 * time.Millisecond
	// pollLinger is how long a poll waits for more once there is something to answer it with.
	pollLinger = 10 * time.Millisecond
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

// atomicState is a socketState that is read, for each message, without a lock.
type atomicState struct{ v atomic.Uint32 }

func (a *atomicState) get() socketState  { return socketState(a.v.Load()) }
func (a *atomicState) set(s socketState) { a.v.Store(uint32(s)) }

// Socket is the server's side of one client's Engine.IO connection.
// It implements Engine.IO protocol v4. It is safe for concurrent use.
//
// What each message needs stands first in it, in as few lines of the processor's cache as may be: with many clients it is not
// in the cache when a message comes.
type Socket struct {
	h Handler // immutable

	input  sync.Mutex  // serialises calls to Handler.Message and Handler.Flush, and guards ending
	mu     sync.Mutex  // guards the fields below, but for ending, up to those that are immutable
	state  atomicState // set with mu held
	ending Reason      // what the client said to end the connection, which is done after Flush; or 0

	reason       Reason
	notified     bool // Handler.Closed was called
	broken       bool // ShowBroken was called
	blocked      bool // the WebSocket's kernel buffer is full
	paused       bool // the Handler takes no more for now
	pingInFlight bool
	pingQueued   bool // in flight, but no poll has taken it yet
	furtherQueue bool // a further ping is to go with the next answer to a poll
	furtherWaits bool // a further ping is all that waits for the client's kernel: that it takes it is no sign of life

	ws       *wsTransport // nil while the transport is polling
	progress time.Time    // the last sign of life: anything received, or all that waited taken by the kernel
	heard    time.Time    // when anything came last, but polls
	pingMark uint64

	probe   *wsTransport // a WebSocket that may become the transport
	polling pollingState
	code    ws.StatusCode // for the CLOSE frame; 0 is none
	resumed chan struct{} // closed by Resume; nil unless a POST waits

	// Heartbeat. The timer fires at nextPing or later; it is not moved for pings ahead of the interval.
	timer    *time.Timer
	timerAt  time.Time // when the timer fires
	checkAt  time.Time // when to ask Handler.Unconfirmed; zero if nothing is to be confirmed later
	nextPing time.Time
	pingSent time.Time
	lastPing time.Time // of any kind
	// A client whose pong is not read while the Socket is paused, or comes behind much else that it sends, gets further
	// pings, for its own heartbeat. Their pongs are left unheeded.
	further  int // sent after the one in flight
	unheeded int // pongs that come before the next that counts
	// Bytes of the WebSocket's: those in front of the ping, and those that the client's kernel has taken.
	pingBehind, delivered int64

	watched uint64 // the greatest number of a WebSocket pong

	// Immutable.
	sid  string
	opts Options
}

// NewSocket returns an open Socket whose transport is polling. Start starts its heartbeat.
func NewSocket(sid string, opts Options, h Handler) *Socket {
	return &Socket{sid: sid, opts: opts, h: h}
}

// SID is the Engine.IO session id.
func (s *Socket) SID() string { return s.sid }

// StartWebSocket makes a WebSocket the transport, sends the OPEN packet, and starts the heartbeat.
// The Socket owns conn from then on; initial is what was read from it already, and answer, which is to be sent ahead
// of all, what accepts the WebSocket.
func (s *Socket) StartWebSocket(conn net.Conn, initial, answer []byte, h Handshake) {
	t := newWSTransport(s, conn)
	s.openWebSocket(t, answer, h)
	t.stream.Start(initial)
}

func (s *Socket) openWebSocket(t *wsTransport, answer []byte, h Handshake) {
	s.mu.Lock()
	defer s.unlock()
	s.ws, t.current = t, true
	e := newEncoder(serverFrames)
	e.buf = append(e.buf, answer...)
	e.packet(Open, h.Encode(), nil, nil)
	t.write(e)
	switch s.state.get() {
	case stateOpen:
		s.startHeartbeatLocked()
	case stateClosing: // Close came first
		s.flushLocked()
	case stateClosed: // Abort did
		s.endWebSocketLocked()
	}
}

// Wake says that the Handler has something to fill.
func (s *Socket) Wake() {
	defer s.contain()
	s.mu.Lock()
	defer s.unlock()
	s.flushLocked()
}

// Input runs fn as if a message had come: not concurrently with Handler.Message, and followed by Handler.Flush.
func (s *Socket) Input(fn func()) {
	defer s.contain()
	s.input.Lock()
	defer s.input.Unlock()
	fn()
	s.h.Flush()
}

// Pause asks for no more messages until Resume: a WebSocket is not read, a POST is not
// answered, and the ping timeout is suspended.
func (s *Socket) Pause() {
	defer s.contain()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused || s.state.get() == stateClosed {
		return
	}
	s.paused = true
	if s.ws != nil {
		s.ws.stream.Pause()
	}
	if s.pingInFlight && s.state.get() == stateOpen {
		s.awaitPongLocked(time.Now()) // which ends it no more: another ping may be due sooner
	}
}

// Resume undoes Pause.
func (s *Socket) Resume() {
	defer s.contain()
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

// ShowBroken makes the end of the connection look like that of a server that died: the stream ends without a Close frame, and
// a poll gets the answer for an unknown sid. Every client reconnects then. After a Close frame without a code, or a CLOSE
// packet in the answer to a poll, some stay away. It is called ahead of Close or Abort.
func (s *Socket) ShowBroken() {
	defer s.contain()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = true
}

// Close ends the connection in order: what the Handler still fills is sent first. It does not wait.
func (s *Socket) Close() {
	defer s.contain()
	s.mu.Lock()
	defer s.unlock()
	if s.state.get() != stateOpen {
		return
	}
	s.state.set(stateClosing)
	s.reason = ForcedClose
	s.resumeLocked()
	s.checkAt = time.Time{}
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

// ShowTooBig makes the end of a WebSocket say that the client's message was too big. It is called ahead of Close or Abort.
func (s *Socket) ShowTooBig() {
	defer s.contain()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.code = ws.StatusMessageTooBig
}

// Abort ends the connection at once; an open WebSocket still gets its CLOSE frame, unless ShowBroken was called.
func (s *Socket) Abort() {
	defer s.contain()
	s.mu.Lock()
	defer s.unlock()
	s.closeLocked(ForcedClose)
}

// Probing reports whether the client is about to change to WebSocket.
func (s *Socket) Probing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.probe != nil
}

// Reached is the greatest number of an Encoder.Watch that the client has answered.
func (s *Socket) Reached() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watched
}

// flushLocked moves what the Handler has to the transport, as far as that takes it.
func (s *Socket) flushLocked() {
	if s.state.get() == stateClosed {
		return
	}
	if s.ws == nil {
		s.flushPollLocked()
		return
	}
	for !s.blocked && s.state.get() != stateClosed {
		e := newEncoder(serverFrames)
		r := s.h.Fill(e, batchBytes)
		early := r.Confirm && !s.pingInFlight
		if e.Len() == 0 && !early { // a batch may consist of an Encoder.Watch alone
			e.free()
			// While a ping is in flight the Handler may hold back more until it hears of the pong.
			if s.state.get() == stateClosing && !s.pingInFlight {
				s.closeLocked(s.reason)
			}
			return
		}
		if early {
			s.pingLocked(e, time.Now())
			s.h.ConfirmPing()
		}
		if r.ConfirmLater {
			s.confirmLaterLocked()
		}
		s.blocked = s.ws.write(e) > 0
		if !r.More && s.state.get() == stateOpen {
			return
		}
	}
}

// closeLocked ends the Socket; unlock then calls Handler.Closed.
func (s *Socket) closeLocked(reason Reason) {
	if s.state.get() == stateClosed {
		return
	}
	s.state.set(stateClosed)
	s.reason = reason
	s.resumeLocked()
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.probe != nil {
		s.probe.end(0)
		s.dropProbeLocked()
	}
	if s.ws != nil {
		s.endWebSocketLocked()
	}
	s.closePollLocked(reason)
}

func (s *Socket) endWebSocketLocked() {
	if s.broken {
		s.ws.shutdown()
	} else {
		s.ws.end(s.code)
	}
}

// unlock unlocks mu, and tells the Handler of the end if that has just come.
func (s *Socket) unlock() {
	if s.state.get() != stateClosed || s.notified {
		s.mu.Unlock()
		return
	}
	s.notified = true
	reason := s.reason
	s.mu.Unlock()
	s.h.Closed(reason)
}

// packet handles one packet from the client; input is held. It reports whether more are wanted.
func (s *Socket) packet(p Packet) bool {
	switch p.Type {
	case Message:
		state := s.state.get()
		if state == stateOpen {
			s.h.Message(p.Data, p.Binary)
		}
		return state != stateClosed
	case Pong:
		return s.pong()
	case Close:
		s.ending = ClientClose
		return false
	case Ping: // only servers ping in v4
		s.ending = ParseError
		return false
	case Open, Upgrade, Noop: // ignored, as engine.io does
	}
	return true
}

// endInput ends a batch of packets, and the connection if the client or err say so; input is held.
func (s *Socket) endInput(err error) {
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
