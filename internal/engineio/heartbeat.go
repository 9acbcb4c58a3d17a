package engineio

import (
	"time"

	"github.com/holdfast/holdfast/internal/instant"
)

// timerSlack is how late a timer may fire, on both sides.
const timerSlack = 5 * time.Millisecond

// pingState is where the current ping of a Socket is:
//
//	idle   -> queued       a ping is due; over polling it waits for the next answer
//	idle   -> sent         a ping follows a batch that asked for confirmation
//	queued -> sent         the transport took it
//	sent   -> extraQueued  polling only: an extra ping waits for the next answer
//	extraQueued -> sent    an answer took that ping, or the client upgraded
//	sent, extraQueued -> idle  the pong came
type pingState uint8

const (
	pingIdle pingState = iota
	pingQueued
	pingSent
	pingExtraQueued
)

var pingStateNames = [...]string{"idle", "queued", "sent", "extraQueued"}

// String implements fmt.Stringer.
func (p pingState) String() string { return nameOf(pingStateNames[:], p) }

// nextPingStates has a bit for each state that may follow.
var nextPingStates = [...]uint8{
	pingIdle:        1<<pingQueued | 1<<pingSent,
	pingQueued:      1 << pingSent,
	pingSent:        1<<pingExtraQueued | 1<<pingIdle,
	pingExtraQueued: 1<<pingSent | 1<<pingIdle,
}

// pinger is the state of a Socket's heartbeat. It is guarded by the Socket's mu. Every message
// touches its first fields.
type pinger struct {
	state     pingState
	lastSign  instant.Instant // last sign of life: input, or the kernel took everything that waited
	lastInput instant.Instant // when anything but a poll last arrived
	mark      uint64          // what the pong will confirm

	nextAt instant.Instant // when the next ping is due
	sentAt instant.Instant // when the current ping was sent or queued
	lastAt instant.Instant // when the last ping of any kind was sent

	// Pongs have no number, but come in the order of their pings. Only the pong of the current ping
	// confirms. Others are those of pings in the middle of a batch (Encoder.Ping), and of extra
	// pings: while a pong may be stuck behind unread input, the client gets those, because its own
	// timer expects a ping per interval.
	sent     uint32 // pings in all
	current  uint32 // the number of the current ping
	answered uint32 // how many of them, from the first, have been answered

	// Positions in the WebSocket's output, in bytes.
	bytesAhead int64 // what was written up to the current ping
	delivered  int64 // what the client's kernel has taken; or unknown
}

// moveLocked is the only place where a ping's state changes. It reports whether the transition
// exists.
func (p *pinger) moveLocked(to pingState) bool {
	ok := nextPingStates[p.state]>>to&1 != 0
	if ok {
		p.state = to
	}
	return ok
}

// inFlight reports whether a ping has not been answered yet. It may still be queued.
func (p *pinger) inFlight() bool { return p.state != pingIdle }

// queueLocked makes a ping due now.
func (p *pinger) queueLocked(now instant.Instant) {
	p.moveLocked(pingQueued)
	p.sentAt = now
}

// lastSignAfter returns the time of the last sign of life, or t if that is later.
func (p *pinger) lastSignAfter(t instant.Instant) instant.Instant {
	if p.lastSign.After(t) {
		return p.lastSign
	}
	return t
}

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
	now := instant.Now()
	if !s.checkAt.IsZero() {
		d = min(d, max(0, s.checkAt.Sub(now)))
	}
	s.timerAt = now.Add(d)
	if s.timer == nil {
		s.timer = s.afterFunc(d, (*Socket).onTimerLocked)
	} else {
		s.timer.Reset(d)
	}
}

// sendPingLocked adds a ping to a batch, and notes what its pong will confirm.
func (s *Socket) sendPingLocked(e *Encoder, now instant.Instant) {
	p := &s.ping
	if !p.inFlight() {
		p.sentAt = now
	}
	p.moveLocked(pingSent)
	p.lastAt = now
	p.sent++
	s.awaitLocked(e)
	if s.opts.Protocol == V3 {
		s.addMarkPingLocked(e)
		return
	}
	e.packet(Ping, nil, nil, nil)
}

// awaitLocked makes the last ping the current one. It is in the batch, or about to be added.
func (s *Socket) awaitLocked(e *Encoder) {
	p := &s.ping
	p.current = p.sent
	p.mark = s.h.Mark()
	if s.ws != nil {
		p.bytesAhead, p.delivered = s.ws.written+int64(e.Len()), unknown
	}
}

// notePingsLocked notes the pings that Fill has added to a batch. It reports whether there are any:
// then no other ping is due.
func (s *Socket) notePingsLocked(e *Encoder) bool {
	p := &s.ping
	n := e.pings - p.sent
	if n == 0 {
		return false
	}
	now := instant.Now()
	if !p.inFlight() {
		p.sentAt = now
	}
	p.moveLocked(pingSent)
	p.lastAt = now
	p.sent += n
	s.awaitLocked(e)
	return true
}

