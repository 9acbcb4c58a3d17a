package engineio

import (
	"net"
	"time"

	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/internal/netpoll"
)

// A client's connection can move from one Socket to another, in another process. Detach takes the
// transport off the first, and StartMoved continues it on the second. From then on the first
// process only relays the bytes of the client's WebSockets, and the requests with its sid.
// Heartbeat, confirmation and flow control therefore stay between the client and the one Socket
// that it has.

// Transfer is what the second Socket has to know about the transport.
type Transfer struct {
	WebSocket bool `json:"websocket"`
	// Pongs is how many pings the client has not answered yet. Their pongs mean nothing to the
	// second Socket.
	Pongs int `json:"pongs,omitempty"`
	// Input holds bytes of an incomplete WebSocket message that have arrived.
	Input []byte `json:"input,omitempty"`
	// Post is the id of the POST in progress, which the client may repeat.
	Post string `json:"post,omitempty"`
	// Requests identifies the polling requests so far, which may come again.
	Requests []uint64 `json:"requests,omitempty"`
}

// Probe is a WebSocket to which a polling client may still upgrade.
type Probe struct {
	Stream   netpoll.Stream
	Answered bool   // the client's probe was answered
	Input    []byte // bytes of an incomplete WebSocket message that have arrived
}

// Detached is what Detach takes off a Socket.
type Detached struct {
	Transfer

	Stream netpoll.Stream // the client's WebSocket, which may be paused; nil while it polls
	Probe  *Probe         // nil if there is none
}

// Detach takes the transport off an open Socket, which has ended then; Handler.Closed is not
// called. Waiting requests are answered, so that the client makes new ones. What the WebSockets
// receive goes to the handlers that sink returns for them. Call it in a function passed to Input.
// ok is false if the Socket is not open.
func (s *Socket) Detach(sink func(stream netpoll.Stream) netpoll.Handler) (d Detached, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.get() != stateOpen || s.ending != 0 {
		return Detached{}, false
	}
	s.state.moveLocked(stateClosed)
	s.state.moveLocked(stateReported)
	if s.ping.timer != nil {
		s.ping.timer.Stop()
	}
	d.Pongs = int(s.ping.sent - s.ping.answered)
	if t := s.ws; t != nil {
		d.WebSocket, d.Stream, d.Input = true, t.stream, t.frames.unparsed()
		t.reserveIncomplete()
		t.moved = sink(t.stream)
	}
	if t := s.probe; t != nil {
		t.timer.Stop()
		d.Probe = &Probe{t.stream, t.role == roleAnswered, t.frames.unparsed()}
		t.reserveIncomplete()
		t.moved = sink(t.stream)
		t.stream.Pause() // the sink may have to wait
		s.probe = nil
	}
	if p := s.poll; p != nil {
		if !d.WebSocket {
			d.Post, d.Requests = p.recent.lastPost.id, p.recent.ids()
		}
		p.detachLocked()
	}
	return d, true
}

// detachLocked answers waiting requests. The WebSocket stays paused.
func (p *pollTransport) detachLocked() {
	p.stopTimersLocked()
	if p.waiting != nil {
		p.answerWaitingLocked(p.socket.opts.payload(Noop))
	}
	p.resumedLocked()
}

// StartMoved continues a client's transport that was detached elsewhere. conn is what relays the
// client's WebSocket; nil while the client polls.
func (s *Socket) StartMoved(m Transfer, conn net.Conn) {
	s.mu.Lock()
	s.ping.sent = uint32(max(m.Pongs, 0)) // they confirm nothing here
	var t *wsTransport
	if conn == nil {
		recent := &s.pollingLocked().recent
		recent.lastPost = postID{id: s.opts.requestID(m.Post)}
		for _, id := range m.Requests[:min(len(m.Requests), maxRequests)] {
			recent.add(id, 0)
		}
	} else {
		t = newWSTransport(s, conn)
		t.role.move(roleTransport)
		s.ws = t
		if s.readPaused { // what came with the client needs another link
			t.stream.Pause()
		}
	}
	ended := s.state.ended()
	switch {
	case !ended:
		s.startHeartbeatLocked()
		if t != nil {
			s.askAgainLocked()
		}
		s.flushLocked()
	case t != nil: // Abort came first
		s.closeWebSocketLocked()
	}
	s.unlock()
	if t != nil {
		t.stream.Start(m.Input)
	}
}

// ServeMovedProbe is ServeProbe for a WebSocket whose handshake another process has answered.
func (s *Socket) ServeMovedProbe(conn net.Conn, answered bool, input []byte) {
	t := newWSTransport(s, conn)
	if answered {
		t.role.move(roleAnswered)
	}
	s.mu.Lock()
	s.beginProbeLocked(t)
	if answered && s.probe == t {
		s.pollingLocked().startNoopsLocked()
	}
	s.unlock()
	t.stream.Start(input)
}

const (
	// leaveQuiet is how long a Socket waits for a POST that was sent before the client had the
	// answer to its poll.
	leaveQuiet = 150 * time.Millisecond
	// leaveSlack is how much longer than the Socket its stream stays.
	leaveSlack = 100 * time.Millisecond
)

// Leave ends a connection that this process will not serve any longer. It does not wait, and takes
// about d at most. The client sees the end of the stream, as when a server dies, and comes back.
// Nothing more is filled. What the client sent before it saw the end is still handled. Over
// WebSocket this lasts until the client ends the stream, over polling until no POST has come for a
// while.
func (s *Socket) Leave(d time.Duration) {
	defer recoverPanic(s)
	s.mu.Lock()
	defer s.unlock()
	if s.state.ended() || s.output == outputLeft {
		return
	}
	s.closeStyle.moveLocked(closeBroken)
	s.output.moveLocked(outputLeft)
	s.resumeLocked()
	// It has no effect if the Socket is closed by then.
	s.afterFunc(d, func(s *Socket) { s.closeLocked(LeaveTimeout) })
	switch {
	case s.ws != nil:
		s.ws.stream.Shutdown(d + leaveSlack)
	case s.probe == nil:
		s.pollingLocked().leaveLocked()
	}
	// A client that is about to upgrade sends on the WebSocket next: upgradeLocked or
	// detachProbeLocked continues.
}

// leaveLocked refuses the waiting poll, and closes the Socket when no POST comes.
func (p *pollTransport) leaveLocked() {
	p.stopTimersLocked()
	p.refuseWaitingLocked(CodeUnknownSID)
	p.afterFunc(leaveQuiet, (*pollTransport).onLeaveQuietLocked)
}

func (p *pollTransport) onLeaveQuietLocked() {
	s := p.socket
	switch quiet := instant.Since(s.ping.lastInput); {
	case s.state.ended() || s.ws != nil:
	case p.posting:
		p.afterFunc(leaveQuiet, (*pollTransport).onLeaveQuietLocked)
	case quiet < leaveQuiet:
		p.afterFunc(leaveQuiet-quiet, (*pollTransport).onLeaveQuietLocked)
	default:
		s.closeLocked(ForcedClose)
	}
}
