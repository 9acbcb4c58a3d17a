package session

import (
	"slices"

	"github.com/holdfast/holdfast/buffer"
)

// suspicions are what a session knows about packets that its clients may be unable to decode.
// Nearly all sessions have none. The session's lock guards them.
type suspicions struct {
	s        *Session  // immutable
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

// bufferState says whether the client has buffered events that it will handle with the next CONNECT
// reply. The offset of its next CONNECT is then too low, and only that of the CONNECT after it is
// right. Until then no event may be sent again.
//
//	empty             -> uncertain  a packet was in flight that some clients cannot decode
//	empty, uncertain  -> filled     it was one that no client can decode, or it is not sent again
//	uncertain, filled -> flushed    the client has handled a CONNECT reply
//	flushed           -> empty      it has connected again
//	any               -> empty      it has everything, or trials have shown that it can decode it
//	any               -> filled     a handover, which forgets that it was sent such a packet
type bufferState uint8

const (
	bufferEmpty bufferState = iota
	bufferUncertain
	bufferFilled
	bufferFlushed
)

// bufferAfter is the state of a client that was sent packets with this Verdict.
func bufferAfter(v Verdict) bufferState {
	switch {
	case v&Undecodable != 0:
		return bufferFilled
	case v != Fine:
		return bufferUncertain
	}
	return bufferEmpty
}

// moveBuffered is the only function that changes the state.
func (q *suspicions) moveBuffered(to bufferState) {
	switch {
	case to == bufferUncertain && q.buffered != bufferEmpty: // more is known
	case to == bufferFlushed && q.buffered == bufferEmpty: // there was nothing to handle
	default:
		q.buffered = to
	}
}

// judgedBytes bounds what is judged while a lock is held.
const judgedBytes = 64 << 10

// judgeParked judges everything that the client of a parked session was sent and did not confirm.
// It releases the session's lock now and then.
func judgeParked(s *Session) {
	for done := false; !done; {
		func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			done = s.state != Parked || judgeLocked(s, s.log.sent, judgedBytes)
		}()
	}
}

// judgeLocked judges packets that clients were sent, up to a number, and about this many bytes. It
// returns false if some are left. s.mu is held.
func judgeLocked(s *Session, to uint64, bytes int) (done bool) {
	judge := s.registry.limits().Judge
	to = min(to, s.log.sent, s.log.Last())
	if judge == nil || to <= s.log.Trimmed() {
		return true
	}
	if s.suspicions == nil {
		s.suspicions = &suspicions{s: s}
	}
	return s.suspicions.judge(judge, to, bytes)
}

func (q *suspicions) judge(judge Judge, to uint64, bytes int) (done bool) {
	log := &q.s.log
	q.judgedTo = max(q.judgedTo, log.Trimmed())
	for ; q.judgedTo < to; q.judgedTo++ {
		if bytes <= 0 {
			return false
		}
		p := log.At(q.judgedTo + 1)
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

// verdictUpTo combines the verdicts on packets up to a number that the client has not confirmed, as
// verdictNow gives them. They have been judged. q may be nil.
func (q *suspicions) verdictUpTo(to uint64) (v Verdict) {
	if q == nil {
		return Fine
	}
	for _, x := range q.suspects {
		if x.seq > q.s.log.Trimmed() && x.seq <= to {
			v |= q.verdictNow(x)
		}
	}
	return v
}

// verdictNow is the Verdict on a suspect. Rules that the client is known not to have do not count.
// A packet that is not sent again counts as Undecodable: trying it would cost the client as much as
// closing its connection.
func (q *suspicions) verdictNow(x suspect) Verdict {
	v := x.verdict &^ q.reads.rules
	if v == Fine || x.seq > q.s.log.Last() {
		return Fine
	}
	if !q.isSentAgain(x.seq) {
		return Undecodable
	}
	return v
}

// isSentAgain reports whether a packet that was sent before is part of a replay.
func (q *suspicions) isSentAgain(seq uint64) bool {
	k := q.s.log.At(seq).Kind()
	return k != buffer.Dropped && (k != buffer.AckRequested || q.s.registry.limits().ReplayAckRequested)
}

// forget removes a suspect.
func (q *suspicions) forget(seq uint64) {
	q.suspects = slices.DeleteFunc(q.suspects, func(x suspect) bool { return x.seq == seq })
}

// dropPoison drops a packet for good. Its number stays.
func (q *suspicions) dropPoison(seq uint64) {
	q.s.registry.observer.Poisoned(q.s, q.s.log.At(seq))
	q.s.log.dropPoison(seq)
	q.forget(seq)
	q.reads.poisons++
}

// idle reports whether nothing is worth remembering.
func (q *suspicions) idle() bool {
	return len(q.suspects) == 0 && q.buffered == bufferEmpty && q.doubt == nil && q.reads == reads{}
}
