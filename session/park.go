package session

import (
	"container/list"
	"slices"
	"time"

	"github.com/holdfast/holdfast/internal/reason"
)

// parking is sessions that were parked together, and expire together.
type parking struct {
	timer    *time.Timer
	sessions []*Session
	why      reason.Reason
	ending   Ending            // of their client's connection
	left     *ClientDisconnect // of their client; nil if it was lost
	expires  time.Time
}

// inFlight counts the sessions beside s of which packets were in flight. The registry's lock is held.
func (p *parking) inFlight(s *Session) (n int) {
	for _, o := range p.sessions {
		if o != s && o.inFlight {
			n++
		}
	}
	return n
}

// Park parks the sessions of one client for at most d. Cursors that are no longer their session's, and closed
// sessions, are passed over. Sessions that cannot be resumed, or not for any time, are closed instead.
// why is for the Observer.
func (r *Registry) Park(cursors []*Cursor, d time.Duration, why reason.Reason) {
	r.ParkEnded(cursors, d, why, Lost)
}

// ParkEnded is Park for a client of which it is known how its connection ended.
func (r *Registry) ParkEnded(cursors []*Cursor, d time.Duration, why reason.Reason, ending Ending) {
	r.parkAll(cursors, d, &parking{why: why, ending: ending})
}

func (r *Registry) parkAll(cursors []*Cursor, d time.Duration, p *parking) {
	parked, gone, surplus := r.park(cursors, d, p)
	for _, s := range parked {
		r.observer.Parked(s, p.why)
	}
	r.finish(gone, true)
	for surplus {
		surplus = r.evictSurplus()
	}
}

// evictSurplus closes the sessions parked longest until there are no more parked than may be. It returns true if there still are:
// after SetLimits there may be many.
func (r *Registry) evictSurplus() (more bool) {
	r.end(true, func(end func(*Session, reason.Reason)) {
		for n := 0; n < lockedSteps && r.parked.Len() > r.maxParked; n++ {
			end(parkedIn(r.parked.Front()), reason.Evicted)
		}
		more = r.parked.Len() > r.maxParked
	})
	return more
}

func (r *Registry) park(cursors []*Cursor, d time.Duration, p *parking) (parked []*Session, gone []ended, surplus bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.expires = time.Now().Add(d)
	p.timer = time.AfterFunc(d, func() { r.expire(p) }) // waits for r.mu
	for _, c := range cursors {
		if e := r.leaveLocked(c, d, p); e.s != nil {
			gone = append(gone, e)
		}
	}
	parked = slices.Clone(p.sessions)
	if len(parked) == 0 {
		p.timer.Stop()
	}
	return parked, gone, r.parked.Len() > r.maxParked
}

// leaveLocked takes a session's client away, and parks the session with those of p, or closes it. What it
// returns has no session unless it is closed now. r.mu is held.
func (r *Registry) leaveLocked(c *Cursor, d time.Duration, p *parking) ended {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursor != c {
		return ended{}
	}
	s.cursor = nil
	switch {
	case s.state == Closed:
		return ended{s: s, was: Closed} // to be released
	case s.pid == "":
		return r.endLocked(s, reason.NotParked)
	case d <= 0:
		return r.endLocked(s, reason.Expired)
	}
	r.moveLocked(s, Parked)
	s.parkedAt, s.parking = time.Now(), p
	s.left, s.sentWhenParked, s.inFlight = p.left, c.sent, c.sent > s.log.Trimmed()
	p.sessions = append(p.sessions, s)
	s.place = r.parked.PushBack(s)
	s.upstream.SessionParked(s, p.why, d)
	return ended{}
}

// moveLocked is the only place where a session's state changes. r.mu and s.mu are held.
func (r *Registry) moveLocked(s *Session, to State) {
	switch s.state {
	case Live:
		r.live--
	case Parked:
		r.unparkLocked(s)
	case Closed: // nobody moves it from there
	}
	s.state = to
	if to == Live {
		r.live++
	}
	s.updateReadPauseLocked()
}

// unparkLocked takes a session out of what parked ones are in; r.mu and s.mu are held.
func (r *Registry) unparkLocked(s *Session) {
	if r.sweepAt == s.place {
		r.sweepAt = s.place.Next()
	}
	r.parked.Remove(s.place)
	p := s.parking
	s.place, s.parking = nil, nil
	p.sessions = slices.DeleteFunc(p.sessions, func(o *Session) bool { return o == s })
	if len(p.sessions) == 0 {
		p.timer.Stop()
	}
}

// parkedIn is the session of an element of Registry.parked.
func parkedIn(e *list.Element) *Session { return e.Value.(*Session) }

func (r *Registry) expire(p *parking) {
	var sessions []*Session
	defer func() {
		if v := recover(); v != nil {
			r.observer.Panicked(v, sessions)
		}
	}()
	r.end(true, func(end func(*Session, reason.Reason)) {
		sessions = slices.Clone(p.sessions)
		for _, s := range sessions {
			end(s, reason.Expired)
		}
	})
}

// EvictForMemory closes parked sessions that hold packets, the one parked longest first, until the budget is kept again or
// none is left. What live clients have not confirmed is never dropped; their links are held instead.
//
// One call at a time does this; others return at once, for what it closes is counted only when it is released.
func (r *Registry) EvictForMemory() {
	if !r.budget.Exceeded() || !r.evicting.TryLock() {
		return
	}
	defer r.evicting.Unlock()
	if !r.beginSweep() {
		return
	}
	for r.budget.Exceeded() {
		if !r.evictSome() {
			r.endSweep()
			return
		}
	}
}

// beginRelief makes relieveSome begin with the session parked longest, unless that was in vain a moment ago.
func (r *Registry) beginSweep() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweepAt = r.parked.Front()
	return !time.Now().Before(r.sweepNext)
}

// endRelief notes that all parked sessions have been looked at, and the budget is still exceeded.
func (r *Registry) endSweep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweepNext = time.Now().Add(sweepEvery)
}

// relieveSome looks at the next parked sessions, and closes those that hold packets until enough would be free if they shared
// nothing. It returns false if there are none.
func (r *Registry) evictSome() (more bool) {
	r.end(true, func(end func(*Session, reason.Reason)) {
		more = r.sweepAt != nil
		excess := r.budget.Bytes() - r.budget.Limit()
		for n := 0; n < lockedSteps && r.sweepAt != nil && excess > 0; n++ {
			s := parkedIn(r.sweepAt)
			r.sweepAt = r.sweepAt.Next()
			if packets, bytes := s.buffered(); packets > 0 {
				end(s, reason.Evicted)
				excess -= int64(bytes)
			}
		}
	})
	return more
}
