package session

import (
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
// This file has what trials show. suspicion.go decides when one is needed.

// Ending is how a client's connection ended, as far as holdfast can see.
type Ending uint8

// Endings of a connection.
const (
	Lost           Ending = iota // by the network, a timeout, or this side
	ClosedByClient               // the client closed it
	Overtaken                    // the client opened another connection, and this one seemed open
)

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
	// failuresToSearch is how many connections must have ended with the same packets in flight
	// before packets that are judged Fine are tried, if other connections overtook them. Networks
	// do that too. If the client closed its connection, one suffices for up to searchBytes.
	failuresToSearch = 2
	searchBytes      = 64 << 10
	// A packet is poison after proofToDrop from consecutive trials of it alone. A client's second
	// poison packet needs half of that. At least one of the proofs must be a GoodProof.
	proofToDrop = 2 * GoodProof
	// maxUnits bounds the units of a Trial, and maxUnitsHeld those of one that pauses after each
	// unit.
	maxUnits, maxUnitsHeld = 256, 2
	// holdTime is how long a client that leaves its connection open takes to open another one. The
	// default is a second, give or take a half. It doubles, up to maxHoldTime, with a client that
	// turned out to be slower.
	holdTime    = 2 * time.Second
	maxHoldTime = 30 * time.Second
)

// doubt is the state of a search for poison. It begins when a connection ends with packets in
// flight, or with the first Trial. It ends when they have arrived, proved decodable, or were
// dropped.
type doubt struct {
	from, to uint64 // the suspects: from < seq <= to
	failures int    // connections that ended with all of them in flight
	ending   Ending // of the last of these connections
	narrowed bool   // a Trial has shown that it is among from < seq <= to

	alone uint64 // the packet that was last tried alone, and the proof against it
	proof int
}

// reads is what trials have shown about a session's clients.
type reads struct {
	poisons int     // packets dropped
	rules   Verdict // that they do not have
	closes  bool    // they close the connection when they cannot decode a packet
	hold    time.Duration
	heldAt  uint64 // 1 + the offset with which a client passed a Trial with Hold; 0 if there was none
}

// Trial is a sequence of units to try on a client. Without Units and Resync, the session only waits
// for the trials of its siblings.
type Trial struct {
	// Units are sequence numbers of packets, for Cursor.Sample.
	Units [][]uint64
	// Resync says to close the connection after the trial. With the CONNECT reply the client handles
	// events that it had buffered, and only its next CONNECT tells which.
	Resync bool
	// Buffered says that the client may have buffered events of this session.
	Buffered bool
	// Siblings is how many other sessions of the client are still parked, with packets in flight, or
	// with suspects. It may have buffered events of theirs too, so it must receive the replies to
	// their CONNECTs first. And nothing else may be in flight during their trials.
	Siblings int
	// Hold is not zero if the client may confirm what it cannot decode, because its connection
	// survives the error. Send one unit at a time, and wait so long after each to see whether it
	// opens another connection.
	Hold time.Duration

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

// addFailure counts a connection that ended with the packets after from, up to to, in flight.
func (q *suspicions) addFailure(from, to uint64, ending Ending) {
	d := q.doubt
	if d == nil || max(d.from, from) >= min(d.to, to) {
		q.doubt = &doubt{from: from, to: to, failures: 1, ending: ending}
		return
	}
	d.from, d.to = max(d.from, from), min(d.to, to)
	d.failures++
	d.ending = ending
}

// advance ends the search if the client has received the suspects.
func (q *suspicions) advance(from uint64) {
	if d := q.doubt; d != nil {
		d.from = max(d.from, from)
		if d.from >= d.to {
			q.doubt = nil
		}
	}
}

// searchLocked returns the numbers of packets that are judged Fine and to be tried nevertheless.
func (s *Session) searchLocked() (suspects []uint64) {
	d := s.suspicions.doubt
	if d == nil || d.failures == 0 || d.ending != ClosedByClient && d.failures < failuresToSearch {
		return nil
	}
	bytes := 0
	for i := max(d.from, s.log.Trimmed()) + 1; i <= min(d.to, s.log.Last()); i++ {
		if s.sentAgainLocked(i) {
			suspects = append(suspects, i)
			bytes += len(s.log.At(i).Data())
		}
	}
	if bytes > searchBytes && d.failures < failuresToSearch {
		return nil
	}
	return suspects
}

// dropPoisonLocked drops a packet for good. Its number stays.
func (s *Session) dropPoisonLocked(seq uint64) {
	s.registry.observer.Poisoned(s, s.log.At(seq))
	s.log.dropPoison(seq)
	s.suspicions.forget(seq)
	s.suspicions.reads.poisons++
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
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.suspicions
	if s.cursor != c || q == nil {
		return
	}
	if !t.Resync {
		q.buffered = bufferEmpty
	}
	if t.Hold > 0 && len(t.Units) > 0 {
		q.reads.heldAt = 1 + c.sent
	}
	if t.search {
		q.doubt = nil // it was something else
		return
	}
	for _, unit := range t.Units {
		for _, seq := range unit {
			q.reads.rules |= q.verdict(seq)
		}
	}
}

// Strengths of the proof that a client ended its connection because of a unit.
const (
	// GoodProof means that it received the whole unit, and closed before it did anything else.
	GoodProof = 4
	// FairProof means that it did so, and opened another connection before it closed this one. Or it
	// left this one open because of this unit, or of an earlier one.
	FairProof = 2
	// WeakProof means that it may have been receiving the unit.
	WeakProof = 1
)

// Inconclusive says that the client closed its connection during a Trial, but not because of a unit.
// Poison would make it close because of the unit each time.
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
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.suspicions
	if s.cursor != c || s.state != Live || q == nil || len(unit) == 0 {
		return
	}
	q.reads.closes = q.reads.closes || proof >= GoodProof && ending == ClosedByClient
	first, last := unit[0], unit[len(unit)-1]
	d := q.doubt
	if d == nil || first <= d.from || last > d.to {
		d = &doubt{}
		q.doubt = d
	}
	d.from, d.to, d.narrowed, d.ending = first-1, last, true, ending
	d.failures++
	if len(unit) > 1 {
		return
	}
	if d.alone != first {
		d.alone, d.proof = first, 0
	}
	enough := proofToDrop
	if q.reads.poisons > 0 {
		enough /= 2
	}
	if proof < GoodProof { // networks do that too, again and again
		proof = max(0, min(proof, enough-GoodProof-d.proof))
	}
	d.proof += proof
	if d.proof >= enough && first > s.log.Trimmed() && first <= s.log.Last() {
		s.dropPoisonLocked(first)
		q.doubt = nil
	}
}
