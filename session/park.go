package session

import (
	"slices"
	"time"

	"github.com/holdfast/holdfast/internal/reason"
)

// sweepEvery is how long EvictForMemory waits after it has searched all parked sessions and freed
// nothing. For the same time it continues where its last call stopped.
const sweepEvery = 100 * time.Millisecond

// Park parks the sessions of one client for at most d. It passes over closed sessions, and cursors
// that have lost their session. It closes sessions that cannot be resumed, and all if d is not
// positive. The Observer is told why.
func (r *Registry) Park(cursors []*Cursor, d time.Duration, why reason.Reason) {
	r.ParkEnded(cursors, d, why, Lost)
}

// ParkEnded is Park for a client whose connection is known to have ended in a certain way.
func (r *Registry) ParkEnded(cursors []*Cursor, d time.Duration, why reason.Reason, ending Ending) {
	r.parkAll(cursors, d, &parkedGroup{why: why, ending: ending})
}

func (r *Registry) parkAll(cursors []*Cursor, d time.Duration, p *parkedGroup) {
	parked, closed, surplus := r.park(cursors, d, p)
	func() {
		defer r.finish(closed, true)
		for _, s := range parked {
			r.observer.Parked(s, p.why)
		}
	}()
	for surplus {
		surplus = r.evictSurplus()
	}
}

// park parks or closes sessions. It returns those it parked, those it closed, and whether more
// sessions are parked than allowed.
func (r *Registry) park(cursors []*Cursor, d time.Duration, p *parkedGroup) (parked []*Session, closed []closedSession, surplus bool) {
	done := false
	defer func() {
		if !done {
			r.abortDetached(cursors)
		}
	}()
	r.mu.Lock()
	defer r.mu.Unlock()
	p.expires = time.Now().Add(d)
	p.timer = time.AfterFunc(d, func() { r.expire(p) }) // waits for r.mu
	for _, c := range cursors {
		if e := r.parkLocked(c, d, p); e.s != nil {
			closed = append(closed, e)
		}
	}
	parked = slices.Clone(p.sessions)
	if len(parked) == 0 {
		p.timer.Stop()
	}
	closed = append(closed, r.closeEvictedLocked()...)
	done = true
	return parked, closed, r.parked.len() > r.maxParked && !r.inGraceLocked()
}

// abortDetached aborts the sessions that these cursors had, unless another client has them by now.
// It runs after a panic while they were parked.
func (r *Registry) abortDetached(cursors []*Cursor) {
	r.closeChosen(true, func(end func(*Session, reason.Reason)) {
		for _, c := range cursors {
			if c.detach() || c.s.Attached() == nil {
				end(c.s, reason.Internal)
			}
		}
	})
}

// parkLocked detaches a session's client, and parks the session with those of p or closes it. It
// returns the session only if it is closed. r.mu is held.
func (r *Registry) parkLocked(c *Cursor, d time.Duration, p *parkedGroup) closedSession {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursor != c {
		return closedSession{}
	}
	s.cursor = nil
	switch {
	case s.state == Closed:
		if s.endedInFlight {
			p.found = append(p.found, finding{s: s, verdict: Undecodable})
		}
		return closedSession{s: s, was: Closed} // the rest of its log has no reader
	case s.pid == "":
		return r.closeBothLocked(s, reason.NotParked)
	case d <= 0:
		return r.closeBothLocked(s, reason.Expired)
	}
	s.parked = &parkedState{group: p, since: time.Now(), sent: c.sent, inFlight: c.sent > s.log.Trimmed()}
	r.moveLocked(s, Parked)
	s.updateReadPauseLocked()
	s.upstream.SessionParked(s, p.why, d)
	return closedSession{}
}

// moveLocked is the only function that changes a session's state. r.mu and s.mu are held. It calls
// nothing outside this package, so it leaves no state half-changed.
func (r *Registry) moveLocked(s *Session, to State) {
	from := s.state
	s.state = to // first: parkedLRU tells an eviction by the state
	switch from {
	case Live:
		r.live--
	case Parked:
		r.parked.remove(s)
		s.parked.group.remove(s)
		s.parked = nil
	case Closed: // terminal
	}
	switch to {
	case Live:
		r.live++
	case Parked:
		s.parked.group.sessions = append(s.parked.group.sessions, s)
		r.parked.add(s)
	case Closed:
	}
}

func (r *Registry) expire(p *parkedGroup) {
	if !r.beginExpiry(p) {
		return
	}
	defer r.expiring.Done()
	var sessions []*Session
	defer func() {
		if v := recover(); v != nil {
			r.observer.Panicked(v, sessions)
		}
	}()
	r.closeChosen(true, func(end func(*Session, reason.Reason)) {
		sessions = slices.Clone(p.sessions)
		for _, s := range sessions {
			end(s, reason.Expired)
		}
	})
}

// closeEvictedLocked closes the sessions that parkedLRU has evicted. r.mu is held, and no
// session's lock.
func (r *Registry) closeEvictedLocked() (closed []closedSession) {
	for _, s := range r.parked.takeEvicted() {
		closed = append(closed, r.closeLocked(s, reason.Evicted))
	}
	return closed
}

// evictSurplus evicts some of the sessions beyond a limit that SetLimits has lowered. It returns
// true if there are more.
func (r *Registry) evictSurplus() (more bool) {
	r.closeChosen(true, func(end func(*Session, reason.Reason)) {
		r.parked.resize(max(r.maxParked, r.parked.len()-lockedSteps))
		for _, s := range r.parked.takeEvicted() {
			end(s, reason.Evicted)
		}
		more = r.parked.len() > r.maxParked
	})
	return more
}

// EvictForMemory evicts parked sessions that hold packets, the one parked longest first, until the
// budget is kept or none is left. It never drops what live clients have not confirmed: their links
// are paused instead.
//
// It works for one caller at a time, and returns immediately for others, because what it evicts
// counts until it is released.
func (r *Registry) EvictForMemory() {
	if !r.budget.Exceeded() || !r.evicting.TryLock() {
		return
	}
	defer r.evicting.Unlock()
	now := time.Now()
	if now.Before(r.sweepNext) {
		return
	}
	if now.Sub(r.sweepBegan) >= sweepEvery {
		r.sweepAt, r.sweepBegan = 0, now
	}
	for fromOldest := r.sweepAt == 0; r.budget.Exceeded(); {
		switch {
		case r.evictSome():
		case fromOldest:
			r.sweepAt, r.sweepNext = 0, now.Add(sweepEvery)
			return
		default: // sessions that held nothing at the last look may hold something now
			r.sweepAt, r.sweepBegan, fromOldest = 0, now, true
		}
	}
}

// evictSome looks at the next parked sessions. It evicts those that hold packets until enough would
// be free if they shared nothing. It returns false if no session was left to look at.
func (r *Registry) evictSome() (more bool) {
	r.closeChosen(true, func(end func(*Session, reason.Reason)) {
		excess := r.budget.Bytes() - r.budget.Limit()
		if excess <= 0 {
			more = true // the caller looks again
			return
		}
		r.sweepAt, more = r.parked.visit(r.sweepAt, func(s *Session) bool {
			if s.parked.group.why == reason.Handover && r.inGraceLocked() {
				return true
			}
			if packets, bytes := s.buffered(); packets > 0 {
				end(s, reason.Evicted)
				excess -= int64(bytes)
			}
			return excess > 0
		})
	})
	return more
}
