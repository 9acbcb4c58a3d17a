package session

import (
	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
)

// dropSentLocked drops what nobody can ask a closed session for: what its client was sent, or all if it has none.
func (s *Session) dropSentLocked() {
	if s.cursor == nil {
		s.log.Release()
		return
	}
	s.trimLocked(s.cursor.sent)
	s.log.Idle()
}

// release does that for a session that has just been closed. A log that nobody reads is emptied without the session's lock:
// whoever waits for that may hold the registry's.
func (s *Session) release() {
	rest := s.takeUnread()
	rest.Release()
}

// takeUnread takes the log of a closed session without a client out of it. What another session's client has been sent is dropped.
func (s *Session) takeUnread() buffer.Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursor == nil {
		return s.log.Drain()
	}
	s.dropSentLocked()
	return buffer.Log{}
}

// AbortParked closes a parked session whose client came back, but cannot resume it for this reason: nobody else will.
func (r *Registry) AbortParked(pid, namespace string, why reason.Reason) {
	r.end(true, func(end func(*Session, reason.Reason)) {
		if s := r.byPID[pid]; s != nil && s.namespace == namespace && s.State() == Parked {
			end(s, why)
		}
	})
}

// end closes the sessions that choose, with r.mu held, calls end for; and tells of them.
func (r *Registry) end(tellUpstream bool, choose func(end func(*Session, reason.Reason))) {
	var gone []ended
	defer func() { r.finish(gone, tellUpstream) }()
	r.mu.Lock()
	defer r.mu.Unlock()
	choose(func(s *Session, why reason.Reason) { gone = append(gone, r.closeLocked(s, why)) })
}

// Fail closes a client's session, of which nothing is to be relied on any more, for this reason. A cursor that is no
// longer its session's is without effect.
func (r *Registry) Abort(c *Cursor, why reason.Reason) {
	r.end(true, func(end func(*Session, reason.Reason)) {
		if c.leave() {
			end(c.s, why)
		}
	})
}

// leave takes the client off the session, and reports whether it had it. The registry's lock is held.
func (c *Cursor) leave() bool {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	had := c.s.cursor == c
	if had {
		c.s.cursor = nil
	}
	return had
}

// Close ends a session for a reason that its link knows. What its client has not been sent yet can still be read,
// but for ClientDisconnect: a client handles nothing that comes after it. BufferFull ends a parked session only:
// if a client resumed it after Append said so, all it missed is there.
func (r *Registry) Close(s *Session, why reason.Reason) {
	r.end(why == reason.BufferFull, func(end func(*Session, reason.Reason)) {
		if why != reason.BufferFull || s.State() == Parked {
			end(s, why)
		}
	})
}

// ended is a session that has just been closed.
type ended struct {
	s        *Session
	why      reason.Reason
	was      State
	buffered int
}

// closeLocked closes a session; r.mu is held, s.mu is not. was is Closed if it was closed before.
func (r *Registry) closeLocked(s *Session, why reason.Reason) ended {
	s.mu.Lock()
	defer s.mu.Unlock()
	return r.endLocked(s, why)
}

// endLocked is closeLocked with s.mu held too.
func (r *Registry) endLocked(s *Session, why reason.Reason) ended {
	e := ended{s, why, s.state, s.log.Packets()}
	if s.state == Closed {
		return e
	}
	r.moveLocked(s, Closed)
	if s.pid != "" {
		delete(r.byPID, s.pid)
		r.ends.Add(s.pid, why)
	}
	if why == reason.ClientDisconnect {
		s.cursor = nil
	}
	return e
}

// finish tells of ended sessions, and their links if those do not know. Then it drops their packets, which may take a while.
// No lock is held.
func (r *Registry) finish(gone []ended, tellUpstream bool) {
	r.tell(gone, tellUpstream)
	for _, e := range gone {
		e.s.release()
	}
}

func (r *Registry) tell(gone []ended, tellUpstream bool) {
	if len(gone) == 0 {
		return
	}
	type group struct {
		up  Upstream
		why reason.Reason
	}
	links := make(map[group][]*Session)
	for _, e := range gone {
		if e.was == Closed {
			continue
		}
		r.observer.Closed(e.s, e.why, e.was, e.buffered)
		g := group{e.s.upstream, e.why}
		links[g] = append(links[g], e.s)
	}
	if !tellUpstream {
		return
	}
	for g, sessions := range links {
		g.up.SessionsClosed(sessions, g.why)
	}
}
