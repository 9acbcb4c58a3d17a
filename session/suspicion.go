package session

import (
	"math"
	"slices"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/handover"
)

// A client whose decoder fails buffers the events that it read together with the packet. It handles
// them with the next CONNECT reply. So the offset that comes with that CONNECT is too low, and only
// the CONNECT after it has the right one. Until then no event may be sent again.

// bufferState says whether the session's client may have buffered events:
//
//	empty              -> uncertain  a packet was in flight that some clients cannot decode
//	empty, uncertain   -> filled     it was one that no client can decode, or it is not sent again
//	uncertain, filled  -> flushed    the client has handled a CONNECT reply
//	flushed            -> empty      it has connected again
//	uncertain, flushed -> empty      trials have shown that it can decode the packets
type bufferState uint8

const (
	bufferEmpty bufferState = iota
	bufferUncertain
	bufferFilled
	bufferFlushed
)

// suspicions are what a session knows about packets that its clients may be unable to decode.
type suspicions struct {
	judgedTo uint64    // each packet is judged once
	suspects []suspect // in order
	buffered bufferState
	doubt    *doubt // nil while nothing is searched for
	reads    reads
}

// suspect is a packet that a client was sent and the Judge did not find Fine.
type suspect struct {
	seq     uint64
	verdict Verdict
}

// forget removes a suspect.
func (q *suspicions) forget(seq uint64) {
	q.suspects = slices.DeleteFunc(q.suspects, func(x suspect) bool { return x.seq == seq })
}

// verdict returns the Verdict on a packet that was judged.
func (q *suspicions) verdict(seq uint64) Verdict {
	for _, x := range q.suspects {
		if x.seq == seq {
			return x.verdict
		}
	}
	return Fine
}

// idle reports whether nothing is worth to be remembered.
func (q *suspicions) idle() bool {
	return len(q.suspects) == 0 && q.buffered == bufferEmpty && q.doubt == nil && q.reads == reads{}
}

// judgedBytes bounds what is judged while a lock is held.
const judgedBytes = 64 << 10

// judgeLocked judges packets that clients were sent, up to a number, and about this many bytes. It
// returns false if some are left.
func (s *Session) judgeLocked(to uint64, bytes int) (done bool) {
	judge := s.registry.limits().Judge
	to = min(to, s.log.sent, s.log.Last())
	if judge == nil || to <= s.log.Trimmed() {
		return true
	}
	if s.suspicions == nil {
		s.suspicions = &suspicions{}
	}
	q := s.suspicions
	q.judgedTo = max(q.judgedTo, s.log.Trimmed())
	for ; q.judgedTo < to; q.judgedTo++ {
		if bytes <= 0 {
			return false
		}
		p := s.log.At(q.judgedTo + 1)
		if p.Kind() == buffer.Dropped {
			continue
		}
		bytes -= len(p.Data())
		if v := judge(p.Data()); v != Fine {
			q.suspects = append(q.suspects, suspect{q.judgedTo + 1, v})
		}
	}
	return true
}

// judge judges everything that the client of a parked session was sent and did not confirm. It lets
// go of the session's lock now and then.
func (s *Session) judge() {
	for done := false; !done; {
		done = s.judgeSome()
	}
}

func (s *Session) judgeSome() (done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state != Parked || s.judgeLocked(s.log.sent, judgedBytes)
}

// suspiciousLocked combines the verdicts on packets up to a number that the client has not
// confirmed. They have been judged. Rules that the client is known not to have do not count. A
// packet that is not sent again counts as Undecodable: trying it would cost the client as much as
// closing its connection.
func (s *Session) suspiciousLocked(to uint64) (v Verdict) {
	if s.suspicions == nil {
		return Fine
	}
	for _, x := range s.suspicions.suspects {
		if x.seq > s.log.Trimmed() && x.seq <= to {
			v |= s.verdictLocked(x)
		}
	}
	return v
}

// verdictLocked is the Verdict on a suspect, as in suspiciousLocked.
func (s *Session) verdictLocked(x suspect) Verdict {
	v := x.verdict &^ s.suspicions.reads.rules
	if v == Fine || x.seq > s.log.Last() {
		return Fine
	}
	if !s.sentAgainLocked(x.seq) {
		return Undecodable
	}
	return v
}

// sentAgainLocked reports whether a packet that was sent before is part of a replay.
func (s *Session) sentAgainLocked(seq uint64) bool {
	k := s.log.At(seq).Kind()
	return k != buffer.Dropped && (k != buffer.AckRequested || s.registry.limits().ReplayAckRequested)
}

// Suspicious reports whether a packet up to this number was sent and not confirmed that is not judged
// Fine, or can not be judged any more because the session has ended.
func (c *Cursor) Suspicious(to uint64) bool {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursor != c {
		return false
	}
	s.judgeLocked(min(to, c.sent), math.MaxInt)
	return s.suspiciousLocked(min(to, c.sent)) != Fine || s.endedInFlight
}

