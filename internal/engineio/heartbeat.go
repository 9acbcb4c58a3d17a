package engineio

import (
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/instant"
)

// confirmDelay is how long, and at most twice as long, a client has to confirm by itself what
// FillResult.ConfirmLater asked for.
const confirmDelay = 250 * time.Millisecond

// Start starts the heartbeat: from now on the client must answer pings.
func (s *Socket) Start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.get() == stateOpen {
		s.startHeartbeatLocked()
	}
}

func (s *Socket) startHeartbeatLocked() {
	now := instant.Now()
	s.ping.lastSign = now
	s.ping.nextAt = now.Add(s.opts.PingInterval)
	s.armLocked(s.opts.PingInterval)
}

// armLocked makes the timer fire after d, or when Handler.Unconfirmed should be called before that.
func (s *Socket) armLocked(d time.Duration) {
	now, p := instant.Now(), &s.ping
	if !p.checkAt.IsZero() {
		d = min(d, max(0, p.checkAt.Sub(now)))
	}
	p.timerAt = now.Add(d)
	if p.timer == nil {
		p.timer = s.afterFunc(d, (*Socket).onTimerLocked)
	} else {
		p.timer.Reset(d)
	}
}

func (s *Socket) onTimerLocked() {
	now := instant.Now()
	p := &s.ping
	if s.state.get() == stateOpen && !p.checkAt.IsZero() && !now.Before(p.checkAt) {
		s.checkConfirmedLocked(now)
	}
	switch {
	case s.state.ended():
	case s.state.get() == stateClosing:
		s.closeLocked(s.reason)
	case s.polls3Locked():
		s.checkPolling3Locked(now)
	case p.inFlight():
		if s.pongMayBeStuckLocked() && now.Sub(p.lastAt) >= s.opts.PingInterval {
			s.sendExtraPingLocked(now)
		}
		if !s.awaitPongLocked(now) {
			s.closeLocked(PingTimeout)
		}
	case now.Before(p.nextAt):
		s.armLocked(p.nextAt.Sub(now))
	default:
		s.pingDueLocked(now)
		s.awaitPongLocked(now)
	}
}

func (s *Socket) pingDueLocked(now instant.Instant) {
	s.ping.queueLocked(now)
	if s.ws == nil {
		s.poll.flushLocked()
	} else {
		s.pingNowLocked()
	}
}

// pingNowLocked sends the queued ping over the WebSocket.
func (s *Socket) pingNowLocked() {
	e := newEncoder(serverFrames)
	s.addPingLocked(e, s.ping.sentAt)
	s.sendLocked(e)
}

// addPingLocked adds a ping to a batch, and notes what its pong will confirm.
func (s *Socket) addPingLocked(e *Encoder, now instant.Instant) {
	s.noteSentLocked(e, 1, now)
	if s.opts.Protocol == V3 {
		s.ping.addMarkLocked(e)
		return
	}
	e.packet(Ping, nil, nil, nil)
}

// noteSentLocked notes n pings that are in a batch, or about to be added.
func (s *Socket) noteSentLocked(e *Encoder, n uint32, now instant.Instant) {
	s.ping.sentLocked(n, s.h.Mark(), now)
	if s.ws != nil {
		s.ping.behindLocked(s.ws.written + int64(e.Len()))
	}
}

// notePingsLocked notes the pings that Fill has added to a batch. It reports whether there are any:
// then no other ping is due.
func (s *Socket) notePingsLocked(e *Encoder) bool {
	n := e.pings - s.ping.sent
	if n == 0 {
		return false
	}
	s.noteSentLocked(e, n, instant.Now())
	return true
}

// sendExtraPingLocked pings a client whose pong may be stuck; see pinger.
func (s *Socket) sendExtraPingLocked(now instant.Instant) {
	s.ping.lastAt = now
	if s.ws == nil {
		s.ping.moveLocked(pingExtraQueued)
		s.poll.flushLocked()
		return
	}
	if s.output != outputWritable {
		return // the client has not taken what was sent before
	}
	e := newEncoder(serverFrames)
	s.addExtraPingLocked(e)
	if s.ws.write(e) > 0 {
		s.output.moveLocked(outputExtraWaits)
	}
}

func (s *Socket) addExtraPingLocked(e *Encoder) {
	s.ping.sent++
	e.packet(Ping, nil, nil, nil)
}

// PingsAnswered returns the greatest number of an Encoder.Ping that the client has answered.
func (s *Socket) PingsAnswered() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ping.answered
}

