package session

import (
	"math"
	"slices"

	"github.com/holdfast/holdfast/buffer"
)

// A poison packet is one that its client cannot decode. The client closes its connection, returns
// with the offset of an event before the packet, and would receive it again, forever.
//
// How connections end raises suspicion, and trials prove it. A client that closes its connection,
// or opens another one, while packets are unconfirmed causes a strike against these packets. When
// it returns, the suspects are first sent as packets of a namespace that it is not connected to: a
// Trial. A client that can decode them ignores them, so no handler runs and nothing is lost or
// duplicated. One that cannot closes the connection again, with nothing else in flight. See
// docs/adr/0008-poison-packets.md.

// Ending is how a client's connection ended, as far as holdfast can see.
type Ending uint8

// Endings of a connection.
const (
	Lost           Ending = iota // by the network, a timeout, or this side
	ClosedByClient               // the client closed it
	Overtaken                    // the client opened another connection, and this one seemed open
)

// Verdict says whether clients can decode a packet, as far as its text shows.
type Verdict uint8

// Verdicts on a packet.
const (
	Fine        Verdict = iota
	Doubtful            // some clients cannot decode it
	Undecodable         // no client can decode it
)

// Judge gives the Verdict on a packet as the server wrote it. It may be slow.
type Judge func(packet []byte) Verdict

const (
	// judgedBytes bounds what is judged when a session is resumed, because the registry's lock is
	// held.
	judgedBytes = 64 << 10
	// strikesToTry is how many strikes make suspects of packets that are judged Fine.
	strikesToTry = 2
	// A packet is poison after strikesToDrop strikes and proofToDrop proof from consecutive trials
	// of it alone. A client's second poison packet needs one strike fewer and half of the proof.
	strikesToDrop = 3
	proofToDrop   = 2 * GoodProof
	// maxUnits bounds the units of a Trial, and maxUnitsHeld those of one that pauses after each
	// unit.
	maxUnits, maxUnitsHeld = 8, 2
)

// doubt is the state of a search for poison. It begins with the first strike. It ends when the
// suspects have arrived, proved decodable, or were dropped.
type doubt struct {
	from, to uint64 // the suspects: from < seq <= to
	end      uint64 // the greatest number that to had
	strikes  int    // against all of them
	ending   Ending // of the connection at the last strike
	judged   bool   // the Doubtful ones have passed a trial

	alone uint64 // the packet that was last tried alone, and the proof against it
	proof int
}

// reads is what trials have shown about a session's clients.
type reads struct {
	poisons  int32 // packets dropped
	doubtful bool  // they decode Doubtful packets
}

// Trial is a sequence of units to try on a client. It is sent each unit after it confirmed the one
// before. Without Units and Resync, the session only waits for the trials of its siblings.
type Trial struct {
	// Units are sequence numbers of packets, for Cursor.Sample.
	Units [][]uint64
	// Resync says to close the connection once the CONNECT reply is confirmed. With the reply the
	// client handles events that it had put aside, and only its next CONNECT tells which.
	Resync bool
	// Siblings is how many other sessions of the client are still parked, with packets in flight. It
	// may have put events of theirs aside too, so it must receive the replies to their CONNECTs first.
	Siblings int
	// Hold says that this client may confirm what it cannot decode, because its connection survives
	// the error. Wait after each unit to see whether it opens another one.
	Hold bool
	// Vary says to send units at random times. Something else that ends the connection is then
	// unlikely to hit the same packet again.
	Vary bool
}

