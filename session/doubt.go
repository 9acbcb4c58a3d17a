package session

import (
	"time"

	"github.com/holdfast/holdfast/buffer"
)

const (
	// failuresToSearch is how many connections must end with the same packets in flight before
	// packets that are judged Fine are tried. This applies to connections that were overtaken,
	// because networks do that too. If the client closed its connection, one suffices for up to
	// searchBytes.
	failuresToSearch = 2
	searchBytes      = 64 << 10
	// A packet is poison after proofToDrop from consecutive trials of it alone. A client's second
	// poison packet needs half of that. At least one of the proofs must be a GoodProof.
	proofToDrop = 2 * GoodProof
	// holdTime is how long a client that leaves its connection open takes to open another one. The
	// default is a second, give or take a half. With a client that turned out to be slower it is
	// slowness times as long as that took, up to maxHoldTime: what one attempt took says little
	// more about the next one.
	holdTime    = 2 * time.Second
	maxHoldTime = 30 * time.Second
	slowness    = 3
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
	// heldAt is the first packet of the Trial with Hold that the latest client passed, or 0 if it
	// passed none.
	heldAt uint64
	since  time.Time // when that packet had been sent; zero if another process did that
	// failedLate says that this packet was all that was tried, and that the client has left its
	// connection open since.
	failedLate bool
}

// tooSlow notes that the client had left its connection open after all, although it passed a Trial
// with Hold: that did not wait long enough. from is the last packet that it has handled, and now is
// when it was back.
func (r *reads) tooSlow(from uint64, ending Ending, now time.Time) {
	if from < r.heldAt && ending == LeftOpen {
		took := time.Duration(0)
		if !r.since.IsZero() {
			took = now.Sub(r.since)
		}
		r.slower(took)
		r.rules = 0
	}
	r.heldAt, r.since, r.failedLate = 0, time.Time{}, false
}

// slower makes the next Trial wait longer: a client came back later than the last one waited, after
// the time took, or 0 if that is unknown.
func (r *reads) slower(took time.Duration) {
	r.hold = min(max(2*max(r.hold, holdTime), slowness*min(took, maxHoldTime)), maxHoldTime)
}

// lateFailure returns the packet that the client cannot have decoded, although its Trial had ended
// when it came back, or 0. from is the last packet that it has handled.
//
// The client left open a connection over which the Trial came first, and then this packet. So it
// failed with this packet or with a later one. In the latter case the packet is in its buffer. The
// client handles it with the next CONNECT reply, and returns the second time with an offset beyond
// it. Therefore two late failures are a proof.
func (q *suspicions) lateFailure(from uint64) uint64 {
	seq := q.reads.heldAt
	if !q.reads.failedLate || from+1 != seq || seq > q.s.log.Last() || q.s.log.At(seq).Kind() != buffer.WithOffset {
		return 0
	}
	return seq
}

// addFailure counts a connection that ended with the packets after from, up to to, in flight.
//
// A client before 4.8 may have passed a Trial only because it was slow. So what it seems to decode
// is tried again if it leaves connections without progress.
func (q *suspicions) addFailure(from, to uint64, ending Ending) {
	d := q.doubt
	if d == nil || !q.anySentAgain(max(d.from, from), min(d.to, to)) {
		q.doubt = &doubt{from: from, to: to, failures: 1, ending: ending}
		return
	}
	d.from, d.to = max(d.from, from), min(d.to, to)
	d.failures++
	d.ending = ending
	if ending == Overtaken && d.failures%failuresToSearch == 0 {
		q.reads.rules = 0
	}
}

// anySentAgain reports whether a packet after from, up to to, is part of a replay.
func (q *suspicions) anySentAgain(from, to uint64) bool {
	for i := max(from, q.s.log.Trimmed()) + 1; i <= min(to, q.s.log.Last()); i++ {
		if q.isSentAgain(i) {
			return true
		}
	}
	return false
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

// narrow notes that a connection ended because of one of the packets from first to last.
func (q *suspicions) narrow(first, last uint64, ending Ending) {
	d := q.doubt
	if d == nil || first <= d.from || last > d.to {
		d = &doubt{}
		q.doubt = d
	}
	d.from, d.to, d.narrowed, d.ending = first-1, last, true, ending
	d.failures++
}

// prove adds a proof that a packet, which was tried alone, is poison.
func (q *suspicions) prove(seq uint64, proof int) {
	if proof < GoodProof { // networks do that too, again and again
		proof = max(0, min(proof, q.enough()-GoodProof-q.proofOf(seq)))
	}
	q.addProof(seq, proof)
}

// enough returns how much proof is needed to drop a packet.
func (q *suspicions) enough() int {
	if q.reads.poisons > 0 {
		return proofToDrop / 2
	}
	return proofToDrop
}

// proofOf returns the proof against a packet so far.
func (q *suspicions) proofOf(seq uint64) int {
	if q.doubt.alone != seq {
		return 0
	}
	return q.doubt.proof
}

// addProof drops the packet when the proofs suffice.
func (q *suspicions) addProof(seq uint64, proof int) {
	d := q.doubt
	d.alone, d.proof = seq, q.proofOf(seq)+proof
	if log := &q.s.log; d.proof >= q.enough() && seq > log.Trimmed() && seq <= log.Last() {
		q.dropPoison(seq)
		q.doubt = nil
	}
}

// passed notes that the client has decoded all units of a Trial.
func (q *suspicions) passed(t *Trial) {
	if !t.Resync {
		q.moveBuffered(bufferEmpty)
	}
	if t.Hold > 0 && len(t.Units) > 0 {
		q.reads.heldAt = t.first()
		q.reads.since = time.Now().Add(-t.Hold * time.Duration(len(t.Units)))
	}
	if t.search {
		q.doubt = nil // it was something else
		return
	}
	for _, x := range q.suspects {
		if t.has(x.seq) {
			q.reads.rules |= x.verdict
		}
	}
}
