package session

import (
	"time"

	"github.com/holdfast/holdfast/internal/reason"
)

// Resumption is the outcome of Resume.
type Resumption struct {
	// Cursor is the new client's place in the log; nil if it was refused, and Refused says why.
	Cursor  *Cursor
	Refused reason.Reason
	// Takeover is a client that the session is still attached to: it has to give the session up
	// (Detach, Park) before the new one can have it.
	Takeover Owner
	Reply    []byte        // the CONNECT reply to repeat
	ToRead   int           // numbers that Cursor.Read has to pass
	Missed   int           // packets among them
	Away     time.Duration // how long the session was parked
	// Trial is what to try out on the client before Cursor.Read; nil for nearly all.
	Trial *Trial
}

// Claim is what a client presents to have its session back.
type Claim struct {
	PID       string
	Namespace string
	Offset    string // "" for none
	// ForeignOffset says that it presented an offset that is not of our making.
	ForeignOffset bool
	Binding       Binding
	// Soon says that the client left the session a moment ago, over this connection.
	DisconnectedRecently bool
}

// Resume attaches owner to the session that claim names, if it is parked. It implements
// what docs/design.md says under "Resuming". Nothing about a session is told, and nothing done to it, before the
// claim has its binding.
func (r *Registry) Resume(claim Claim, owner Owner) Resumption {
	r.prepare(claim, owner)
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.byPID[claim.PID]
	if s == nil {
		if why, ok := r.ends.Get(claim.PID); ok {
			return Resumption{Refused: why}
		}
		return Resumption{Refused: reason.UnknownPID}
	}
	if s.namespace != claim.Namespace {
		return Resumption{Refused: reason.WrongNamespace}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.binding.equal(claim.Binding):
		return Resumption{Refused: reason.Binding}
	case s.owned > owner.Handshake(), s.state == Live && s.owned == owner.Handshake():
		return Resumption{Refused: reason.Stale}
	case s.state == Live && !s.allowTakeoverLocked(r.limits().TakeoversPerMinute):
		return Resumption{Refused: reason.Limit}
	case s.state == Live:
		return Resumption{Takeover: s.cursor.owner}
	}
	from, refused := s.resumeFromLocked(&claim)
	if refused != "" {
		return Resumption{Refused: refused}
	}
	if s.ambiguousLocked(from, owner, claim.DisconnectedRecently) {
		return Resumption{Refused: reason.ClientDisconnect}
	}
	trial := s.examineLocked(from)
	if trial != nil {
		trial.Siblings = s.parking.inFlight(s)
	}
	s.away, s.left = nil, nil
	c := &Cursor{s: s, owner: owner, sent: from, replayTo: s.log.Last()}
	if !r.limits().ReplayAckRequested {
		c.skipTo = s.sent
	}
	s.cursor, s.owned = c, owner.Handshake()
	r.moveLocked(s, Live)
	away, missed := time.Since(s.parkedAt), s.log.Packets()
	s.upstream.SessionResumed(s, away, missed)
	return Resumption{Cursor: c, Reply: s.reply, ToRead: s.log.Len(), Missed: missed, Away: away, Trial: trial}
}

// prepare does what Resume would do to the log of a parked session, without the registry's lock: the log may be long. Resume
// finds little left to do.
func (r *Registry) prepare(claim Claim, owner Owner) {
	r.mu.Lock()
	s := r.byPID[claim.PID]
	r.mu.Unlock()
	if s == nil || s.namespace != claim.Namespace {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == Parked && s.binding.equal(claim.Binding) && s.owned <= owner.Handshake() {
		s.resumeFromLocked(&claim)
	}
}

// resumeFromLocked returns the number of the last packet that a client with this claim has, or why it cannot resume. The log of the
// session, which is parked, is left without what this client need not have. s.mu is held.
func (s *Session) resumeFromLocked(claim *Claim) (from uint64, refused reason.Reason) {
	var has uint64 // the last event that the client has handled
	if tag, seq, ok := parseOffset(claim.Offset); ok && tag == s.tag {
		if seq > s.sent {
			return 0, reason.BadOffset
		}
		has = seq
	} else if claim.ForeignOffset {
		return 0, reason.BadOffset
	}
	if s.left != nil && has < s.withOffset { // it has ignored some that are not there any more
		return 0, reason.ClientDisconnect
	}
	from = max(s.log.Trimmed(), has)
	s.trimLocked(from)
	if s.registry.limits().Retention != nil && s.away == nil {
		s.compactLocked()
	}
	return from, ""
}

// allowTakeoverLocked counts one takeover, unless there were too many of late.
func (s *Session) allowTakeoverLocked(perMinute int) bool {
	if perMinute <= 0 {
		return true
	}
	now, each := time.Now(), time.Minute/time.Duration(perMinute)
	from := s.takeoversUntil
	if from.Before(now) {
		from = now
	}
	if from.Add(each).Sub(now) > time.Minute {
		return false
	}
	s.takeoversUntil = from.Add(each)
	return true
}