// examineLocked looks for poison among the packets after from that were sent before. It drops those
// that no client can decode, and returns what to try on the client, or nil. s.mu is held, and the
// session is still parked.
func (s *Session) examineLocked(from uint64) *Trial {
	if s.doubt == nil && s.sent <= from || s.disconnect != nil {
		return nil // nothing was in flight, or the client ignored it after its DISCONNECT
	}
	s.advanceLocked(from)
	to := min(s.sentWhenParked, s.log.Last())
	ending := s.parking.ending
	switch {
	case to <= from:
	case ending != Lost:
		s.strikeLocked(from, to, ending)
	case s.doubt == nil:
		// No strike. But the network may have failed just after the client closed, with events put aside.
		s.doubt = &doubt{from: from, to: to, end: to}
	}
	doubtful, resync := s.judgeLocked(from)
	if d := s.doubt; d != nil && d.strikes == 0 && len(doubtful) == 0 && !resync {
		s.doubt = nil
	}
	d := s.doubt
	if d == nil {
		return nil
	}
	t := &Trial{Hold: d.ending == Overtaken, Vary: d.strikes >= strikesToTry}
	switch {
	case resync:
		t.Resync = true
	case len(doubtful) > 0 && !d.judged && !s.reads.doubtful:
		t.Units = t.split(doubtful)
	case d.strikes >= strikesToTry:
		t.Units = t.split(s.suspectsLocked())
	}
	if t.Units == nil && !t.Resync {
		return nil
	}
	return t
}

// suspicion is what the Judge says about the packets that were in flight when a session was parked.
type suspicion uint8

const (
	unknown suspicion = iota // it was not asked yet
	harmless
	suspicious
)

// suspiciousBeside reports whether a packet in flight in a parked sibling of s may be poison. The
// client may then have put events of s aside as well. The registry's lock is held.
func (p *parking) suspiciousBeside(s *Session) bool {
	if p == nil || !s.inFlight {
		return false
	}
	for _, o := range p.sessions {
		if o == s || !o.inFlight {
			continue
		}
		if o.suspicion == unknown {
			o.suspicion = o.suspect()
		}
		if o.suspicion == suspicious {
			return true
		}
	}
	return false
}

func (s *Session) suspect() suspicion {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.suspiciousLocked(s.sent, judgedBytes) {
		return suspicious
	}
	return harmless
}

// suspiciousLocked reports whether the Judge finds a packet up to a number not Fine. It looks at
// this many bytes at most.
func (s *Session) suspiciousLocked(to uint64, bytes int) bool {
	l := s.registry.limits()
	if l.Judge == nil {
		return false
	}
	for i := s.log.Trimmed() + 1; i <= min(to, s.log.Last()); i++ {
		p := s.log.At(i)
		if p.Kind() == buffer.Dropped {
			continue
		}
		if bytes -= len(p.Data()); bytes < 0 {
			return false
		}
		if l.Judge(p.Data()) != Fine {
			return true
		}
	}
	return false
}

// advanceLocked ends the search if the client has received the suspects.
func (s *Session) advanceLocked(from uint64) {
	if d := s.doubt; d != nil {
		d.from = max(d.from, from)
		if d.from >= d.to {
			s.doubt = nil
		}
	}
}

// strikeLocked counts a strike against the packets after from, up to to.
func (s *Session) strikeLocked(from, to uint64, ending Ending) {
	d := s.doubt
	if d == nil || max(d.from, from) >= min(d.to, to) {
		s.doubt = &doubt{from: from, to: to, end: to, strikes: 1, ending: ending}
		return
	}
	d.from, d.to, d.end = max(d.from, from), min(d.to, to), max(d.end, to)
	d.strikes++
	d.ending = ending
}

// judgeLocked judges the packets after from that were sent before, and drops those that no client
// can decode. It returns the Doubtful suspects. resync reports whether the client may have put
// events aside that came before a dropped packet.
func (s *Session) judgeLocked(from uint64) (doubtful []uint64, resync bool) {
	l := s.registry.limits()
	if l.Judge == nil {
		return nil, false
	}
	bytes, withOffset := 0, false
	for i := from + 1; i <= min(s.sent, s.log.Last()); i++ {
		p := s.log.At(i)
		if p.Kind() == buffer.Dropped || p.Kind() == buffer.AckRequested && !l.ReplayAckRequested {
			continue // not sent again
		}
		if bytes += len(p.Data()); bytes > judgedBytes {
			break
		}
		switch l.Judge(p.Data()) {
		case Undecodable:
			if s.doubt != nil {
				s.doubt.strikes = 0 // they were against this one
				resync = resync || withOffset || s.parking.inFlight > 1
			}
			s.dropPoisonLocked(i)
			continue
		case Doubtful:
			// It may stand behind what the earlier strikes were against.
			if d := s.doubt; d != nil && d.from < i && i <= max(d.to, s.sentWhenParked) {
				doubtful = append(doubtful, i)
			}
		case Fine:
		}
		withOffset = withOffset || p.Kind() == buffer.WithOffset
	}
	return doubtful, resync
}

