package proxy

import (
	"math/rand/v2"
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
	// settleTimeout and unitTimeout are how long a client may take to confirm what it is sent. After
	// that the trial ends: a client that answers no pings must get its packets all the same.
	settleTimeout = 2 * time.Second
	unitTimeout   = 10 * time.Second
	// upgradeGrace is how long a client that polls has to begin its upgrade, and upgradeTimeout to
	// finish it. A client that is about to upgrade closes its connection only when it has, and
	// confirms before that what it was sent by polling.
	upgradeGrace   = 300 * time.Millisecond
	upgradeTimeout = 2 * time.Second
	// takeoverGrace is how long a client that leaves its connection open takes to come back over
	// another one: the default is a second, give or take a half.
	takeoverGrace = 2 * time.Second
	// maxVariation is how much later than necessary a unit is sent.
	maxVariation = 200 * time.Millisecond
)

// trialPhase is how far a trial is:
//
//	settling   -> confirming           everything else that waited for the client was written
//	confirming -> settling             replies to further CONNECTs must arrive too
//	confirming -> upgrading, pausing   all of it has arrived
//	confirming -> lingering            the same, and the trial only makes the client reconnect
//	upgrading  -> settling             replies to further CONNECTs must arrive too
//	upgrading  -> pausing              the client has connected its other namespaces, and upgraded or not
//	pausing    -> sending              the time to send a unit has come
//	sending    -> inFlight             it was written
//	sending    -> pausing              it was empty
//	inFlight   -> lingering, pausing   it has arrived
//	lingering  -> pausing              the client did not come back over another connection
//	any        -> over                 all units passed, or one was not confirmed; terminal
type trialPhase uint8

const (
	settling trialPhase = iota
	confirming
	upgrading
	pausing
	sending
	inFlight
	lingering
	over
)

// trials find out whether a client can decode the suspects of sessions that it has just resumed.
// Until then no session's packets are sent: the client may have put events of all namespaces aside
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
	sessions  int // how many the client has when all siblings are back
	cur       *session.Cursor
	phase     trialPhase
	unit      int    // of Units, or decoy
	upTo      uint64 // the sender.count that must be confirmed
	started   instant.Instant
	since     instant.Instant // when the phase began
	size      int             // of the unit, in bytes
	watch     uint64          // number of its first Watch, of two for each message
	roundTrip time.Duration   // the shortest that was seen
	timer     *time.Timer     // nil, or ends the phase
}

// decoy stands for a unit of one packet that any client can decode. It shows how long a client that
// polls takes.
const decoy = -1

var decoyPacket = []byte("2" + trialNamespace + `,["decoy"]`)

// onlyWaits reports whether there is nothing to try: the siblings' trials come first.
func (t *trial) onlyWaits() bool { return len(t.Units) == 0 && !t.Resync }

// current returns the unit that is being tried, or nil for the decoy.
func (t *trial) current() []uint64 {
	if t.unit == decoy {
		return nil
	}
	return t.Units[t.unit]
}

func (t *trial) stopTimer() {
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
}

// judge is the session.Judge.
func judge(packet []byte) session.Verdict {
	switch socketio.CheckDecodable(packet) {
	case socketio.Doubtful:
		return session.Doubtful
	case socketio.Undecodable:
		return session.Undecodable
	case socketio.Decodable:
	}
	return session.Fine
}

// startLocked begins a trial, after those of other sessions.
func (ts *trials) startLocked(cur *session.Cursor, t *session.Trial) {
	s := ts.s
	s.byPong = true
	ts.list = slices.DeleteFunc(ts.list, func(t *trial) bool { // this one holds everything back now
		if t.onlyWaits() {
			ts.enterLocked(t, over, 0)
			return true
		}
		return false
	})
	now := instant.Now()
	ts.list = append(ts.list, &trial{Trial: t, cur: cur, sessions: len(s.conn.sessions.all()) + t.Siblings, started: now, since: now})
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
	return t == nil || t.phase == settling || t.phase == upgrading
}

// sendsLocked reports whether the next Fill writes a unit.
func (ts *trials) sendsLocked() bool {
	t := ts.currentLocked()
	return t != nil && t.phase == sending
}

// awaitsLocked reports whether a ping is needed.
func (ts *trials) awaitsLocked() bool {
	t := ts.currentLocked()
	return t != nil && (t.phase == confirming || t.phase == inFlight) && ts.s.mark < t.upTo
}

// fillLocked writes a unit if it is time for it. It reports whether the rest may be written.
func (ts *trials) fillLocked() bool {
	if ts.s.conn.state == clientDraining {
		ts.endAllLocked()
		return true
	}
	for ts.sendsLocked() {
		ts.writeUnitLocked(ts.currentLocked())
	}
	return ts.settlingLocked()
}

// writeUnitLocked sends a unit's packets as those of trialNamespace.
func (ts *trials) writeUnitLocked(t *trial) {
	s := ts.s
	t.size = 0
	t.watch = s.watch + 1
	add := func(data []byte, binary bool) {
		s.enc.Watched(data, binary, s.watch+1)
		s.enc.Watch(s.watch + 2)
		s.watch += 2
		t.size += len(data)
	}
	if t.unit == decoy {
		add(decoyPacket, false)
	}
	t.cur.Sample(t.current(), func(p *buffer.Entry) {
		data := p.Data()
		h, err := socketio.ParseHeader(data)
		if err != nil {
			return
		}
		add(socketio.AppendReaddressed(nil, data, &h, trialNamespace), false)
		for _, a := range p.Attachments() {
			add(a, true)
		}
	})
	if t.size == 0 {
		ts.nextUnitLocked(t)
		return
	}
	s.count++
	t.upTo = s.count
	ts.enterLocked(t, inFlight, unitTimeout)
}