// SuspiciousBinary reports whether a binary packet after from, up to to, was sent and not confirmed that is
// not judged Fine, unless the client is known to close its connection over what it cannot decode. What other
// clients are known to decode counts too: one that takes long to come back has seemed to.
func (c *Cursor) SuspiciousBinary(from, to uint64) bool {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	judge := s.registry.limits().Judge
	if s.cursor != c || judge == nil || s.suspicions != nil && s.suspicions.reads.closes {
		return false
	}
	for i := max(from, s.log.Trimmed()) + 1; i <= min(to, c.sent, s.log.Last()); i++ {
		p := s.log.At(i)
		if p.Attachments() != nil && p.Kind() != buffer.Dropped && judge(p.Data()) != Fine {
			return true
		}
	}
	return false
}

// ReplyHandled says that the client has handled the CONNECT reply, and with it the events that it
// had buffered. Its next CONNECT has the right offset.
func (c *Cursor) ReplyHandled() {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursor == c && s.suspicions != nil && s.suspicions.buffered != bufferEmpty {
		s.suspicions.buffered = bufferFlushed
	}
}

// finding is a session of a client that was sent packets which are not Fine, and not confirmed.
type finding struct {
	s       *Session
	verdict Verdict // on those that were in flight when it was parked
	by      uint64  // the handshake of the client that resumed it since; 0 while it is parked
}

// resumed notes which client has resumed a session. The registry's lock is held.
func (p *parking) resumed(s *Session, owner Owner) {
	for i := range p.found {
		if p.found[i].s == s {
			p.found[i].by = owner.Handshake()
		}
	}
}

// left notes that a session is not parked any more. One that ended, and had packets in flight that
// were not judged, counts as if it had been sent something Undecodable. The registry's lock is held.
func (p *parking) left(s *Session) {
	if s.state == Closed && s.inFlight && !p.judged && p.disconnect == nil {
		p.found = append(p.found, finding{s: s, verdict: Undecodable})
	}
}

// beside combines the verdicts on packets that were in flight in other sessions of the client when
// s was parked. The client may then have buffered events of s as well. If they were tried on
// another connection, they count as Undecodable: what this one decodes does not clear them.
// expected says that another session is about to be on trial. The registry's lock is held.
func (p *parking) beside(s *Session, owner Owner) (v Verdict, expected bool) {
	if p == nil || p.disconnect != nil {
		return Fine, false
	}
	if !p.judged {
		p.judged = true
		for _, o := range p.sessions {
			if v, suspicious := o.parkedVerdict(); suspicious {
				p.found = append(p.found, finding{s: o, verdict: v})
			}
		}
	}
	for _, f := range p.found {
		switch {
		case f.s == s:
		case f.s.parking == p, f.by == owner.Handshake():
			v |= f.verdict
			expected = true
		case f.verdict != Fine:
			v |= Undecodable
		}
	}
	return v, expected
}

// parkedVerdict returns the Verdict on what was in flight when the session was parked. suspicious
// says that this, or what was sent over an earlier connection, is not Fine.
func (s *Session) parkedVerdict() (v Verdict, suspicious bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.judgeLocked(s.log.sent, judgedBytes) // nothing is left, as a rule
	return s.suspiciousLocked(s.sentWhenParked), s.suspiciousLocked(s.log.sent) != Fine
}

// examineLocked looks for poison among the packets after from that were sent before. It drops those
// that no client can decode, and returns what to try on the client, or nil. beside is the Verdict on
// packets of its other sessions. s.mu is held, and the session is still parked.
func (s *Session) examineLocked(from uint64, beside Verdict) *Trial {
	if s.disconnect != nil || s.suspicions == nil && s.log.sent <= from {
		return nil // the client ignored what was in flight, after its DISCONNECT; or nothing was
	}
	if s.suspicions == nil {
		s.suspicions = &suspicions{}
	}
	q := s.suspicions
	defer func() {
		if q.idle() {
			s.suspicions = nil
		}
	}()
	s.judgeLocked(s.log.sent, judgedBytes) // nothing is left, as a rule
	q.suspects = slices.DeleteFunc(q.suspects, func(x suspect) bool { return x.seq <= from })
	q.advance(from)
	if q.buffered == bufferFlushed || s.log.sent <= from {
		q.buffered = bufferEmpty
	}
	carried := q.buffered != bufferEmpty
	ending := s.parking.ending
	q.reads.tooSlow(from, ending)
	to := min(s.sentWhenParked, s.log.Last())
	if to > from && ending != Lost {
		q.addFailure(from, to, ending)
	}
	doubtful := s.dropUndecodableLocked(from, to)
	if beside != Fine && s.log.hasOffsets(from, to) {
		q.buffered = max(q.buffered, bufferFor(beside))
	}
	return s.trialLocked(doubtful, carried)
}

