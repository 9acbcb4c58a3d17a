package session

import (
	"slices"
	"time"

	"github.com/holdfast/holdfast/internal/reason"
)

// Resumption is the outcome of Resume.
type Resumption struct {
	// Cursor is the new client's place in the log. It is nil if the client was refused, and Refused
	// says why.
	Cursor  *Cursor
	Refused reason.Reason
	// Takeover is the client that still has the session. It must Park before the new one can
	// resume.
	Takeover Owner
	Reply    []byte        // the CONNECT reply to repeat
	ToRead   int           // sequence numbers that Cursor.Read has to pass
	Missed   int           // packets among them
	Away     time.Duration // for how long the session was parked
	// Trial is what to try on the client before Cursor.Read; nil for nearly all clients.
	Trial *Trial
}

// Claim is what a client presents to resume its session.
type Claim struct {
	PID       string
	Namespace string
	Offset    string // "" for none
	// ForeignOffset says that the client presented an offset that this package did not issue.
	ForeignOffset bool
	Binding       Binding
	// Handled is how many events the client of a keyed session has handled since the session began,
	// if it has Counted them. HandledBy is the id of the socket that it counted them with, or "".
	Handled   uint64
	HandledBy string
	Counted   bool
	// DisconnectedRecently says that the client sent a DISCONNECT for the session a moment ago,
	// over this connection.
	DisconnectedRecently bool
}

// Resume gives owner the session that claim names, if it is parked. docs/design.md has the rules
// under "Resuming". A claim without the session's binding learns nothing and changes nothing. While
// the registry is frozen, all are refused for reason.Handover.
func (r *Registry) Resume(claim Claim, owner Owner) Resumption {
	a := &attempt{r: r, claim: claim, owner: owner}
	defer a.abortChanging()
	a.prepare()
	return a.resume()
}

// LastHandshake returns the number of the latest client that had the session with this pid, or 0.
func (r *Registry) LastHandshake(pid string) uint64 {
	r.mu.Lock()
	s := r.byPID[pid]
	r.mu.Unlock()
	if s == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owned
}