// PingsAnswered returns the greatest number of an Encoder.Ping that the client has answered.
func (s *Socket) PingsAnswered() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ping.answered
}

// pong handles the answer to a ping. It returns false if the Socket should not be read any more.
func (s *Socket) pong() bool {
	s.mu.Lock()
	defer s.unlock()
	p := &s.ping
	switch {
	case s.state.ended():
		return false
	case p.answered == p.sent: // no pong is due
		return true
	}
	p.answered++
	if p.answered != p.current {
		return true
	}
	p.moveLocked(pingIdle) // a queued extra ping, whose pong would be due next, is dropped
	p.nextAt = instant.Now().Add(s.opts.PingInterval)
	if s.state.get() == stateOpen && s.timerAt.After(p.nextAt) {
		s.armLocked(s.opts.PingInterval)
	}
	switch {
	case s.ws == nil && !s.onlyPongsConfirm(): // the next poll confirms, and is unambiguous
	case s.polling.answer.pingUnproven():
		s.polling.answer.moveLocked(answerPonged)
	default:
		s.h.Confirm(p.mark)
	}
	s.flushLocked()
	return !s.state.ended()
}

func (s *Socket) onTimerLocked() {
	now := instant.Now()
	p := &s.ping
	if s.state.get() == stateOpen && !s.checkAt.IsZero() && !now.Before(s.checkAt) {
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
		s.flushPollLocked()
	} else {
		s.pingNowLocked()
	}
}

// pingNowLocked sends the queued ping over the WebSocket.
func (s *Socket) pingNowLocked() {
	e := newEncoder(serverFrames)
	s.sendPingLocked(e, s.ping.sentAt)
	if s.ws.write(e) > 0 {
		s.output.moveLocked(outputBlocked)
	}
}

// confirmLaterLocked schedules Handler.Unconfirmed. While the client confirms by itself, a packet
// costs nothing here: the timer fires every confirmDelay until nothing is pending.
func (s *Socket) confirmLaterLocked() {
	if !s.checkAt.IsZero() || s.state.get() != stateOpen {
		return
	}
	s.checkAt = instant.Now().Add(confirmDelay)
	if s.timer != nil && s.timerAt.After(s.checkAt) {
		s.armLocked(confirmDelay)
	}
}

// checkConfirmedLocked pings a client that has not confirmed by itself in time.
func (s *Socket) checkConfirmedLocked(now instant.Instant) {
	s.checkAt = 0
	pending, overdue := s.h.Unconfirmed()
	switch {
	case !pending:
	case s.ws == nil && !s.onlyPongsConfirm(): // each poll confirms, and so does the upgrade
	case overdue && !s.ping.inFlight() && s.output == outputWritable:
		s.h.ConfirmPing()
		s.pingDueLocked(now)
	default:
		s.checkAt = now.Add(confirmDelay)
	}
}

// pongMayBeStuckLocked reports whether the pong may be on its way: behind unread input, or behind
// other data that the client is still sending.
func (s *Socket) pongMayBeStuckLocked() bool {
	return s.ping.state != pingQueued && s.opts.Protocol == V4 && (s.readPaused || s.ping.lastInput.After(s.ping.lastAt))
}

// sendExtraPingLocked pings a client whose pong may be stuck; see pinger.sent.
func (s *Socket) sendExtraPingLocked(now instant.Instant) {
	s.ping.lastAt = now
	if s.ws == nil {
		s.ping.moveLocked(pingExtraQueued)
		s.flushPollLocked()
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

// awaitPongLocked makes the timer fire when the client's time to answer is up. It returns false if
// it already is.
func (s *Socket) awaitPongLocked(now instant.Instant) bool {
	p := &s.ping
	left := s.silenceAllowed()
	if !s.readPaused { // otherwise the pong may be there, unread
		behind := s.observeDeliveryLocked(now)
		left -= now.Sub(p.lastSignAfter(p.sentAt))
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

// unknown is a number of delivered bytes that was not observed yet.
const unknown = -1

// observeDeliveryLocked checks how much of the bytes ahead of the ping the client's kernel has
// taken: a client that takes them slowly is alive. It reports whether the ping is still behind
// other bytes.
func (s *Socket) observeDeliveryLocked(now instant.Instant) (behind bool) {
	if s.ws == nil {
		return false
	}
	p := &s.ping
	before := p.delivered
	p.delivered = s.ws.stream.Delivered()
	behind = p.delivered < p.bytesAhead
	if before < p.bytesAhead && p.delivered > before && (behind || before != unknown) {
		p.lastSign = now
	}
	return behind
}

// overdueLocked reports whether the client's time to answer a ping is up, even if the timer is
// late.
func (s *Socket) overdueLocked() bool {
	p := &s.ping
	if s.readPaused || s.state.get() != stateOpen || p.nextAt.IsZero() {
		return false
	}
	last := p.nextAt
	if p.inFlight() {
		last = p.sentAt
	}
	return instant.Since(p.lastSignAfter(last)) > s.silenceAllowed()-timerSlack
}