// bufferFor says whether a client that was sent packets with this Verdict may have buffered events.
func bufferFor(v Verdict) bufferState {
	switch {
	case v&Undecodable != 0:
		return bufferFilled
	case v != Fine:
		return bufferUncertain
	}
	return bufferEmpty
}

// dropUndecodableLocked drops the suspects after from that no client can decode, and returns those that can be
// tried. The client was sent packets up to to over its last connection, and may have
// buffered those that came before a suspect.
func (s *Session) dropUndecodableLocked(from, to uint64) (doubtful []uint64) {
	q := s.suspicions
	buffered, lastSent := bufferEmpty, from
	for _, x := range slices.Clone(q.suspects) {
		v := s.verdictLocked(x)
		switch {
		case v == Fine:
			continue
		case !s.sentAgainLocked(x.seq):
			q.forget(x.seq)
		case v&Undecodable != 0:
			s.dropPoisonLocked(x.seq)
			if q.doubt != nil {
				q.doubt.failures = 0 // this one was the reason
			}
		default:
			doubtful = append(doubtful, x.seq)
		}
		if x.seq <= to {
			buffered, lastSent = max(buffered, bufferFor(v)), x.seq
		}
	}
	if s.log.hasOffsets(from, lastSent) {
		q.buffered = max(q.buffered, buffered)
	}
	return doubtful
}

// trialLocked returns what is to be tried on the client, or nil. carried says that the client had
// buffered events before its last connection, and did not handle them over it.
func (s *Session) trialLocked(doubtful []uint64, carried bool) *Trial {
	q := s.suspicions
	d := q.doubt
	t := &Trial{}
	if !q.reads.closes {
		t.Hold = max(q.reads.hold, holdTime)
	}
	if d != nil && d.narrowed {
		within := slices.DeleteFunc(slices.Clone(doubtful), func(seq uint64) bool { return seq <= d.from || seq > d.to })
		if len(within) > 0 {
			doubtful = within
		}
	}
	t.split(doubtful)
	t.Resync = q.buffered == bufferFilled || carried && len(doubtful) == 0
	t.Buffered = q.buffered != bufferEmpty
	switch {
	case len(doubtful) > 0, t.Resync, q.buffered != bufferEmpty:
		return t
	}
	if d != nil && d.ending == ClosedByClient {
		t.Hold = 0 // it may be the application that closed it, and it should not have to wait
	}
	t.search = true
	if t.split(s.searchLocked()); len(t.Units) == 0 {
		return nil
	}
	return t
}

// tooSlow notes that the client opened another connection after all, although it passed a Trial with
// Hold: that did not wait long enough.
func (r *reads) tooSlow(from uint64, ending Ending) {
	if r.heldAt == 1+from && ending == Overtaken {
		r.hold = min(2*max(r.hold, holdTime), maxHoldTime)
		r.rules = 0
	}
	r.heldAt = 0
}

// exportSuspicionsLocked returns what another process must know of a parked session. It judges the
// packets itself. The registry's lock is held too.
func (s *Session) exportSuspicionsLocked() *handover.Suspicions {
	q := suspicions{}
	if s.suspicions != nil {
		q = *s.suspicions
	}
	for _, f := range s.parking.found {
		if f.s != s && f.verdict != Fine && f.s.parking != s.parking && s.log.hasOffsets(s.log.Trimmed(), s.sentWhenParked) {
			q.buffered = bufferFilled // the other process does not find f
		}
	}
	if q.suspects = nil; q.idle() {
		return nil
	}
	out := &handover.Suspicions{
		Buffered: uint8(q.buffered), Poisons: q.reads.poisons, Rules: uint8(q.reads.rules), Closes: q.reads.closes,
		Hold: q.reads.hold, HeldAt: q.reads.heldAt,
	}
	if d := q.doubt; d != nil {
		out.Doubt = &handover.Doubt{
			From: d.from, To: d.to, Failures: d.failures, Ending: uint8(d.ending), Narrowed: d.narrowed,
			Alone: d.alone, Proof: d.proof,
		}
	}
	return out
}

func importSuspicions(in *handover.Suspicions) *suspicions {
	if in == nil {
		return nil
	}
	q := &suspicions{
		buffered: bufferState(min(in.Buffered, uint8(bufferFlushed))),
		reads: reads{
			poisons: in.Poisons, rules: Verdict(in.Rules) &^ Undecodable, closes: in.Closes,
			hold: min(in.Hold, maxHoldTime), heldAt: in.HeldAt,
		},
	}
	if d := in.Doubt; d != nil {
		q.doubt = &doubt{
			from: d.From, to: d.To, failures: d.Failures, ending: Ending(min(d.Ending, uint8(Overtaken))), narrowed: d.Narrowed,
			alone: d.Alone, proof: d.Proof,
		}
	}
	return q
}