// Holder returns the client from which owner would take a session over with this claim, or nil.
func (r *Registry) Holder(claim Claim, owner Owner) Owner {
	r.mu.Lock()
	s := r.byPID[claim.PID]
	r.mu.Unlock()
	if s == nil || s.namespace != claim.Namespace {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != Live || s.cursor == nil || !s.binding.equal(claim.Binding) || s.owned >= owner.Handshake() {
		return nil
	}
	return s.cursor.owner
}

// attempt is one call of Resume.
type attempt struct {
	r     *Registry
	claim Claim
	owner Owner
	// changing is set while a session is changed. If a panic leaves it set, neither the client nor
	// the link knows what became of the session.
	changing *Session
}

// abortChanging aborts the session that was being changed when a panic came.
func (a *attempt) abortChanging() {
	if a.changing != nil {
		a.r.closeChosen(true, func(end func(*Session, reason.Reason)) {
			a.changing.detachAny()
			end(a.changing, reason.Internal)
		})
	}
}

// prepare trims the log of the parked session and judges its packets, before resume takes the
// registry's lock: there may be many. Little is left to do for resume.
func (a *attempt) prepare() {
	s, parked := a.parkedTogether()
	if s == nil || s.namespace != a.claim.Namespace || !a.trim(s) {
		return
	}
	for _, o := range parked {
		judgeParked(o)
	}
}

// parkedTogether returns the session with the claimed pid, or nil, and all that were parked with
// it.
func (a *attempt) parkedTogether() (s *Session, parked []*Session) {
	a.r.mu.Lock()
	defer a.r.mu.Unlock()
	if s = a.r.byPID[a.claim.PID]; s != nil && s.parked != nil {
		parked = slices.Clone(s.parked.group.sessions)
	}
	return s, parked
}

// trim drops what the client does not need. It returns false if the claim is not for the session.
func (a *attempt) trim(s *Session) (ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != Parked || !s.binding.equal(a.claim.Binding) || s.owned > a.owner.Handshake() {
		return false
	}
	a.changing = s
	trimForLocked(s, &a.claim)
	a.changing = nil
	return true
}

// resume decides on the claim, and attaches the client if it may resume.
func (a *attempt) resume() Resumption {
	r, owner := a.r, a.owner
	r.mu.Lock()
	defer r.mu.Unlock()
	s, refused := a.findLocked()
	if s == nil {
		return Resumption{Refused: refused}
	}
	var beside Verdict // on packets that the client was sent in its other sessions
	expected := false  // one of those is about to be on trial
	if s.parked != nil {
		beside, expected = s.parked.group.beside(s, owner)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.binding.equal(a.claim.Binding):
		return Resumption{Refused: reason.Binding}
	case s.owned > owner.Handshake(), s.state == Live && s.owned == owner.Handshake():
		return Resumption{Refused: reason.Stale}
	case s.state == Live && !s.takeovers.allow(r.limits().TakeoversPerMinute):
		return Resumption{Refused: reason.Limit}
	case s.state == Live:
		return Resumption{Takeover: s.cursor.owner}
	}
	a.changing = s
	resumption := a.attachLocked(s, beside, expected)
	a.changing = nil
	return resumption
}

// findLocked returns the claimed session, or nil and why there is none. r.mu is held.
func (a *attempt) findLocked() (s *Session, refused reason.Reason) {
	if a.r.frozen {
		return nil, reason.Handover
	}
	s = a.r.byPID[a.claim.PID]
	if s == nil {
		if why, ok := a.r.ends.why(a.claim.PID); ok {
			return nil, why
		}
		return nil, reason.UnknownPID
	}
	if s.namespace != a.claim.Namespace {
		return nil, reason.WrongNamespace
	}
	return s, ""
}

// attachLocked gives a parked session to its new client. r.mu and s.mu are held.
func (a *attempt) attachLocked(s *Session, beside Verdict, expected bool) Resumption {
	from, refused := trimForLocked(s, &a.claim)
	if refused != "" {
		return Resumption{Refused: refused}
	}
	if isAmbiguousLocked(s, from, a.owner, a.claim.DisconnectedRecently) {
		return Resumption{Refused: reason.ClientDisconnect}
	}
	parked := s.parked
	trial := examineLocked(s, from, beside)
	if trial == nil && expected {
		trial = &Trial{}
	}
	if trial != nil {
		trial.Siblings = parked.group.siblings(s)
	}
	if s.keyed != nil {
		s.keyed.epoch++
		s.log.NeverWritten(from, s.log.sent) // the client has none of those
	}
	c := &Cursor{s: s, owner: a.owner, sent: from, replay: &replay{to: s.log.Last()}}
	if !a.r.limits().ReplayAckRequested && !a.claim.Counted {
		c.replay.skipTo = s.log.sent
	}
	s.cursor, s.owned = c, a.owner.Handshake()
	parked.group.resumed(s, a.owner)
	a.r.moveLocked(s, Live)
	s.updateReadPauseLocked()
	away, missed := time.Since(parked.since), s.log.Packets()
	s.upstream.SessionResumed(s, away, missed)
	return Resumption{Cursor: c, Reply: s.reply, ToRead: s.log.Len(), Missed: missed, Away: away, Trial: trial}
}

// trimForLocked drops from a parked session's log what a client with this claim does not need. It
// returns the sequence number of the last packet that the client has, or why it cannot resume. s.mu
// is held.
func trimForLocked(s *Session, claim *Claim) (from uint64, refused reason.Reason) {
	var has uint64 // the last event that the client has handled
	if s.keyed != nil {
		if has, refused = keyedFromLocked(s, claim); refused != "" {
			return 0, refused
		}
	} else if tag, seq, ok := parseOffset(claim.Offset); ok && tag == s.tag {
		if seq > s.log.sent {
			return 0, reason.BadOffset
		}
		has = seq
	} else if claim.ForeignOffset {
		return 0, reason.BadOffset
	}
	if s.parked.disconnected() && has < s.log.confirmedEvent {
		return 0, reason.ClientDisconnect // it ignored events that the log no longer has
	}
	from = max(s.log.Trimmed(), has)
	s.trimLocked(from)
	if s.registry.limits().Retention != nil && s.parked.index == nil {
		compactLocked(s)
	}
	return from, ""
}