// pong handles the answer to a ping. It returns false if the Socket should be read no further.
func (s *Socket) pong() bool {
	s.mu.Lock()
	defer s.unlock()
	if s.state.ended() {
		return false
	}
	p := &s.ping
	if !p.pongLocked(s.opts.PingInterval) {
		return true
	}
	if s.state.get() == stateOpen && p.timerAt.After(p.nextAt) {
		s.armLocked(s.opts.PingInterval)
	}
	switch {
	case s.ws == nil && !s.onlyPongsConfirm(): // the next poll confirms, and is unambiguous
	case s.poll.holdPongLocked(): // the next poll confirms, together with the pong
	default:
		s.h.Confirm(p.mark)
	}
	s.flushLocked()
	return !s.state.ended()
}

// clientPing answers a PING of a client of version 3. It returns false if the Socket should be read
// no further.
func (s *Socket) clientPing() bool {
	s.mu.Lock()
	confirms := s.ws != nil && s.ping.ponged && s.ping.inFlight()
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
		s.ws.sendPongLocked()
	default:
		s.poll.oweLocked()
	}
	return true
}

// confirmLaterLocked schedules Handler.Unconfirmed. While the client confirms by itself, a packet
// costs nothing here: the timer fires every confirmDelay until nothing is pending.
func (s *Socket) confirmLaterLocked() {
	p := &s.ping
	if !p.checkAt.IsZero() || s.state.get() != stateOpen {
		return
	}
	p.checkAt = instant.Now().Add(confirmDelay)
	if p.timer != nil && p.timerAt.After(p.checkAt) {
		s.armLocked(confirmDelay)
	}
}

// checkConfirmedLocked pings a client that has not confirmed by itself in time.
func (s *Socket) checkConfirmedLocked(now instant.Instant) {
	s.ping.checkAt = 0
	pending, overdue := s.h.Unconfirmed()
	switch {
	case !pending:
	case s.ws == nil && !s.onlyPongsConfirm(): // each poll confirms, and so does the upgrade
	case overdue && !s.ping.inFlight() && s.output == outputWritable:
		s.h.ConfirmPing()
		s.pingDueLocked(now)
	default:
		s.ping.checkAt = now.Add(confirmDelay)
	}
}

// pongMayBeStuckLocked reports whether the pong may be in flight: behind unread input, or behind
// other data that the client is still sending.
func (s *Socket) pongMayBeStuckLocked() bool {
	p := &s.ping
	return p.state != pingQueued && s.opts.Protocol == V4 && (s.readPaused || p.lastInput.After(p.lastAt))
}

// silenceAllowed returns how long a client may give no sign of life after a ping.
func (s *Socket) silenceAllowed() time.Duration {
	if s.opts.Protocol == V3 {
		return s.opts.PingInterval + s.opts.PingTimeout
	}
	return s.opts.PingTimeout
}

// awaitPongLocked makes the timer fire when the client's time to answer is up. It returns false if
// it already is.
func (s *Socket) awaitPongLocked(now instant.Instant) bool {
	p := &s.ping
	left := s.silenceAllowed()
	if !s.readPaused { // otherwise the pong may be there, unread
		behind := s.ws != nil && p.observeLocked(s.ws.stream.Delivered(), now)
		left -= p.silentLocked(now)
		if behind {
			left = min(left, s.opts.PingTimeout/4) // observe more closely
		}
	}
	if left <= 0 {
		return false
	}
	if s.pongMayBeStuckLocked() {
		left = min(left, max(s.opts.PingInterval-now.Sub(p.lastAt), timerSlack))
	}
	s.armLocked(left)
	return true
}

// overdueLocked reports whether the client's time to answer a ping is up.
func (s *Socket) overdueLocked() bool {
	return !s.readPaused && s.state.get() == stateOpen && s.ping.overdueLocked(s.silenceAllowed())
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

// Ask asks the client for a sign of life, ahead of the heartbeat. Over WebSocket it sends a
// WebSocket ping: an endpoint answers it by itself, until it closes. Over polling it answers a
// poll, so that the client polls again. What the client sent before does not
// count. Handler.Alive reports the answer.
func (s *Socket) Ask() {
	defer recoverPanic(s)
	s.mu.Lock()
	defer s.unlock()
	switch {
	case s.state.ended():
	case s.ws != nil:
		s.askWebSocketLocked()
	case s.poll.waitsLocked():
		s.ask.moveLocked(askAsked)
		s.poll.answerWaitingLocked(s.opts.payload(Noop))
	default:
		s.ask.moveLocked(askWaits)
	}
}

func (s *Socket) askWebSocketLocked() {
	s.ask.moveLocked(askAsked)
	e := newEncoder(serverFrames)
	e.frame(ws.OpPing, 0, []byte(askPayload), nil, nil)
	s.sendLocked(e)
}

// askAgainLocked asks over a WebSocket that has just become the transport, if the client was asked
// before that: it will not poll.
func (s *Socket) askAgainLocked() {
	if s.ask == askWaits || s.ask == askAsked {
		s.askWebSocketLocked()
	}
}
