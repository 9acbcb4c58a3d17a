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

// trialState is how far the trials of a connection are:
//
//	            .----------.
//	            v          |
//	        settling -> confirming <-.
//	            ^          |         |
//	            |          v         |
//	            '------ awaiting ----'
//	                       |
//	                       v
//	 .----------------> sending -> settling, closing or over
//	 |                     |
//	 |                     v
//	 '---- lingering <- inFlight -> sending
//
//	settling   -> confirming  everything else that waited for the client was written
//	confirming -> settling    more of that came meanwhile, such as replies to further CONNECTs
//	confirming -> awaiting    the client has handled it
//	awaiting   -> settling    the client has connected another namespace
//	awaiting   -> sending     it has connected all of them, or its time is up
//	sending    -> inFlight    the next units were written
//	inFlight   -> sending     the client has handled them
//	inFlight   -> lingering   the same, after a unit with Hold
//	lingering  -> sending     the client did not come back over another connection in time
//	sending    -> settling    no unit is left, but another session was resumed meanwhile
//	sending    -> closing     no unit is left, but only the next CONNECT tells the client's offset
//	sending    -> over        no unit is left
//
// closing and over are terminal. A client that handles nothing any more does not answer the
// heartbeat either, so its connection ends.
type trialState uint8

const (
	settling trialState = iota
	confirming
	awaiting
	sending
	inFlight
	lingering
	closing
	over
)

// trials find out whether a client can decode the suspects of the sessions that it has just
// resumed. Until then no session's packets are sent: the client may have buffered events of all
// namespaces when it closed its connection. It handles them with the replies to its CONNECTs, and
// tells of it with the next ones.
type trials struct {
	s   *sender // immutable
	end aborter // immutable

	// Guarded by s.mu.
	state    trialState
	list     []*trial    // one for each session
	held     []item      // packets to send afterwards
	sessions int         // how many the client has when all siblings are back
	waited   bool        // long enough for them
	upTo     uint64      // the sender.count that must be confirmed
	timer    *time.Timer // nil, or ends the state
	entered  int         // states so far, for timers that are late

	units  []trialUnit // of all sessions
	next   int         // the first of units that was not written
	probes []probe     // of those that were
	flown  int         // how many probes were written when the state was inFlight last
	tried  tried       // over this connection, also by trials that have ended
}

// aborter is a client, as trials see it.
type aborter interface {
	abort(why reason.Reason)
}

// trial is the trial of one session.
type trial struct {
	*session.Trial
	cur    *session.Cursor
	queued bool // its units are among trials.units
}

