package engineio

import (
	"strconv"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/instant"
)

// A Socket of version 3 differs from one of version 4 in its heartbeat. The client sends PING and
// gets PONG. The Socket cannot ask for a confirmation in this way. Over WebSocket it sends RFC 6455
// pings instead, which every endpoint answers. They are its own heartbeat, too. A client whose PING
// is late stays open while it answers them, because browsers delay the timers of hidden pages. Over
// polling each poll confirms, and polls and POSTs are the signs of life.

// markPing is the first byte of an RFC 6455 ping that asks for a confirmation. A mark follows.
const markPing = 'm'

// addMarkLocked adds a ping that asks for a confirmation of what precedes it.
func (p *pinger) addMarkLocked(e *Encoder) {
	p.ponged = false
	e.frame(ws.OpPing, 0, strconv.AppendUint([]byte{markPing}, p.mark, 10), nil, nil)
}

// onMarkPong handles the answer to such a ping. An earlier one may be answered late, or not at all:
// endpoints may answer only the last of several. It returns false if the Socket should be read no
// further.
func (t *wsTransport) onMarkPong(payload []byte) bool {
	mark, err := strconv.ParseUint(string(payload), 10, 64)
	if err != nil {
		return true
	}
	s := t.socket
	s.mu.Lock()
	current := s.ping.inFlight() && mark == s.ping.mark
	s.mu.Unlock()
	return !current || s.pong()
}

// sendPongLocked answers a PING.
func (t *wsTransport) sendPongLocked() {
	e := newEncoder(serverFrames)
	e.packet(Pong, nil, nil, nil)
	t.socket.sendLocked(e)
	t.socket.ping.ponged = true
}

// upgraded3Locked continues the heartbeat of a client that polled.
func (t *wsTransport) upgraded3Locked(owedPongs uint8) {
	for range owedPongs {
		t.sendPongLocked()
	}
	s := t.socket
	s.ping.nextAt = instant.Now().Add(s.opts.PingInterval)
	if s.state.get() == stateOpen {
		s.armLocked(s.opts.PingInterval)
	}
}

// pollFormat returns the form of answers to polls.
func (o *Options) pollFormat() format {
	switch {
	case o.Protocol == V4:
		return payloadFormat
	case o.Base64:
		return textPayload3
	}
	return binaryPayload3
}

// payload returns packets without data as an answer to a poll.
func (o *Options) payload(types ...PacketType) []byte {
	e := newEncoder(o.pollFormat())
	defer e.free()
	for _, t := range types {
		e.packet(t, nil, nil, nil)
	}
	return append([]byte(nil), e.buf...)
}

// isClose reports whether the body of a POST is a CLOSE packet and nothing else.
func (o *Options) isClose(body []byte) bool {
	if o.Protocol == V4 {
		return string(body) == string(rune(Close))
	}
	return string(body) == "1:1" || string(body) == "\x00\x01\xff1"
}
