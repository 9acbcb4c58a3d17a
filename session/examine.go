package session

import "slices"

// examineLocked looks for poison among the packets after from that were sent before. It drops those
// that no client can decode, and returns what to try on the client, or nil. beside is the Verdict
// on packets of its other sessions. s.mu is held, and the session is still parked.
func examineLocked(s *Session, from uint64, beside Verdict) *Trial {
	if s.parked.disconnected() || s.suspicions == nil && s.log.sent <= from {
		return nil // the client ignored what was in flight, after its DISCONNECT; or nothing was
	}
	if s.suspicions == nil {
		s.suspicions = &suspicions{s: s}
	}
	defer func() {
		if s.suspicions.idle() {
			s.suspicions = nil
		}
	}()
	judgeLocked(s, s.log.sent, judgedBytes) // nothing is left, as a rule
	return s.suspicions.examine(from, beside)
}

func (q *suspicions) examine(from uint64, beside Verdict) *Trial {
	s := q.s
	q.suspects = slices.DeleteFunc(q.suspects, func(x suspect) bool { return x.seq <= from })
	q.advance(from)
	if q.buffered == bufferFlushed || s.log.sent <= from {
		q.moveBuffered(bufferEmpty)
	}
	carried := q.buffered != bufferEmpty
	ending := s.parked.group.ending
	late := q.lateFailure(from)
	q.reads.tooSlow(from, ending, s.parked.since)
	to := min(s.parked.sent, s.log.Last())
	if to > from && ending != Lost {
		q.addFailure(from, to, ending)
	}
	if late > 0 {
		q.narrow(late, late, ending)
		q.addProof(late, q.enough()/2)
	}
	doubtful := q.dropUndecodable(from, to)
	if beside != Fine && s.log.hasOffsets(from, to) {
		q.moveBuffered(bufferAfter(beside))
	}
	return q.trial(doubtful, carried)
}

// dropUndecodable drops the suspects after from that no client can decode, and returns those that
// can be tried. The client was sent packets up to to over its last connection, and may have
// buffered those that came before a suspect.
func (q *suspicions) dropUndecodable(from, to uint64) (doubtful []uint64) {
	buffered, lastSent := bufferEmpty, from
	for _, x := range slices.Clone(q.suspects) {
		v := q.verdictNow(x)
		switch {
		case v == Fine:
			continue
		case !q.isSentAgain(x.seq):
			q.forget(x.seq)
		case v&Undecodable != 0:
			q.dropPoison(x.seq)
			if q.doubt != nil {
				q.doubt.failures = 0 // this one was the reason
			}
		default:
			doubtful = append(doubtful, x.seq)
		}
		if x.seq <= to {
			buffered, lastSent = max(buffered, bufferAfter(v)), x.seq
		}
	}
	if buffered != bufferEmpty && q.s.log.hasOffsets(from, lastSent) {
		q.moveBuffered(buffered)
	}
	return doubtful
}

// trial returns what to try on the client, or nil. carried says that the client had
// buffered events before its last connection, and did not handle them over it.
func (q *suspicions) trial(doubtful []uint64, carried bool) *Trial {
	d := q.doubt
	t := &Trial{}
	if !q.reads.closes {
		t.Hold = max(q.reads.hold, holdTime)
	}
	if d != nil && d.narrowed {
		within := slices.DeleteFunc(slices.Clone(doubtful), func(seq uint64) bool { return seq <= d.from || seq > d.to })
		if len(within) > 0 {
			doubtful, t.Narrowed = within, true
		}
	}
	t.split(doubtful)
	t.Resync = q.buffered == bufferFilled || carried && len(doubtful) == 0
	t.Buffered = q.buffered != bufferEmpty
	if len(doubtful) > 0 || t.Resync || t.Buffered {
		return t
	}
	if d != nil && d.ending == ClosedByClient {
		t.Hold = 0 // it may be the application that closed it, and it should not have to wait
	}
	t.search = true
	if t.split(q.search()); len(t.Units) == 0 {
		return nil
	}
	return t
}

// search returns the numbers of packets that are judged Fine and to be tried nevertheless.
func (q *suspicions) search() (suspects []uint64) {
	d, log := q.doubt, &q.s.log
	if d == nil || d.failures == 0 || !d.ending.byClient() && d.failures < failuresToSearch {
		return nil
	}
	bytes := 0
	for i := max(d.from, log.Trimmed()) + 1; i <= min(d.to, log.Last()); i++ {
		if q.isSentAgain(i) {
			suspects = append(suspects, i)
			bytes += len(log.At(i).Data())
		}
	}
	if bytes > searchBytes && d.failures < failuresToSearch {
		return nil
	}
	return suspects
}