// trialUnit is packets of one session that are sent together.
type trialUnit struct {
	*trial
	packets []uint64
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

// addLocked adds the trial of a session. If others are in progress, it follows them.
func (ts *trials) addLocked(cur *session.Cursor, t *session.Trial) {
	if !ts.s.conn.sock.NumbersPings() {
		t.Units = nil // the client cannot show that it has decoded them
	}
	ts.list = append(ts.list, &trial{Trial: t, cur: cur})
	ts.sessions = max(ts.sessions, len(ts.s.conn.sessions.all())+t.Siblings)
}

// holdBackLocked keeps packets until the trials have ended.
func (ts *trials) holdBackLocked(cur *session.Cursor, n int) {
	if last := len(ts.held) - 1; last >= 0 && ts.held[last].cur == cur {
		ts.held[last].n += n
		return
	}
	ts.held = append(ts.held, item{cur: cur, n: n})
}

// settlingLocked reports whether the client is sent everything else first.
func (ts *trials) settlingLocked() bool {
	return ts.state == settling || ts.state == awaiting || ts.state == over
}

// awaitsLocked reports whether a ping is needed. Units have pings of their own.
func (ts *trials) awaitsLocked() bool { return ts.state == confirming && ts.s.mark < ts.upTo }

// fillLocked writes units if it is time for it. It reports whether the rest may be written.
func (ts *trials) fillLocked() bool {
	if ts.s.conn.state == clientDraining {
		ts.discardBufferedLocked()
		ts.endLocked()
		return true
	}
	for ts.state == sending && ts.s.enc.Len() < ts.s.maxBytes {
		ts.writeUnitLocked()
	}
	return ts.settlingLocked()
}

// writtenLocked continues when everything else that waited for the client was written: it must be
// handled.
func (ts *trials) writtenLocked() {
	if ts.state == settling && ts.s.head == len(ts.s.pending) {
		ts.upTo = ts.s.count
		ts.enterLocked(confirming, 0)
		ts.confirmedLocked()
	}
}

// confirmedLocked continues if what the trials wait for has been handled.
func (ts *trials) confirmedLocked() {
	s := ts.s
	switch {
	case s.confirmed < ts.upTo:
	case ts.state == confirming && s.head < len(s.pending):
		ts.enterLocked(settling, 0)
	case ts.state == confirming:
		for _, cur := range s.conn.sessions.all() {
			cur.ReplyHandled()
		}
		ts.enterLocked(awaiting, siblingTime)
		ts.connectedLocked()
	case ts.state == inFlight:
		ts.tried.took = instant.Since(ts.tried.at)
		ts.lingerLocked()
	}
}

// latestLocked returns the last unit that was written.
func (ts *trials) latestLocked() *trialUnit { return &ts.units[ts.probes[len(ts.probes)-1].unit] }

// lingerLocked waits to see whether the client comes back over another connection.
func (ts *trials) lingerLocked() {
	hold := ts.latestLocked().Hold
	switch {
	case hold == 0:
		ts.continueLocked()
	case ts.tried.sign != nil: // it is back
		ts.enterLocked(lingering, max(hold, 2*maxSignTime))
	default:
		ts.enterLocked(lingering, hold)
	}
}

// connectedLocked continues unless the client still has other sessions to resume.
func (ts *trials) connectedLocked() {
	switch {
	case ts.state != awaiting:
	case ts.s.head < len(ts.s.pending):
		ts.enterLocked(settling, 0)
	case ts.waited || !ts.missingLocked():
		ts.queueUnitsLocked()
		ts.continueLocked()
	}
}

// missingLocked reports whether the client has not resumed all sessions that may matter.
func (ts *trials) missingLocked() bool { return len(ts.s.conn.sessions.all()) < ts.sessions }

// queueUnitsLocked queues the units of new trials. Those of packets that have failed before come
// first: only the first unit on a connection can be proven to be why a client left it open.
func (ts *trials) queueUnitsLocked() {
	from := len(ts.units)
	for _, t := range ts.list {
		if t.queued {
			continue
		}
		t.queued = true
		for _, packets := range t.Units {
			ts.units = append(ts.units, trialUnit{t, packets})
		}
	}
	slices.SortStableFunc(ts.units[from:], func(a, b trialUnit) int {
		switch {
		case a.Narrowed == b.Narrowed:
			return 0
		case a.Narrowed:
			return -1
		}
		return 1
	})
}

// continueLocked continues with the next unit. After the last it ends the trials, or the connection
// if the client's offset must be known first.
func (ts *trials) continueLocked() {
	resync := func(t *trial) bool { return t.Resync || t.Buffered && len(t.Units) == 0 && ts.missingLocked() }
	added := func(t *trial) bool { return !t.queued }
	switch {
	case ts.next < len(ts.units):
		ts.enterLocked(sending, 0)
	case slices.ContainsFunc(ts.list, added):
		ts.enterLocked(settling, 0)
		ts.writtenLocked()
	case slices.ContainsFunc(ts.list, resync):
		ts.enterLocked(closing, 0)
		ts.s.conn.sock.AfterFunc(0, func() { ts.end.abort(reason.TransportClose) })
	default:
		for _, t := range ts.list {
			t.cur.Passed(t.Trial)
		}
		ts.endLocked()
	}
}

// enterLocked is the only place where the state changes. Unless d is 0, the new one ends after d.
func (ts *trials) enterLocked(to trialState, d time.Duration) {
	ts.stopTimer()
	ts.state = to
	ts.entered++
	if entered := ts.entered; d > 0 {
		ts.timer = ts.s.conn.sock.AfterFunc(d, func() { ts.onTimer(entered) }) // stopped by the next state, or sender.close
	}
}

func (ts *trials) stopTimer() {
	if ts.timer != nil {
		ts.timer.Stop()
		ts.timer = nil
	}
}

// onTimer ends a state whose time is up.
func (ts *trials) onTimer(entered int) {
	ts.timeout(entered)
	ts.s.conn.sock.Wake()
}

func (ts *trials) timeout(entered int) {
	s := ts.s
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.conn.state == clientClosed || ts.entered != entered:
	case ts.state == awaiting:
		ts.waited = true
		ts.connectedLocked()
	case ts.state == lingering:
		ts.continueLocked()
	}
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

// endLocked ends the trials, and continues with the sessions.
func (ts *trials) endLocked() {
	ts.enterLocked(over, 0)
	held := ts.tried.onlyFirst(ts.held)
	ts.list, ts.held, ts.units, ts.probes = nil, nil, nil, nil
	for _, it := range held {
		ts.s.pushLocked(it.cur, it.n)
	}
}

// dropLocked ends the trial of a session that the client leaves.
func (ts *trials) dropLocked(cur *session.Cursor) {
	ts.list = slices.DeleteFunc(ts.list, func(t *trial) bool { return t.cur == cur })
	written := ts.units[:ts.next:ts.next]
	for _, u := range ts.units[ts.next:] {
		if u.cur != cur {
			written = append(written, u)
		}
	}
	if ts.units = written; len(ts.list) == 0 {
		ts.endLocked()
	} else if ts.state == sending {
		ts.continueLocked()
	}
}
