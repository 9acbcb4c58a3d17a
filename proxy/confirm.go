package proxy

import (
	"math"
	"slices"
	"time"

	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/session"
)

const (
	// leastInFlight is the lowest limit, for slow clients. It is small, because a ping must not
	// wait long behind data.
	leastInFlight = 32 << 10
	// A ping is sent ahead of the interval once confirmBytes were written since the last one, and
	// confirmSpacing has passed.
	confirmBytes   = 16 << 10
	confirmSpacing = 50 * time.Millisecond
	// After maxUnconfirmedBytes it is sent however recent the last one was.
	maxUnconfirmedBytes = 4 * confirmBytes
)

// newMark identifies everything sent so far. engineio.Handler describes it.
func (s *sender) newMark() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idleMark = s.mark == s.count && len(s.written) == 0
	s.mark = s.count
	s.markTime = instant.Now()
	s.sinceMark = 0
	s.confirmSoon = false
	s.pingedLocked()
	return s.mark
}

// wantsConfirmLocked reports whether to send a ping ahead of the interval.
func (s *sender) wantsConfirmLocked() bool {
	switch {
	case s.confirmSoon:
		return true
	case s.sinceMark >= min(s.limit/2, maxUnconfirmedBytes):
		return true
	case s.sinceMark >= confirmBytes && instant.Since(s.markTime) >= confirmSpacing:
		return true
	case s.trials != nil && s.trials.awaitsLocked(), s.wantsSignLocked():
		return true
	}
	// A client with a key gets again what it has not confirmed.
	return s.sinceMark > 0 && (s.conn.isKeyed() || s.pausesLink())
}

// pausesLink reports whether a link is paused because of what this client has not confirmed.
func (s *sender) pausesLink() bool {
	for e := s.conn.sessions.first.Load(); e != nil; e = e.next {
		if e.value.ReadPaused() {
			return true
		}
	}
	return false
}

// unconfirmed looks for events that ask for an acknowledgement. They have no offset, and only their
// answer, or a ping, shows that they have arrived. engineio.Handler describes it.
func (s *sender) unconfirmed() (pending, overdue bool) {
	for e := s.conn.sessions.first.Load(); e != nil; e = e.next {
		p, o := e.value.Unanswered()
		pending, overdue = pending || p, overdue || o
	}
	return pending, overdue
}

// confirm handles that everything up to the mark has arrived.
func (s *sender) confirm(mark uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, arrived := 0, 0
	before := s.confirmed
	for n < len(s.written) && s.written[n].count <= mark {
		w := &s.written[n]
		s.confirmLocked(w, w.count-min(before, w.count))
		before = w.count
		arrived += w.bytes
		n++
	}
	s.bytes -= arrived
	s.written = slices.Delete(s.written, 0, n) // clears the tail, so that no cursor keeps a session alive
	s.confirmed = max(s.confirmed, mark)
	s.replies.confirmed(mark)
	s.conn.disconnects.confirmed(s.confirmed, len(s.written) == 0)
	if mark == s.mark {
		s.pongedLocked()
	}
	if s.trials != nil {
		s.trials.confirmedLocked()
	}
	if mark == s.mark && arrived > 0 {
		took := instant.Since(s.markTime)
		s.conn.deps.metrics.ConfirmDuration.Observe(took.Seconds())
		s.adaptLocked(arrived, took)
	}
	if s.idleMark && len(s.written) == 0 && s.head == len(s.pending) {
		s.written, s.pending, s.head = nil, nil, 0
		for e := s.conn.sessions.first.Load(); e != nil; e = e.next {
			e.value.Idle()
		}
	}
}

// adaptLocked sets the limit on bytes in flight according to how fast some arrived.
func (s *sender) adaptLocked(arrived int, took time.Duration) {
	telling := arrived >= s.limit/4 // with less in flight the client was partly idle
	if !telling && took <= s.within {
		return
	}
	fits := int(float64(arrived) / max(took.Seconds(), 1e-6) * s.within.Seconds())
	s.limit = min(max(fits, leastInFlight), 2*s.limit, s.window)
}

// confirmLocked tells a session that packets have arrived, immediately or later.
func (s *sender) confirmLocked(w *written, packets uint64) {
	size := w.bytes + int(packets)*lagOverhead
	lags := s.lagsLocked(w)
	var v verdict
	if lags {
		v = s.verdictLocked(w)
	}
	if !lags || size > s.lagLimit() && v != lagSuspect {
		s.endLagLocked()
		w.cur.Confirm(w.last)
		return
	}
	if s.lag == nil {
		l := new(lag)
		l.timer = s.conn.sock.AfterFunc(lagTime, func() { s.onLagTimer(l) }) // stopped by endLagLocked, or close
		s.lag = l
	}
	s.lag.addLocked(lagged{cur: w.cur, last: w.last, size: size, time: instant.Now(), verdict: v})
	s.lag.releaseLocked(s.lagLimit())
}

// verdictLocked returns what is known of packets that begin to lag.
func (s *sender) verdictLocked(w *written) verdict {
	switch {
	case s.conn.keyed != nil:
		return lagHarmless
	case s.triedRecentlyLocked(), s.lag.suspectsLocked(w.cur, w.last):
		return lagSuspect
	}
	return lagUnjudged
}

// lagsLocked reports whether the confirmation of these packets has to wait. A client with a key
// does not say what it has handled, and would get it again. So only packets wait that it may be
// unable to decode: it may have left its connection open, which confirms them all the same.
func (s *sender) lagsLocked(w *written) bool {
	switch {
	case s.conn.disconnects != nil, !s.conn.recoverable:
		return false
	case s.conn.keyed != nil:
		return w.cur.Suspicious(w.last)
	}
	return true
}

// endLagLocked confirms everything that lags.
func (s *sender) endLagLocked() {
	if s.lag == nil {
		return
	}
	s.lag.releaseLocked(0)
	s.lag.timer.Stop()
	s.lag = nil
}

// onLagTimer confirms what has lagged for long enough.
func (s *sender) onLagTimer(l *lag) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn.state == clientClosed || s.lag != l {
		return // settleLag decides, or nothing lags any more
	}
	l.releaseLocked(s.lagLimit())
	if !l.nextLocked() {
		s.lag = nil // most clients do not need it again soon
	}
}

// lagLimit returns how many bytes may lag.
func (s *sender) lagLimit() int {
	if s.conn.deps.budget.Exceeded() {
		return scarceLagBytes
	}
	most := pollingLagBytes
	switch {
	case s.lag != nil && s.lag.suspects > 0:
		most = suspectBytes
	case s.conn.transport.isWebSocket():
		most = webSocketLagBytes
	}
	return min(most, s.window/4)
}

// settleLag confirms everything that lags when the client is gone, unless it may not have decoded
// that. If it has, it may have buffered events, and will handle them although its offset lies
// before them: they must not be sent again.
func (s *sender) settleLag(cursors []*session.Cursor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	suspicious := func(cur *session.Cursor) bool { return cur.Suspicious(math.MaxUint64) }
	if s.lag != nil && s.lag.suspects == 0 && !s.gaveSignLocked() && !slices.ContainsFunc(cursors, suspicious) {
		s.lag.releaseLocked(0)
	}
}
