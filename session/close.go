package session

import (
	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
)

// Close ends a session for a reason that its link knows. The client can still read what it has not
// been sent, except after ClientDisconnect: a client handles nothing after that. BufferFull ends a
// parked session only. If a client resumed the session after Append failed, nothing is missing.
func (r *Registry) Close(s *Session, why reason.Reason) {
	r.closeChosen(why == reason.BufferFull, func(end func(*Session, reason.Reason)) {
		if why != reason.BufferFull || s.State() == Parked {
			end(s, why)
		}
	})
}

// Abort ends the session of a client, which receives nothing more of it. A cursor that has lost its
// session has no effect.
func (r *Registry) Abort(c *Cursor, why reason.Reason) {
	r.closeChosen(true, func(end func(*Session, reason.Reason)) {
		if c.detach() {
			end(c.s, why)
		}
	})
}

// AbortParked ends a parked session whose client came back but cannot resume it, for this reason.
// No other client will resume it.
func (r *Registry) AbortParked(pid, namespace string, why reason.Reason) {
	r.closeChosen(true, func(end func(*Session, reason.Reason)) {
		if s := r.byPID[pid]; s != nil && s.namespace == namespace && s.State() == Parked {
			end(s, why)
		}
	})
}

// AbortDisconnected ends a session that is parked because this client sent a DISCONNECT, if the
// client does not resume it.
func (r *Registry) AbortDisconnected(s *Session, owner Owner) {
	r.closeChosen(true, func(end func(*Session, reason.Reason)) {
		if s.DisconnectedBy(owner) {
			end(s, reason.ClientDisconnect)
		}
	})
}

// detachAny detaches the session's client, whichever that is.
func (s *Session) detachAny() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cursor = nil
}

// closedSession is a session that has just been closed, with what the observer and the link are
// told.
type closedSession struct {
	s        *Session
	why      reason.Reason
	was      State // Closed if it was closed before
	buffered int
}

// closeChosen closes the sessions that choose passes to end. choose runs with r.mu held.
func (r *Registry) closeChosen(tellUpstream bool, choose func(end func(*Session, reason.Reason))) {
	var closed []closedSession
	defer func() { r.finish(closed, tellUpstream) }()
	r.mu.Lock()
	defer r.mu.Unlock()
	choose(func(s *Session, why reason.Reason) { closed = append(closed, r.closeLocked(s, why)) })
}

// closeLocked closes a session. r.mu is held, and s.mu is not.
func (r *Registry) closeLocked(s *Session, why reason.Reason) closedSession {
	s.mu.Lock()
	defer s.mu.Unlock()
	return r.closeBothLocked(s, why)
}

// closeBothLocked is closeLocked with s.mu held too. It calls nothing outside this package; finish
// does that.
func (r *Registry) closeBothLocked(s *Session, why reason.Reason) closedSession {
	e := closedSession{s, why, s.state, s.log.Packets()}
	if s.state == Closed {
		return e
	}
	if s.pid != "" {
		delete(r.byPID, s.pid)
		r.ends.add(s.pid, why)
	}
	if why == reason.ClientDisconnect {
		s.cursor = nil
	}
	s.endedInFlight = s.cursor != nil && s.cursor.sent > s.log.Trimmed()
	r.moveLocked(s, Closed)
	return e
}

// finish tells the observer about closed sessions, and their links if tellUpstream is set. Then it
// releases their packets, which may take a while. No lock is held.
func (r *Registry) finish(closed []closedSession, tellUpstream bool) {
	defer each(closed, func(e closedSession) { e.s.release() })
	defer func() {
		if tellUpstream {
			tellUpstreams(closed)
		}
	}()
	each(closed, func(e closedSession) {
		if e.was != Closed {
			r.observer.Closed(e.s, e.why, e.was, e.buffered)
		}
	})
}

// tellUpstreams tells each link once about all its sessions that were closed for one reason.
func tellUpstreams(closed []closedSession) {
	type group struct {
		up  Upstream
		why reason.Reason
	}
	var groups []group
	sessions := make(map[group][]*Session)
	for _, e := range closed {
		if e.was == Closed {
			continue
		}
		g := group{e.s.upstream, e.why}
		if sessions[g] == nil {
			groups = append(groups, g)
		}
		sessions[g] = append(sessions[g], e.s)
	}
	each(groups, func(g group) { g.up.SessionsClosed(sessions[g], g.why) })
}

// each calls fn for all elements. If fn panics for one, it calls fn for the rest before the panic
// continues.
func each[T any](list []T, fn func(T)) {
	i := 0
	defer func() {
		if i < len(list) {
			each(list[i+1:], fn)
		}
	}()
	for ; i < len(list); i++ {
		fn(list[i])
	}
}

// release drops the packets of a closed session that no client can read any more. It empties a log
// without a reader outside the session's lock: others may wait for that lock and hold the
// registry's.
func (s *Session) release() {
	unread := s.takeUnread()
	unread.Release()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.updateReadPauseLocked() // last: it calls the link
}

// takeUnread takes the log out of a closed session that has no client. If there is a client,
// takeUnread only drops what it was sent.
func (s *Session) takeUnread() buffer.Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursor == nil {
		return s.log.Drain()
	}
	s.dropSentLocked()
	return buffer.Log{}
}

// dropSentLocked drops what the client of a closed session was sent, or everything if it has none.
func (s *Session) dropSentLocked() {
	if s.cursor == nil {
		s.log.Release()
		return
	}
	s.trimLocked(s.cursor.sent)
	s.log.Idle()
}
