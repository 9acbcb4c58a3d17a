package session

import (
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
)

// DisconnectedBy reports whether the session is parked since this client said goodbye.
func (s *Session) DisconnectedBy(o Owner) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state == Parked && s.left != nil && s.owned == o.Handshake()
}

// ambiguousLocked reports whether it cannot be known which events after from the client has, because it left the session while
// they were on their way. If it connects again over the same connection before they arrive it puts them aside, and
// handles them with the reply, be that over the next connection; those that came before that it has ignored.
func (s *Session) ambiguousLocked(from uint64, owner Owner, soon bool) bool {
	if s.left == nil {
		return false
	}
	onItsWay := !s.left.arrived.Load()
	if s.owned == owner.Handshake() {
		if !onItsWay && !soon {
			return false
		}
	} else if !onItsWay || s.left.last.Load() {
		return false
	}
	for i := from + 1; i <= min(s.sentWhenParked, s.log.Last()); i++ {
		if s.log.At(i).Kind() == buffer.WithOffset {
			return true
		}
	}
	return false
}

// AbortDisconnected closes a session that this client left, and does not come back to.
func (r *Registry) AbortDisconnected(s *Session, owner Owner) {
	r.end(true, func(end func(*Session, reason.Reason)) {
		if s.DisconnectedBy(owner) {
			end(s, reason.ClientDisconnect)
		}
	})
}

// Leave parks the session of a client that has said goodbye to it. The client is still there, and ignores what it has been
// sent since it did so: nothing of that is confirmed any more. g says what becomes known of it later.
func (r *Registry) ParkDisconnected(c *Cursor, d time.Duration, g *ClientDisconnect) {
	r.parkAll([]*Cursor{c}, d, &parking{why: reason.ClientDisconnect, left: g})
}

// ClientDisconnect is what is known of a client that left a session.
type ClientDisconnect struct {
	arrived atomic.Bool
	last    atomic.Bool
}

// AllArrived says that what the client had been sent when it left the session has arrived, before it connected again.
func (g *ClientDisconnect) AllArrived() { g.arrived.Store(true) }

// LastSession says that the client has no other session on its connection either: so it closes that, and has put nothing aside.
func (g *ClientDisconnect) LastSession() { g.last.Store(true) }
