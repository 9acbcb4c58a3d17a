package session

import (
	"slices"
	"time"

	"github.com/holdfast/holdfast/internal/reason"
)

// parkedState is what a session has only while it is parked.
type parkedState struct {
	// Immutable.
	group    *parkedGroup
	since    time.Time
	sent     uint64 // the last packet that the client was sent
	inFlight bool   // the client had not confirmed everything

	ticket uint64       // in parkedLRU; guarded by Registry.mu
	index  *parkedIndex // nil until the log is compacted; guarded by Session.mu
}

// disconnected reports whether the session is parked because its client sent a DISCONNECT. The
// client may have ignored what was in flight then.
func (p *parkedState) disconnected() bool { return p.group.disconnect != nil }

// parkedGroup is sessions of one client that were parked together and expire together. The
// registry's lock guards it.
type parkedGroup struct {
	timer      *time.Timer
	sessions   []*Session
	why        reason.Reason
	ending     Ending            // of the client's connection
	disconnect *ClientDisconnect // nil unless the client disconnected
	expires    time.Time
	judged     bool // found is complete
	// found lists sessions that had packets in flight which are not Fine. It includes sessions that
	// were resumed since.
	found []finding
}

// finding is a session of a client that was sent packets which are not Fine, and not confirmed.
type finding struct {
	s       *Session
	verdict Verdict // on those that were in flight when it was parked
	by      uint64  // the handshake of the client that resumed it since; 0 while it is parked
}

// has reports whether a session is still parked with the group.
func (g *parkedGroup) has(s *Session) bool { return s.parked != nil && s.parked.group == g }

// remove removes a session that is not parked any more. If it ended, and had packets in flight that
// were not judged, it counts as if its client had been sent something Undecodable.
func (g *parkedGroup) remove(s *Session) {
	if s.state == Closed && s.parked.inFlight && !g.judged && g.disconnect == nil {
		g.found = append(g.found, finding{s: s, verdict: Undecodable})
	}
	g.sessions = slices.DeleteFunc(g.sessions, func(o *Session) bool { return o == s })
	if len(g.sessions) == 0 {
		g.timer.Stop()
	}
}

// resumed notes which client has resumed a session.
func (g *parkedGroup) resumed(s *Session, owner Owner) {
	for i := range g.found {
		if g.found[i].s == s {
			g.found[i].by = owner.Handshake()
		}
	}
}

// siblings counts the other sessions that are still parked with s and had packets in flight, or
// have suspects.
func (g *parkedGroup) siblings(s *Session) (n int) {
	for _, o := range g.sessions {
		if o != s && (o.parked.inFlight || slices.ContainsFunc(g.found, func(f finding) bool { return f.s == o })) {
			n++
		}
	}
	return n
}

// beside combines the verdicts on packets that were in flight in other sessions of the client when
// s was parked. The client may then have buffered events of s as well. If they were tried on
// another connection, they count as Undecodable: what this one decodes does not clear them.
// expected says that another session is about to be on trial. g may be nil.
func (g *parkedGroup) beside(s *Session, owner Owner) (v Verdict, expected bool) {
	if g == nil || g.disconnect != nil {
		return Fine, false
	}
	g.judge()
	for _, f := range g.found {
		switch {
		case f.s == s:
		case g.has(f.s), f.by == owner.Handshake():
			v |= f.verdict
			expected = true
		case f.verdict != Fine:
			v |= Undecodable
		}
	}
	return v, expected
}

// judge completes found. It runs once, when the first session is resumed.
func (g *parkedGroup) judge() {
	if g.judged {
		return
	}
	g.judged = true
	for _, s := range g.sessions {
		if v, suspicious := verdictsInFlight(s); suspicious {
			g.found = append(g.found, finding{s: s, verdict: v})
		}
	}
}

// verdictsInFlight combines the verdicts on what was in flight when a session was parked.
// suspicious says that this, or what was sent over an earlier connection, is not Fine.
func verdictsInFlight(s *Session) (v Verdict, suspicious bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	judgeLocked(s, s.log.sent, judgedBytes) // nothing is left, as a rule
	return s.suspicions.verdictUpTo(s.parked.sent), s.suspicions.verdictUpTo(s.log.sent) != Fine
}
