package engineio

import (
	"net"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// A client's connection can move from one Socket to another, in another process: Detach takes the
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
	// Post is the id of the POST under way, which the client may repeat.
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
	if s.timer != nil {
		s.timer.Stop()
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
	if recent := s.polling.recent; recent != nil && !d.WebSocket {
		d.Post, d.Requests = recent.lastPost.id, recent.ids()
	}
	s.stopPollTimersLocked()
	if s.polling.waiting != nil {
		s.answerWaitingLocked([]byte{byte(Noop)})
	}
	s.resumePostLocked()
	return d, true
}

// resumePostLocked answers a POST that waits because the input is paused. The WebSocket stays paused.
func (s *Socket) resumePostLocked() {
	if s.resumeCh != nil {
		close(s.resumeCh)
		s.resumeCh = nil
	}
}

// StartMoved continues a client's transport that was detached elsewhere. conn is what relays the
// client's WebSocket; nil while the client polls.
func (s *Socket) StartMoved(m Transfer, conn net.Conn) {
	s.mu.Lock()
	s.ping.sent = uint32(max(m.Pongs, 0)) // they confirm nothing here
	if !m.WebSocket {
		s.polling.log().lastPost = postID{id: s.requestID(m.Post)}
	}
	for _, id := range m.Requests[:min(len(m.Requests), maxRequests)] {
		s.polling.log().add(id, 0)
	}
	var t *wsTransport
	if conn != nil {
		t = newWSTransport(s, conn)
		t.role.move(roleTransport)
		s.ws = t
	}
	ended := s.state.ended()
	switch {
	case !ended:
		s.startHeartbeatLocked()
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
		s.polling.noopTimer = s.afterFunc(noopDelay, (*Socket).onNoopLocked)
	}
	s.unlock()
	t.stream.Start(input)
}
