package proxy

import (
	"slices"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

const (
	// trialNamespace is one that no client is connected to.
	trialNamespace = "/holdfast-can-you-decode-this"
	// siblingTime is how long a client has to connect its other namespaces.
	siblingTime = 2 * time.Second
)

// trialPhase is how far a trial is:
//
//	settling   -> confirming         everything else that waited for the client was written
//	confirming -> settling           replies to further CONNECTs must be handled too
//	confirming -> awaiting           the client has handled all of it
//	awaiting   -> settling           it has connected another namespace
//	awaiting   -> sending            it has connected all of them, or its time is up
//	sending    -> inFlight           the units were written, or with Hold one of them
//	inFlight   -> lingering          the client has handled it
//	lingering  -> sending            it did not come back over another connection
//	sending, inFlight, lingering -> closing  all units passed, but its next CONNECT must tell its offset
//	any        -> over               all units passed; terminal, like closing
//
// A client that handles nothing any more does not answer the heartbeat either, so its connection
// ends.
type trialPhase uint8

const (
	settling trialPhase = iota
	confirming
	awaiting
	sending
	inFlight
	lingering
	closing
	over
)

// trials find out whether a client can decode the suspects of sessions that it has just resumed.
// Until then no session's packets are sent: the client may have buffered events of all namespaces
// when it closed its connection. It handles them with the replies to its CONNECTs, and tells of it
// with the next ones.
type trials struct {
	s   *sender // immutable
	end aborter // immutable

	// Guarded by s.mu.
	list []*trial
	held []item // packets to send afterwards
}

// aborter is a client, as trials see it.
type aborter interface {
	abort(why reason.Reason)
}

// trial is the trial of one session. Those of a client take place one after the other. s.mu guards
// it.
type trial struct {
	*session.Trial
	sessions int // how many the client has when all siblings are back
	cur      *session.Cursor
	phase    trialPhase
	missing  bool   // not all siblings came back
	unit     int    // the first of Units that was not written
	upTo     uint64 // the sender.count that must be confirmed
	alone    bool   // the client had been sent no session's packets before
	probes   []probe
	wrote    instant.Instant // when the last unit was
	took     time.Duration   // until it was handled
	sign     *sign           // nil until another connection is about to take over
	timer    *time.Timer     // nil, or ends the phase
}

func (t *trial) stopTimer() {
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
}

// judge is the session.Judge.
func judge(packet []byte) session.Verdict {
	switch d := socketio.CheckDecodable(packet); d {
	case socketio.Decodable:
		return session.Fine
	case socketio.Undecodable:
		return session.Undecodable
	default:
		return session.Verdict(d)
	}
}

// startLocked begins a trial, after those of other sessions.
func (ts *trials) startLocked(cur *session.Cursor, t *session.Trial) {
	ts.s.byPong = true
	if !ts.s.conn.sock.NumbersPings() {
		t.Units = nil // it cannot show that it has decoded them
	}
	ts.list = append(ts.list, &trial{Trial: t, cur: cur, sessions: len(ts.s.conn.sessions.all()) + t.Siblings, alone: !ts.s.wrote})
}

// takeQueuedLocked takes the packets of sessions out of the sender's queue.
func (ts *trials) takeQueuedLocked() {
	s := ts.s
	pending := s.pending[s.head:]
	s.pending, s.head = nil, 0
	for _, it := range pending {
		if it.cur != nil {
			ts.held = append(ts.held, it)
		} else {
			s.pending = append(s.pending, it)
		}
	}
}

// holdBackLocked keeps packets until the trials have ended.
func (ts *trials) holdBackLocked(cur *session.Cursor, n int) {
	if last := len(ts.held) - 1; last >= 0 && ts.held[last].cur == cur {
		ts.held[last].n += n
		return
	}
	ts.held = append(ts.held, item{cur: cur, n: n})
}

// currentLocked returns the trial that is under way, or nil.
func (ts *trials) currentLocked() *trial {
	for _, t := range ts.list {
		if t.phase != over {
			return t
		}
	}
	return nil
}

// settlingLocked reports whether the client is sent everything else first.
func (ts *trials) settlingLocked() bool {
	t := ts.currentLocked()
	return t == nil || t.phase == settling || t.phase == awaiting
}

// sendsLocked reports whether the next fill writes a unit.
func (ts *trials) sendsLocked() bool {
	t := ts.currentLocked()
	return t != nil && t.phase == sending
}

// awaitsLocked reports whether a ping is needed. Units have pings of their own.
func (ts *trials) awaitsLocked() bool {
	t := ts.currentLocked()
	return t != nil && t.phase == confirming && ts.s.mark < t.upTo || ts.wantsSignLocked()
}

// fillLocked writes units if it is time for it. It reports whether the rest may be written.
func (ts *trials) fillLocked() bool {
	if ts.s.conn.state == clientDraining {
		ts.discardBufferedLocked()
		ts.endAllLocked()
		return true
	}
	for ts.sendsLocked() && ts.s.enc.Len() < ts.s.maxBytes {
		ts.writeUnitLocked(ts.currentLocked())
	}
	return ts.settlingLocked()
}

// writtenLocked continues when everything else that waited for the client was written: it must be
// handled.
func (ts *trials) writtenLocked() {
	s := ts.s
	t := ts.currentLocked()
	if t == nil || t.phase != settling || s.head < len(s.pending) {
		return
	}
	t.upTo = s.count
	ts.enterLocked(t, confirming, 0)
	ts.confirmedLocked()
}

// confirmedLocked continues if what a trial waits for has been handled.
func (ts *trials) confirmedLocked() {
	s := ts.s
	t := ts.currentLocked()
	switch {
	case t == nil || s.confirmed < t.upTo:
	case t.phase == confirming && s.head < len(s.pending):
		ts.enterLocked(t, settling, 0)
	case t.phase == confirming:
		for _, cur := range s.conn.sessions.all() {
			cur.ReplyHandled()
		}
		ts.enterLocked(t, awaiting, siblingTime)
		ts.connectedLocked()
	case t.phase == inFlight && t.Hold > 0:
		t.took = instant.Since(t.wrote)
		ts.enterLocked(t, lingering, t.Hold)
	case t.phase == inFlight:
		ts.nextUnitLocked(t)
	}
}

// connectedLocked continues unless the client still has other sessions to resume.
func (ts *trials) connectedLocked() {
	s := ts.s
	t := ts.currentLocked()
	switch {
	case t == nil || t.phase != awaiting:
	case s.head < len(s.pending):
		ts.enterLocked(t, settling, 0)
	case t.missing || len(s.conn.sessions.all()) >= t.sessions:
		ts.nextUnitLocked(t)
	}
}

// nextUnitLocked continues with the next unit. After the last it ends the trial, or the connection
// if the client's offset must be known first.
func (ts *trials) nextUnitLocked(t *trial) {
	switch {
	case t.unit < len(t.Units):
		ts.enterLocked(t, sending, 0)
	case t.Resync, t.missing && t.Buffered && len(t.Units) == 0:
		ts.enterLocked(t, closing, 0)
		ts.s.conn.sock.AfterFunc(0, func() { ts.end.abort(reason.TransportClose) })
	default:
		ts.endLocked(t)
	}
}

// enterLocked is the only place where a trial's phase changes. Unless d is 0, the phase ends after
// d.
func (ts *trials) enterLocked(t *trial, p trialPhase, d time.Duration) {
	t.stopTimer()
	t.phase = p
	if d > 0 {
		t.timer = ts.s.conn.sock.AfterFunc(d, func() { ts.onTimer(t, p) }) // stopped by the next phase, or sender.close
	}
}

// onTimer ends a phase whose time is up.
func (ts *trials) onTimer(t *trial, p trialPhase) {
	ts.timeout(t, p)
	ts.s.conn.sock.Wake()
}

func (ts *trials) timeout(t *trial, p trialPhase) {
	s := ts.s
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.conn.state == clientClosed || t.phase != p:
	case p == awaiting:
		t.missing = true
		ts.connectedLocked()
	case p == lingering:
		ts.nextUnitLocked(t)
	}
}

