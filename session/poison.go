package session

import (
	"math"
	"slices"
	"time"

	"github.com/holdfast/holdfast/buffer"
)

// A poison packet is one that its client cannot decode. The client closes its connection, returns
// with the offset of an event before the packet, and would receive it again, forever.
//
// How connections end raises suspicion, and trials prove it. When the client returns, the suspects
// are first sent as packets of a namespace that it is not connected to: a Trial. A client that can
// decode them ignores them, so no handler runs and nothing is lost or duplicated. One that cannot
// closes the connection again, with nothing else in flight. See docs/adr/0008-poison-packets.md.
//
// This file has what clients use of it. suspicion.go has what a session knows, examine.go decides
// when a trial is needed, and doubt.go draws conclusions from how connections end.

// Ending is how a client's connection ended, as far as holdfast can see.
type Ending uint8

// Endings of a connection.
const (
	Lost           Ending = iota // by the network, a timeout, or this side
	ClosedByClient               // the client closed it
	Overtaken                    // the client opened another connection, and this one seemed open
	LeftOpen                     // the same, and its engine still answered here: it was left because of a packet
)

// byClient reports whether the client ended the connection, so that a packet may be the reason.
func (e Ending) byClient() bool { return e == ClosedByClient || e == LeftOpen }

// Verdict says which rules of clients a packet breaks, as far as its text shows. Each bit is a rule
// that some clients have.
type Verdict uint8

// Verdicts with a meaning here.
const (
	Fine        Verdict = 0
	Undecodable Verdict = 1 << 7 // no client can decode it
)

// Judge gives the Verdict on a packet as the server wrote it. It may be slow.
type Judge func(packet []byte) Verdict

const (
	// maxUnits bounds the units of a Trial, and maxUnitsHeld those of one that pauses after each
	// unit.
	maxUnits, maxUnitsHeld = 256, 2
)

// Strengths of the proof that a client ended its connection because of a unit.
const (
	// SureProof means that it can be no other packet: a client left its connection open after this
	// unit, and had received nothing else.
	SureProof = proofToDrop
	// GoodProof means that it received the whole unit, and closed before it did anything else.
	GoodProof = 4
	// FairProof means that it did so, and opened another connection before it closed this one. Or
	// it left this one open because of this unit, or of something earlier.
	FairProof = 2
	// WeakProof means that it may have been receiving the unit.
	WeakProof = 1
)

// Trial is a sequence of units to try on a client. Without Units and Resync, the session only waits
// for the trials of its siblings.
type Trial struct {
	// Units are sequence numbers of packets, for Cursor.Sample.
	Units [][]uint64
	// Resync says to close the connection after the trial. With the CONNECT reply the client
	// handles events that it had buffered, and only its next CONNECT tells which.
	Resync bool
	// Buffered says that the client may have buffered events of this session.
	Buffered bool
	// Siblings is how many other sessions of the client are still parked, with packets in flight,
	// or with suspects. It may have buffered events of theirs too, so it must receive the replies
	// to their CONNECTs first. And nothing else may be in flight during their trials.
	Siblings int
	// Hold is not zero if the client may confirm what it cannot decode, because its connection
	// survives the error. Send one unit at a time, and wait so long after each to see whether it
	// opens another connection.
	Hold time.Duration
	// Narrowed says that a client failed with these units before. They should come first: without
	// anything in front of them the proof is better.
	Narrowed bool

	search bool // the units are judged Fine
}

// split divides suspects into the trial's units.
func (t *Trial) split(suspects []uint64) {
	units := maxUnits
	if t.Hold > 0 {
		units = maxUnitsHeld
	}
	if len(suspects) > 0 {
		t.Units = slices.Collect(slices.Chunk(suspects, (len(suspects)+units-1)/units))
	}
}

// first returns the number of the first packet in Units.
func (t *Trial) first() uint64 {
	first := t.Units[0][0]
	for _, unit := range t.Units {
		first = min(first, unit[0])
	}
	return first
}

// has reports whether a packet is among the trial's units.
func (t *Trial) has(seq uint64) bool {
	return slices.ContainsFunc(t.Units, func(unit []uint64) bool { return slices.Contains(unit, seq) })
}

// Suspicious reports whether a packet up to this number may be poison. Such a packet was sent, is
// not confirmed, and is not judged Fine. If the session has ended, every unconfirmed packet counts,
// because it cannot be judged any more.
func (c *Cursor) Suspicious(to uint64) bool {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursor != c {
		return false
	}
	to = min(to, c.sent)
	judgeLocked(s, to, math.MaxInt)
	return s.suspicions.verdictUpTo(to) != Fine || s.endedInFlight
}

