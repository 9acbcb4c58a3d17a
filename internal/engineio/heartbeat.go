package engineio

import "time"

// timerSlack is how much later than asked a timer may fire, on both sides.
const timerSlack = 5 * time.Millisecond

// Start starts the heartbeat: from now on the client has to answer pings.
func (s *Socket) Start() {
	defer s.contain()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.get() == stateOpen {
		s.startHeartbeatLocked()
	}
}

func (s *Socket) startHeartbeatLocked() {
	now := time.Now()
	s.progress = now
	s.nextPing = now.Add(s.opts.PingInterval)
	s.armLocked(s.opts.PingInterval)
}

// armLocked lets the timer fire after d, or when there is something to check before.
func (s *Socket) armLocked(d time.Duration) {
	now := time.Now()
	if !s.checkAt.IsZero() {
		d = min(d, max(0, s.checkAt.Sub(now)))
	}
	s.timerAt = now.Add(d)
	if s.timer == nil {
		s.timer = time.AfterFunc(d, s.onTimer)
	} else {
		s.timer.Reset(d)
	}
}

// pingLocked adds a ping to a batch and remembers what it will confirm.
func (s *Socket) pingLocked(e *Encoder, now time.Time) {
	if !s.pingInFlight {
		s.pingInFlight = true
		s.pingSent = now
	}
	s.pingQueued = false
	s.lastPing = now
	s.pingMark = s.h.Mark()
	if s.ws != nil {
		s.pingBehind, s.delivered = s.ws.written+int64(e.Len()), unknown
	}
	e.packet(Ping, nil, nil, nil)
}

// pong handles the answer to a ping. It reports whether the Socket is still to be read.
func (s *Socket) pong() bool {
	s.mu.Lock()
	defer s.unlock()
	switch {
	case s.state.get() == stateClosed:
		return false
	case s.unheeded > 0:
		s.unheeded--
		return true
	case !s.pingInFlight || s.pingQueued:
		return true
	}
	s.pingInFlight = false
	s.unheeded, s.further = s.further, 0
	s.furtherQueue = false // no poll took it, and its pong would be one too many
	s.nextPing = time.Now().Add(s.opts.PingInterval)
	if s.state.get() == stateOpen && s.timerAt.After(s.nextPing) {
		s.armLocked(s.opts.PingInterval)
	}
	switch {
	case s.ws == nil && !s.opts.ConfirmByPong: // the next poll says so, and cannot be mistaken for another's
	case s.polling.pingUnproven:
		s.polling.ponged = true
	default:
		s.h.Confirm(s.pingMark)
	}
	s.flushLocked()
	return s.state.get() != stateClosed
}

func (s *Socket) onTimer() {
	defer s.contain()
	s.mu.Lock()
	defer s.unlock()
	now := time.Now()
	if s.state.get() == stateOpen && !s.checkAt.IsZero() && !now.Before(s.checkAt) {
		s.checkConfirmedLocked(now)
	}
	switch {
	case s.state.get() == stateClosed:
	case s.state.get() == stateClosing:
		s.closeLocked(s.reason)
	case s.pingInFlight:
		if s.pongWaitsLocked() && now.Sub(s.lastPing) >= s.opts.PingInterval {
			s.pingFurtherLocked(now)
		}
		if !s.awaitPongLocked(now) {
			s.closeLocked(PingTimeout)
		}
	case now.Before(s.nextPing):
		s.armLocked(s.nextPing.Sub(now))
	default:
		s.pingDueLocked(now)
		s.awaitPongLocked(now)
	}
}

func (s *Socket) pingDueLocked(now time.Time) {
	s.pingInFlight, s.pingQueued = true, true
	s.pingSent = now
	if s.ws == nil {
		s.flushPollLocked()
	} else {
		s.pingNowLocked()
	}
}

