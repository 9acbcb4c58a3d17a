package session

import (
	"sync/atomic"
)

// This file implements recovery.on_client_disconnect: park. A client that sends a DISCONNECT stays
// connected, and ignores what arrives for the namespace from then on. From its next CONNECT on it
// buffers events, and handles them after the reply.

// ClientDisconnect is what is known about a client after it sent a DISCONNECT.
type ClientDisconnect struct {
	allArrived  atomic.Bool
	lastSession atomic.Bool
}

// AllArrived says that everything the client had been sent before its DISCONNECT has arrived, and
// that it did not connect again before that.
func (d *ClientDisconnect) AllArrived() { d.allArrived.Store(true) }

// LastSession says that the client has no other session on its connection. It will close the
// connection, and has buffered nothing.
func (d *ClientDisconnect) LastSession() { d.lastSession.Store(true) }

// DisconnectedBy reports whether the session is parked because this client sent a DISCONNECT.
func (s *Session) DisconnectedBy(o Owner) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state == Parked && s.parked.disconnected() && s.owned == o.Handshake()
}

// isAmbiguousLocked reports whether the client may or may not have handled events after from,
// because they were in flight at its DISCONNECT. It ignored those that arrived before its next
// CONNECT. Those that arrived later it handles with the reply, even if that comes over another
// connection.
func isAmbiguousLocked(s *Session, from uint64, owner Owner, recently bool) bool {
	d := s.parked.group.disconnect
	if d == nil {
		return false
	}
	inFlight := !d.allArrived.Load()
	if s.owned == owner.Handshake() {
		if !inFlight && !recently {
			return false
		}
	} else if !inFlight || d.lastSession.Load() {
		return false
	}
	return s.log.hasOffsets(from, s.parked.sent)
}
