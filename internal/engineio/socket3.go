package engineio

import (
	"strconv"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/instant"
)

// A Socket of version 3 differs from one of version 4 in its heartbeat. The client sends PING and
// gets PONG. A Socket cannot ask for a confirmation in the same way, so over WebSocket it sends
// RFC 6455 pings instead, which every endpoint answers. They serve as its own heartbeat, too, and a
// client whose PING is late is not closed while it answers them: browsers delay the timers of hidden
// pages. Over polling each poll confirms, and polls and POSTs are the signs of life.

// state3 is what a Socket of version 3 keeps; guarded by its mu.
type state3 struct {
	pongs uint8 // owed to a client that polls
	// ponged says that a PONG was sent since the current ping. The client's next PING then shows
	// that it has received the PONG and everything before it, even if nothing answers RFC 6455
	// pings.
	ponged  bool
	decoder decoder3 // of POSTs, of which there is one at a time
}

// markPing is the first byte of an RFC 6455 ping that asks for a confirmation. A mark follows.
const markPing = 'm'

// addMarkPing adds a ping that asks for a confirmation of what precedes it.
func (s *Socket) addMarkPingLocked(e *Encoder) {
	s.v3.ponged = false
	e.frame(ws.OpPing, 0, strconv.AppendUint([]byte{markPing}, s.ping.mark, 10), nil, nil)
}

// onMarkPong handles the answer to such a ping. An earlier one may be answered late, or not at all:
// endpoints may answer only the last of several. It returns false if the Socket should not be read
// any more.
func (s *Socket) onMarkPong(payload []byte) bool {
	mark, err := strconv.ParseUint(string(payload), 10, 64)
	if err != nil {
		return true
	}
	s.mu.Lock()
	current := s.ping.inFlight() && mark == s.ping.mark
	s.mu.Unlock()
	return !current || s.pong()
}

// clientPing answers a PING of the client. It returns false if the Socket should not be read any
// more.
func (s *Socket) clientPing() bool {
	s.mu.Lock()
	confirms := s.ws != nil && s.v3.ponged && s.ping.inFlight()
	s.mu.Unlock()
	if confirms && !s.pong() {
		return false
	}
	s.mu.Lock()
	defer s.unlock()
	switch {
	case s.state.ended():
		return false
	case s.ws != nil:
		s.sendPongLocked()
	case s.v3.pongs < 255:
		s.v3.pongs++
		s.flushPollLocked()
	}
	return true
}

// sendPongLocked sends a PONG over the WebSocket.
func (s *Socket) sendPongLocked() {
	e := newEncoder(serverFrames)
	e.packet(Pong, nil, nil, nil)
	if s.ws.write(e) > 0 {
		s.output.moveLocked(outputBlocked)
	}
	s.v3.ponged = true
}

// addPongsLocked adds what is owed to a client that polls.
func (s *Socket) addPongsLocked(e *Encoder) {
	for ; s.v3.pongs > 0; s.v3.pongs-- {
		e.packet(Pong, nil, nil, nil)
	}
}

// upgraded3Locked continues the heartbeat over the WebSocket.
func (s *Socket) upgraded3Locked() {
	for ; s.v3.pongs > 0; s.v3.pongs-- {
		s.sendPongLocked()
	}
	s.ping.nextAt = instant.Now().Add(s.opts.PingInterval)
	if s.state.get() == stateOpen {
		s.armLocked(s.opts.PingInterval)
	}
}

// silenceAllowed returns how long a client may give no sign of life after a ping.
func (s *Socket) silenceAllowed() time.Duration {
	if s.opts.Protocol == V3 {
		return s.opts.PingInterval + s.opts.PingTimeout
	}
	return s.opts.PingTimeout
}

// polls3Locked reports whether the client polls in version 3: then there are no pings to it.
func (s *Socket) polls3Locked() bool { return s.ws == nil && s.opts.Protocol == V3 }

// checkPolling3Locked closes a client that has given no sign of life for too long.
func (s *Socket) checkPolling3Locked(now instant.Instant) {
	left := s.silenceAllowed()
	if !s.readPaused {
		left -= now.Sub(s.ping.lastSign)
	}
	if left <= 0 {
		s.closeLocked(PingTimeout)
		return
	}
	s.armLocked(left)
}

// pollFormat returns the form of answers to polls.
func (s *Socket) pollFormat() format {
	switch {
	case s.opts.Protocol == V4:
		return payloadFormat
	case s.opts.Base64:
		return textPayload3
	}
	return binaryPayload3
}

// payload returns packets without data as an answer to a poll.
func (s *Socket) payload(types ...PacketType) []byte {
	e := newEncoder(s.pollFormat())
	defer e.free()
	for _, t := range types {
		e.packet(t, nil, nil, nil)
	}
	return append([]byte(nil), e.buf...)
}

// closes reports whether the body of a POST is a CLOSE packet and nothing else.
func (s *Socket) closes(data []byte) bool {
	if s.opts.Protocol == V4 {
		return string(data) == string(rune(Close))
	}
	return string(data) == "1:1" || string(data) == "\x00\x01\xff1"
}

// decodePost calls fn for each packet in the body of a POST.
func (s *Socket) decodePost(data []byte, fn func(Packet) bool) error {
	if s.opts.Protocol == V3 {
		return s.v3.decoder.decode(data, fn)
	}
	return DecodePayload(data, fn)
}
