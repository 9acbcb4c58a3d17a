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
	var changing *Session // until it is certain that its new client learns of it
	defer func() {
		if changing != nil { // a panic: neither the client nor the link knows
			r.closeChosen(true, func(end func(*Session, reason.Reason)) {
				changing.detachAny()
				end(changing, reason.Internal)
			})
		}
	}()
	r.prepare(claim, owner, &changing)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.frozen {
		return Resumption{Refused: reason.Handover}
	}
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
	var beside Verdict
	expected := false
	if s.parked != nil {
		beside, expected = s.parked.group.beside(s, owner)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.binding.equal(claim.Binding):
		return Resumption{Refused: reason.Binding}
	case s.owned > owner.Handshake(), s.state == Live && s.owned == owner.Handshake():
		return Resumption{Refused: reason.Stale}
	case s.state == Live && !s.takeovers.allow(r.limits().TakeoversPerMinute):
		return Resumption{Refused: reason.Limit}
	case s.state == Live:
		return Resumption{Takeover: s.cursor.owner}
	}
	changing = s
	resumption := r.attachLocked(s, &claim, owner, beside, expected)
	changing = nil
	return resumption
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

// attachLocked gives a parked session to owner. beside is the Verdict on packets that its client was
// sent in other sessions, and expected says that one of those is about to be on trial. r.mu and s.mu
// are held.
func (r *Registry) attachLocked(s *Session, claim *Claim, owner Owner, beside Verdict, expected bool) Resumption {
	from, refused := trimForLocked(s, claim)
	if refused != "" {
		return Resumption{Refused: refused}
	}
	if isAmbiguousLocked(s, from, owner, claim.DisconnectedRecently) {
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
	c := &Cursor{s: s, owner: owner, sent: from, replay: &replay{to: s.log.Last()}}
	if !r.limits().ReplayAckRequested && !claim.Counted {
		c.replay.skipTo = s.log.sent
	}
	s.cursor, s.owned = c, owner.Handshake()
	parked.group.resumed(s, owner)
	r.moveLocked(s, Live)
	s.updateReadPauseLocked()
	away, missed := time.Since(parked.since), s.log.Packets()
	s.upstream.SessionResumed(s, away, missed)
	return Resumption{Cursor: c, Reply: s.reply, ToRead: s.log.Len(), Missed: missed, Away: away, Trial: trial}
}

// prepare trims the log of a parked session and judges its packets, before Resume takes the
// registry's lock: there may be many. Little is left to do for Resume. While changing is set, the
// session must be closed after a panic.
func (r *Registry) prepare(claim Claim, owner Owner, changing **Session) {
	s, parked := r.parkedTogether(claim.PID)
	if s == nil || s.namespace != claim.Namespace || !prepareOne(s, claim, owner, changing) {
		return
	}
	for _, o := range parked {
		judgeParked(o)
	}
}

// parkedTogether returns the session with a pid, or nil, and all that were parked with it.
func (r *Registry) parkedTogether(pid string) (s *Session, parked []*Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s = r.byPID[pid]; s != nil && s.parked != nil {
		parked = slices.Clone(s.parked.group.sessions)
	}
	return s, parked
}

// prepareOne is Registry.prepare for the session alone. It returns false if the claim is not for it.
func prepareOne(s *Session, claim Claim, owner Owner, changing **Session) (ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != Parked || !s.binding.equal(claim.Binding) || s.owned > owner.Handshake() {
		return false
	}
	*changing = s
	trimForLocked(s, &claim)
	*changing = nil
	return true
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