// endLocked ends a trial. After the last, all sessions continue.
func (ts *trials) endLocked(t *trial) {
	ts.enterLocked(t, over, 0)
	if ts.currentLocked() != nil {
		ts.writtenLocked()
		return
	}
	for _, t := range ts.list {
		t.cur.Passed(t.Trial)
	}
	ts.endAllLocked()
}

// discardBufferedLocked discards the packets of sessions whose client may have buffered events. The
// connection is about to end, and it is too late to find out: they might come twice.
func (ts *trials) discardBufferedLocked() {
	ts.held = slices.DeleteFunc(ts.held, func(it item) bool {
		buffered := slices.ContainsFunc(ts.list, func(t *trial) bool { return t.cur == it.cur && t.Buffered })
		if buffered {
			it.cur.Read(it.n, discarded{})
		}
		return buffered
	})
}

// discarded is a session.Emitter that discards packets.
type discarded struct{}

// Emit implements session.Emitter.
func (discarded) Emit(*buffer.Entry, session.Offset, bool) bool { return true }

// endAllLocked ends all trials, and continues with the sessions.
func (ts *trials) endAllLocked() {
	ts.stopLocked()
	ts.s.trials = nil
	for _, it := range ts.held {
		ts.s.pushLocked(it.cur, it.n)
	}
}

// dropLocked ends the trial of a session that the client leaves.
func (ts *trials) dropLocked(cur *session.Cursor) {
	for i, t := range ts.list {
		if t.cur == cur {
			ts.list = slices.Delete(ts.list, i, i+1)
			ts.endLocked(t)
			return
		}
	}
}

func (ts *trials) stopLocked() {
	for _, t := range ts.list {
		t.stopTimer()
	}
}
