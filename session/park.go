package session

import (
	"slices"
	"time"

	"github.com/holdfast/holdfast/internal/reason"
)

// Park parks the sessions of one client for at most d. It skips closed sessions, and cursors that
// have lost their session. It closes sessions that cannot be resumed, and all sessions if d is not
// positive. The Observer is told why.
func (r *Registry) Park(cursors []*Cursor, d time.Duration, why reason.Reason) {
	r.ParkEnded(cursors, d, why, Lost)
}

// ParkEnded is Park for a client whose connection is known to have ended in a certain way.
func (r *Registry) ParkEnded(cursors []*Cursor, d time.Duration, why reason.Reason, ending Ending) {
	r.parkAll(cursors, d, &parkedGroup{why: why, ending: ending})
}

// ParkDisconnected parks the session of a client that sent a DISCONNECT for it. Nothing that was
// sent to the client before is confirmed from now on, because the client may ignore it.
func (r *Registry) ParkDisconnected(c *Cursor, d time.Duration, disconnect *ClientDisconnect) {
	r.parkAll([]*Cursor{c}, d, &parkedGroup{why: reason.ClientDisconnect, disconnect: disconnect})
}

func (r *Registry) parkAll(cursors []*Cursor, d time.Duration, g *parkedGroup) {
	parked, closed, surplus := r.park(cursors, d, g)
	func() {
		defer r.finish(closed, true)
		for _, s := range parked {
			r.observer.Parked(s, g.why)
		}
	}()
	if surplus {
		r.evictSurplus()
	}
}

// park parks or closes sessions. It returns those it parked, those it closed, and whether more
// sessions are parked than allowed.
func (r *Registry) park(cursors []*Cursor, d time.Duration, g *parkedGroup) (parked []*Session, closed []closedSession, surplus bool) {
	done := false
	defer func() {
		if !done {
			r.abortDetached(cursors)
		}
	}()
	r.mu.Lock()
	defer r.mu.Unlock()
	g.expires = time.Now().Add(d)
	g.timer = time.AfterFunc(d, func() { r.expire(g) }) // waits for r.mu
	for _, c := range cursors {
		if e := r.parkLocked(c, d, g); e.s != nil {
			closed = append(closed, e)
		}
	}
	parked = slices.Clone(g.sessions)
	if len(parked) == 0 {
		g.timer.Stop()
	}
	closed = append(closed, r.closeEvictedLocked()...)
	done = true
	return parked, closed, r.parked.surplus()
}

// abortDetached aborts the sessions of these cursors, unless another client has them by now. It
// runs after a panic in park.
func (r *Registry) abortDetached(cursors []*Cursor) {
	r.closeChosen(true, func(end func(*Session, reason.Reason)) {
		for _, c := range cursors {
			if c.detach() || c.s.Attached() == nil {
				end(c.s, reason.Internal)
			}
		}
	})
}

// parkLocked detaches a session's client. It adds the session to g, or closes it. It returns the
// session only if it is closed. r.mu is held.
func (r *Registry) parkLocked(c *Cursor, d time.Duration, g *parkedGroup) closedSession {
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
			g.found = append(g.found, finding{s: s, verdict: Undecodable})
		}
		return closedSession{s: s, was: Closed} // no client will read the rest of its log
	case s.pid == "":
		return r.closeBothLocked(s, reason.NotParked)
	case d <= 0:
		return r.closeBothLocked(s, reason.Expired)
	}
	s.parked = &parkedState{group: g, since: time.Now(), sent: c.sent, inFlight: c.sent > s.log.Trimmed()}
	r.moveLocked(s, Parked)
	s.updateReadPauseLocked()
	s.upstream.SessionParked(s, g.why, d)
	return closedSession{}
}

// frozenRetry is how often an expired session is looked at again while the registry is frozen.
const frozenRetry = 100 * time.Millisecond

// beginExpiry reports whether an expiry may begin. If so, expiring.Done must follow. Otherwise the
// registry is frozen, and the timer tries again later.
func (r *Registry) beginExpiry(g *parkedGroup) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.frozen {
		g.timer.Reset(frozenRetry)
		return false
	}
	r.expiring.Add(1)
	return true
}

// expire closes the sessions of a group. The group's timer calls it.
func (r *Registry) expire(g *parkedGroup) {
	if !r.beginExpiry(g) {
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
		sessions = slices.Clone(g.sessions)
		for _, s := range sessions {
			end(s, reason.Expired)
		}
	})
}

// closeEvictedLocked closes the sessions that parkedLRU has evicted. r.mu is held, and no session's
// lock.
func (r *Registry) closeEvictedLocked() (closed []closedSession) {
	for _, s := range r.parked.takeEvicted() {
		closed = append(closed, r.closeLocked(s, reason.Evicted))
	}
	return closed
}

// evictSurplus evicts sessions beyond a limit that was lowered. It releases the registry's lock now
// and then.
func (r *Registry) evictSurplus() {
	for more := true; more; {
		r.closeChosen(true, func(end func(*Session, reason.Reason)) {
			r.parked.evictSurplus()
			for _, s := range r.parked.takeEvicted() {
				end(s, reason.Evicted)
			}
			more = r.parked.surplus()
		})
	}
}
