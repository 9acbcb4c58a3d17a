package engineio

import (
	"github.com/gobwas/ws"
)

// askState says whether a client that was asked for a sign of life has given one:
//
//	any     -> waits     Ask, over polling while no poll waits
//	any     -> asked     Ask: a WebSocket ping was sent, or a poll was answered
//	waits   -> asked     a poll came, and was answered
//	asked   -> answered  the pong came, or the next poll
type askState uint8

const (
	askNone askState = iota
	askWaits
	askAsked
	askAnswered
)

var askStateNames = [...]string{"none", "waits", "asked", "answered"}

// String implements fmt.Stringer.
func (a askState) String() string { return nameOf(askStateNames[:], a) }

// moveLocked is the only place where an askState changes. It reports whether the transition exists.
func (a *askState) moveLocked(to askState) bool {
	if to == askNone || to == askAnswered && *a != askAsked {
		return false
	}
	*a = to
	return true
}

// askPayload is the payload of the WebSocket ping that asks. Those of an Encoder.Watch are numbers.
const askPayload = "?"

// Ask asks the client for a sign of life, ahead of the heartbeat. Over WebSocket it sends a WebSocket
// ping: an endpoint answers it by itself, until it closes. Over polling it answers a poll, so that
// the client polls again. What the client sent before does not count.
func (s *Socket) Ask() {
	defer recoverPanic(s)
	s.mu.Lock()
	defer s.unlock()
	switch {
	case s.state.ended():
	case s.ws != nil:
		s.ask.moveLocked(askAsked)
		e := newEncoder(serverFrames)
		e.frame(ws.OpPing, 0, []byte(askPayload), nil, nil)
		if s.ws.write(e) > 0 {
			s.output.moveLocked(outputBlocked)
		}
	case s.polling.waiting != nil:
		s.ask.moveLocked(askAsked)
		s.answerWaitingLocked(s.payload(Noop))
	default:
		s.ask.moveLocked(askWaits)
	}
}

// Answered reports whether the client has answered Ask.
func (s *Socket) Answered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ask == askAnswered
}

// askPollLocked answers a poll with a noop if Ask waits for one.
func (s *Socket) askPollLocked() (a Answer, ok bool) {
	if s.ask.moveLocked(askAnswered) || s.ask != askWaits {
		return a, false
	}
	s.ask.moveLocked(askAsked)
	return s.packetsAnswer(s.payload(Noop)), true
}
