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

// armLocked lets the timer fire after d.
func (s *Socket) armLocked(d time.Duration) {
	s.timerAt = time.Now().Add(d)
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
		s.pingInFlight, s.pingQueued = true, true
		s.pingSent = now
		if s.ws == nil {
			s.flushPollLocked()
		} else {
			s.pingNowLocked()
		}
		s.awaitPongLocked(now)
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