// writtenLocked continues when everything else that waited for the client was written: it must
// arrive.
func (ts *trials) writtenLocked() {
	s := ts.s
	t := ts.currentLocked()
	if t == nil || t.phase != settling || s.head < len(s.pending) {
		return
	}
	t.upTo = s.count
	ts.enterLocked(t, confirming, settleTimeout)
	if s.confirmed >= t.upTo {
		ts.arrivedLocked(t)
	}
}

// confirmedLocked continues if what a trial waits for has arrived.
func (ts *trials) confirmedLocked() {
	t := ts.currentLocked()
	if t == nil || t.phase != confirming && t.phase != inFlight || ts.s.confirmed < t.upTo {
		return
	}
	if took := instant.Since(t.since); t.roundTrip == 0 || took < t.roundTrip {
		t.roundTrip = took
	}
	ts.arrivedLocked(t)
}

// arrivedLocked continues after what a trial waited for.
func (ts *trials) arrivedLocked(t *trial) {
	switch {
	case t.phase == confirming && ts.s.head < len(ts.s.pending):
		ts.enterLocked(t, settling, 0) // the replies to further CONNECTs must arrive too
	case t.phase == inFlight && t.Hold && t.unit != decoy:
		ts.enterLocked(t, lingering, takeoverGrace)
	case t.phase == inFlight:
		ts.nextUnitLocked(t)
	case t.Resync:
		ts.enterLocked(t, lingering, settleTimeout)
		ts.s.conn.sock.AfterFunc(0, func() { ts.end.abort(reason.TransportClose) })
	case t.onlyWaits() && !ts.awaitsSiblingsLocked(t):
		ts.endLocked(t)
	case ts.s.conn.websocket.Load() && !ts.awaitsSiblingsLocked(t):
		ts.pauseLocked(t)
	case t.onlyWaits():
		ts.enterLocked(t, upgrading, upgradeGrace/10)
	default:
		ts.enterLocked(t, upgrading, upgradeGrace)
	}
}

// nextUnitLocked continues with the next unit, or ends the trial.
func (ts *trials) nextUnitLocked(t *trial) {
	if t.unit++; t.unit < len(t.Units) {
		ts.pauseLocked(t)
		return
	}
	t.cur.Decoded(t.Trial)
	ts.endLocked(t)
}

// pauseLocked waits a little if units are sent at random times.
func (ts *trials) pauseLocked(t *trial) {
	if t.Vary {
		ts.enterLocked(t, pausing, rand.N(maxVariation))
		return
	}
	ts.enterLocked(t, sending, 0)
}

// enterLocked is the only place where a trial's phase changes. Unless d is 0, the phase ends after d.
func (ts *trials) enterLocked(t *trial, p trialPhase, d time.Duration) {
	t.stopTimer()
	t.phase, t.since = p, instant.Now()
	if d > 0 {
		t.timer = ts.s.conn.sock.AfterFunc(d, func() { ts.onTimer(t, p) }) // stopped by the next phase, or sender.close
	}
}

// onTimer ends a phase whose time is up.
func (ts *trials) onTimer(t *trial, p trialPhase) {
	if p == upgrading && ts.awaitUpgrade(t, ts.s.conn.sock.Probing()) {
		return
	}
	ts.timeout(t, p)
	ts.s.conn.sock.Wake()
}

func (ts *trials) timeout(t *trial, p trialPhase) {
	s := ts.s
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.conn.state == clientClosed || t.phase != p:
	case p == upgrading && t.onlyWaits():
		ts.endLocked(t)
	case p == upgrading && (s.head < len(s.pending) || s.confirmed < s.count):
		ts.enterLocked(t, settling, 0) // the replies to further CONNECTs must arrive too
		ts.writtenLocked()
	case p == upgrading:
		if !s.conn.websocket.Load() {
			t.unit = decoy
		}
		ts.pauseLocked(t)
	case p == pausing:
		ts.enterLocked(t, sending, 0)
	case p == lingering && !t.Resync:
		ts.nextUnitLocked(t)
	default:
		ts.endLocked(t)
	}
}

// awaitsSiblingsLocked reports whether the client has other sessions to resume.
func (ts *trials) awaitsSiblingsLocked(t *trial) bool {
	return len(ts.s.conn.sessions.all()) < t.sessions && instant.Since(t.started) < upgradeTimeout
}

// awaitUpgrade waits longer for an upgrade that has begun, or for further CONNECTs. It returns false
// if the time for that is up.
func (ts *trials) awaitUpgrade(t *trial, probing bool) bool {
	ts.s.mu.Lock()
	defer ts.s.mu.Unlock()
	switch {
	case ts.s.conn.state == clientClosed || t.phase != upgrading || instant.Since(t.since) > upgradeTimeout:
		return false
	case !ts.awaitsSiblingsLocked(t) && (t.onlyWaits() || !probing || ts.s.conn.websocket.Load()):
		return false
	}
	t.timer.Reset(upgradeGrace / 10)
	return true
}

// endLocked ends a trial. After the last, all sessions continue.
func (ts *trials) endLocked(t *trial) {
	ts.enterLocked(t, over, 0)
	if ts.currentLocked() == nil {
		ts.endAllLocked()
		return
	}
	ts.writtenLocked()
}

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