// suspectsLocked returns the numbers of the suspects.
func (s *Session) suspectsLocked() (suspects []uint64) {
	ackRequested := s.registry.limits().ReplayAckRequested
	for i := max(s.doubt.from, s.log.Trimmed()) + 1; i <= min(s.doubt.to, s.log.Last()); i++ {
		if k := s.log.At(i).Kind(); k != buffer.Dropped && (k != buffer.AckRequested || ackRequested) {
			suspects = append(suspects, i)
		}
	}
	return suspects
}

// split divides suspects into the trial's units.
func (t *Trial) split(suspects []uint64) [][]uint64 {
	units := maxUnits
	if t.Hold {
		units = maxUnitsHeld
	}
	if len(suspects) == 0 {
		return nil
	}
	return slices.Collect(slices.Chunk(suspects, (len(suspects)+units-1)/units))
}

// dropPoisonLocked drops a packet for good. Its number stays.
func (s *Session) dropPoisonLocked(seq uint64) {
	p := s.log.At(seq)
	if p.Kind() == buffer.AckRequested {
		s.ackRequested--
	}
	s.registry.observer.Poisoned(s, p)
	s.log.Drop(seq)
	s.reads.poisons++
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

// Suspicious reports whether a packet up to this number was sent and is not judged Fine.
func (c *Cursor) Suspicious(to uint64) bool {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cursor == c && s.suspiciousLocked(min(to, c.sent), math.MaxInt)
}

// Decoded says that the client decoded all units of a Trial.
func (c *Cursor) Decoded(t *Trial) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.doubt
	if s.cursor != c || d == nil || len(t.Units) == 0 {
		return
	}
	tried := 0
	for _, u := range t.Units {
		tried += len(u)
	}
	if tried == len(s.suspectsLocked()) {
		s.doubt = nil // it was something else
		return
	}
	d.judged, s.reads.doubtful = true, true
}

// Strengths of the proof that a client closed its connection because of a unit.
const (
	// GoodProof means that it received the whole unit, and closed before it did anything else.
	GoodProof = 4
	// FairProof means that it closed at about the time when it received the unit.
	FairProof = 2
	// WeakProof means that it may have been receiving the unit.
	WeakProof = 1
)

// Unproven says that the client closed its connection during a Trial, but not because of a unit.
// Poison would make it close because of the unit each time.
func (c *Cursor) Unproven() {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if d := c.s.doubt; c.s.cursor == c && d != nil {
		d.proof = 0
	}
}

// Choked says that the client closed its connection when it was sent this unit of a Trial, after it
// had confirmed everything before.
func (c *Cursor) Choked(unit []uint64, proof int) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.doubt
	if s.cursor != c || s.state != Live || d == nil || len(unit) == 0 {
		return
	}
	d.from, d.to = unit[0]-1, unit[len(unit)-1]
	d.strikes++
	if len(unit) > 1 {
		return
	}
	seq := unit[0]
	if d.alone != seq {
		d.alone, d.proof = seq, 0
	}
	d.proof += proof
	strikes, enough := strikesToDrop, proofToDrop
	if s.reads.poisons > 0 {
		strikes, enough = strikes-1, enough/2
	}
	if d.strikes < strikes || d.proof < enough || seq <= s.log.Trimmed() || seq > s.log.Last() {
		return
	}
	s.dropPoisonLocked(seq)
	// The first strike was against everything that was in flight then.
	*d = doubt{from: seq, to: d.end, end: d.end, strikes: 1, ending: d.ending}
	s.advanceLocked(s.log.Trimmed())
}