// confirmLaterLocked has the heartbeat's timer ask the Handler what is unconfirmed. While the client confirms by itself, a
// packet costs nothing here: the timer fires every confirmDelay until nothing is pending.
func (s *Socket) confirmLaterLocked() {
	if !s.checkAt.IsZero() || s.state.get() != stateOpen {
		return
	}
	s.checkAt = time.Now().Add(confirmDelay)
	if s.timer != nil && s.timerAt.After(s.checkAt) {
		s.armLocked(confirmDelay)
	}
}

// checkConfirmedLocked pings the client if it has not confirmed by itself what Fill asked to confirm later.
func (s *Socket) checkConfirmedLocked(now time.Time) {
	s.checkAt = time.Time{}
	pending, overdue := s.h.Unconfirmed()
	switch {
	case !pending:
	case s.ws == nil && !s.opts.ConfirmByPong: // each poll confirms, and the upgrade does
	case overdue && !s.pingInFlight && !s.blocked:
		s.h.ConfirmPing()
		s.pingDueLocked(now)
	default:
		s.checkAt = now.Add(confirmDelay)
	}
}

// pingNowLocked sends by WebSocket the ping that is due.
func (s *Socket) pingNowLocked() {
	e := newEncoder(serverFrames)
	s.pingLocked(e, s.pingSent)
	if s.ws.write(e) > 0 {
		s.blocked = true
	}
}

// pongWaitsLocked reports whether a pong may be on its way, behind what is not read or still to come.
func (s *Socket) pongWaitsLocked() bool {
	return !s.pingQueued && (s.paused || s.heard.After(s.lastPing))
}

// pingFurtherLocked pings a client whose pong may be on its way: its own timer wants a ping for every interval.
func (s *Socket) pingFurtherLocked(now time.Time) {
	s.lastPing = now
	if s.ws == nil {
		s.furtherQueue = true
		s.flushPollLocked()
		return
	}
	if s.blocked {
		return // it has not taken what there is
	}
	e := newEncoder(serverFrames)
	e.packet(Ping, nil, nil, nil)
	s.further++
	if s.ws.write(e) > 0 {
		s.blocked, s.furtherWaits = true, true
	}
}

// awaitPongLocked arms the timer for the end of the client's time to answer a ping. It returns false if that is over.
func (s *Socket) awaitPongLocked(now time.Time) bool {
	left := s.opts.PingTimeout
	if !s.paused { // else its answer is not read
		behind := s.observeLocked(now)
		last := s.pingSent
		if s.progress.After(last) {
			last = s.progress
		}
		left -= now.Sub(last)
		if behind {
			left = min(left, s.opts.PingTimeout/4) // to observe more closely
		}
	}
	if left <= 0 {
		return false
	}
	if s.pongWaitsLocked() {
		left = min(left, max(s.opts.PingInterval-now.Sub(s.lastPing), timerSlack))
	}
	s.armLocked(left)
	return true
}

// unknown stands for how much was delivered, before it was observed.
const unknown = -1

// observeLocked looks how far the client's kernel has come with what was written ahead of a ping: a client that takes it
// slowly lives. It reports whether the ping is still behind other bytes.
func (s *Socket) observeLocked(now time.Time) (behind bool) {
	if s.ws == nil {
		return false
	}
	before := s.delivered
	s.delivered = s.ws.stream.Delivered()
	behind = s.delivered < s.pingBehind
	if before < s.pingBehind && s.delivered > before && (behind || before != unknown) {
		s.progress = now
	}
	return behind
}

// overdueLocked reports whether the client's time to answer a ping is over, though the timer, which has many of its
// kind to see to, has not said so yet.
func (s *Socket) overdueLocked() bool {
	if s.paused || s.state.get() != stateOpen || s.nextPing.IsZero() {
		return false
	}
	last := s.nextPing
	if s.pingInFlight {
		last = s.pingSent
	}
	if s.progress.After(last) {
		last = s.progress
	}
	return time.Since(last) > s.opts.PingTimeout-timerSlack
}