// SuspiciousBinary reports whether a binary packet after from, up to to, may be poison, as
// Suspicious does. It returns false if the client is known to close its connection over what it
// cannot decode. What other clients are known to decode counts too: one that takes long to come
// back has seemed to decode it. It returns true for a session that has ended with packets in flight.
func (c *Cursor) SuspiciousBinary(from, to uint64) bool {
	return c.suspicious(from, to, func(p *buffer.Entry) bool { return p.Attachments() != nil })
}

// SuspiciousText is SuspiciousBinary for the text packets that looksOdd chooses.
func (c *Cursor) SuspiciousText(to uint64, looksOdd func(packet []byte) bool) bool {
	return c.suspicious(0, to, func(p *buffer.Entry) bool { return p.Attachments() == nil && looksOdd(p.Data()) })
}

// suspicious judges the packets after from, up to to, that choose returns true for.
func (c *Cursor) suspicious(from, to uint64, choose func(p *buffer.Entry) bool) bool {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	limits := s.registry.limits()
	if s.cursor != c || limits.Judge == nil || s.suspicions != nil && s.suspicions.reads.closes {
		return false
	}
	if s.endedInFlight {
		return true
	}
	for i := max(from, s.log.Trimmed()) + 1; i <= min(to, c.sent, s.log.Last()); i++ {
		p := s.log.At(i)
		if p.Kind() != buffer.Dropped && choose(p) && limits.Judge(p.Data()) != Fine {
			return true
		}
	}
	return false
}

// ReplyHandled says that the client has handled the CONNECT reply, and with it the events that it
// had buffered. Its next CONNECT has the right offset.
func (c *Cursor) ReplyHandled() {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if q := c.s.suspicions; c.s.cursor == c && q != nil {
		q.moveBuffered(bufferFlushed)
	}
}

// Sample passes the packets of a Trial's unit that are still in the log to fn. An entry is valid
// only during the call. The session's lock is held, so fn must not call back.
func (c *Cursor) Sample(unit []uint64, fn func(p *buffer.Entry)) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursor != c {
		return
	}
	for _, seq := range unit {
		if seq <= s.log.Trimmed() || seq > s.log.Last() {
			continue
		}
		if p := s.log.At(seq); p.Kind() != buffer.Dropped {
			fn(p)
		}
	}
}

// Passed says that the client decoded all units of a Trial, and of those of its other sessions. Its
// offset was right: it has buffered nothing.
func (c *Cursor) Passed(t *Trial) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if q := c.s.suspicions; c.s.cursor == c && q != nil {
		q.passed(t)
	}
}

// FailedLate says that the client has left its connection open although it had passed a Trial with
// Hold: of this packet alone, which was the first thing that it was sent over that connection, and
// the only one that was tried there. When it is back, its offset shows whether it has handled the
// packet since.
func (c *Cursor) FailedLate(seq uint64) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if q := c.s.suspicions; c.s.cursor == c && q != nil && c.s.keyed == nil && q.reads.heldAt == seq {
		q.reads.failedLate = true
	}
}

// Slow says that the client has left its connection open during a Trial with Hold, this long after
// its first unit or that of another session. It may have failed with any unit since: the next Trial
// must wait longer after the first.
func (c *Cursor) Slow(took time.Duration) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if q := c.s.suspicions; c.s.cursor == c && q != nil {
		q.reads.slower(took)
	}
}

// Inconclusive says that the client closed its connection during a Trial, but not because of a
// unit. Poison would make it close because of the unit each time.
func (c *Cursor) Inconclusive() {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if q := c.s.suspicions; c.s.cursor == c && q != nil && q.doubt != nil {
		q.doubt.proof = 0
	}
}

// Failed says that the client ended its connection when it was sent this unit of a Trial, after it
// had decoded everything before. ending says how.
func (c *Cursor) Failed(unit []uint64, proof int, ending Ending) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	q := c.s.suspicions
	if c.s.cursor != c || c.s.state != Live || q == nil || len(unit) == 0 {
		return
	}
	q.reads.closes = q.reads.closes || proof >= GoodProof && ending == ClosedByClient
	first, last := unit[0], unit[len(unit)-1]
	q.narrow(first, last, ending)
	if len(unit) == 1 {
		q.prove(first, proof)
	}
}
