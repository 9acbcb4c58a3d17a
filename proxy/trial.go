package proxy

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

const (
	// trialNamespace is one that no client is connected to.
	trialNamespace = "/holdfast-can-you-decode-this"
	// confirmPatience and unitPatience are how long a client may take to confirm what it is sent. After that the trial is
	// given up: a client that answers no pings must get its packets all the same.
	confirmPatience = 2 * time.Second
	unitPatience    = 10 * time.Second
	// upgradeGrace is how long a client that polls has to begin its upgrade, and upgradePatience to finish it. A client that
	// is about to upgrade closes its connection only when it has, and what it was sent by polling is confirmed then.
	upgradeGrace    = 300 * time.Millisecond
	upgradePatience = 2 * time.Second
	// takeoverGrace is how long a client that leaves its connection open takes to come back over another one: the
	// default is a second, give or take a half.
	takeoverGrace = 2 * time.Second
	// maxVariation is how much later than it could be a unit is sent.
	maxVariation = 200 * time.Millisecond
	// Over polling a close that a unit is the cause of comes a round trip after it, give or take roundTripSlack, or
	// reactionTime later.
	roundTripSlack = 5 * time.Millisecond
	reactionTime   = time.Second
	// smallUnitBytes is what arrives at once. Nothing tells when an answer to a poll that is larger has arrived.
	smallUnitBytes = 4 << 10
)

// trialPhase is how far a trial is.
//
//	settling   -> confirming           what else waited for the client was written
//	confirming -> upgrading, pausing   all of it has arrived
//	upgrading  -> pausing, confirming  the client has connected its other namespaces, and upgraded, or does not
//	pausing    -> sending              the time to send a unit has come
//	sending    -> flying               it was written
//	flying     -> holding, pausing     it has arrived
//	holding    -> pausing              the client did not come back over another connection
//
// any -> over: all units passed, or one was not confirmed.
type trialPhase uint8

const (
	settling trialPhase = iota
	confirming
	upgrading
	pausing
	sending
	flying
	holding
	over
)

// trial finds out whether a client can decode the suspects of a session that it has just resumed. Until then no session's packets
// are sent: the client may have put events of all namespaces aside when it closed its connection. It handles them with the
// replies to its CONNECTs, and tells of it with the next ones. Guarded by the client's mu.
type trial struct {
	*session.Trial
	sessions  int // that the client has when all siblings are back
	cur       *session.Cursor
	phase     trialPhase
	unit      int    // of Units, or decoy
	upTo      uint64 // outgoing.count that is to be confirmed
	started   time.Time
	since     time.Time     // of the phase
	size      int           // of the unit, in bytes
	watch     uint64        // the number of its first Watch, of two for each message
	roundTrip time.Duration // the shortest that was seen
	timer     *time.Timer
}

// decoy stands for a unit of one packet that any client can decode: it shows how long a client takes that polls.
const decoy = -1

var decoyPacket = []byte("2" + trialNamespace + `,["decoy"]`)

// onlyWaits reports whether nothing is to be tried out: the siblings' trials come first.
func (t *trial) onlyWaits() bool { return len(t.Units) == 0 && !t.Resync }

// current is the unit that is being tried; nil for the decoy.
func (t *trial) current() []uint64 {
	if t.unit == decoy {
		return nil
	}
	return t.Units[t.unit]
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

// startTrial begins a trial, behind those of other sessions; c.mu is held.
func (c *client) startTrial(cur *session.Cursor, t *session.Trial) {
	o := &c.sender
	if len(o.trials) == 0 {
		pending := o.pending[o.head:]
		o.pending, o.head = nil, 0
		for _, it := range pending {
			if it.cur != nil {
				o.held = append(o.held, it)
			} else {
				o.pending = append(o.pending, it)
			}
		}
	}
	o.byPong = true
	o.trials = slices.DeleteFunc(o.trials, func(t *trial) bool { // this one holds everything back now
		if t.onlyWaits() {
			t.stop()
			t.phase = over
			return true
		}
		return false
	})
	o.trials = append(o.trials, &trial{Trial: t, cur: cur, sessions: len(c.sessions.all()) + t.Siblings, started: time.Now(), since: time.Now()})
}

// trial is the one that is under way, or nil.
func (o *sender) trial() *trial {
	for _, t := range o.trials {
		if t.phase != over {
			return t
		}
	}
	return nil
}

// holdBack keeps packets for after the trials.
func (o *sender) holdBack(cur *session.Cursor, n int) {
	if last := len(o.held) - 1; last >= 0 && o.held[last].cur == cur {
		o.held[last].n += n
		return
	}
	o.held = append(o.held, item{cur: cur, n: n})
}

// trialSettling reports whether the client is to be sent all else first.
func (o *sender) trialSettling() bool {
	t := o.trial()
	return t == nil || t.phase == settling || t.phase == upgrading
}

// trialSends reports whether a unit is to be written.
func (o *sender) trialSends() bool {
	t := o.trial()
	return t != nil && t.phase == sending
}

// trialAwaits reports whether a ping is wanted.
func (o *sender) trialAwaits() bool {
	if len(o.trials) == 0 {
		return false
	}
	t := o.trial()
	return t != nil && (t.phase == confirming || t.phase == flying) && o.mark < t.upTo
}

// fillTrial writes a unit if it is time for it, and reports whether the rest may be written; c.mu is held.
func (c *client) fillTrial() bool {
	o := &c.sender
	if o.ending {
		c.endTrials()
		return true
	}
	for o.trialSends() {
		c.writeUnit(o.trial())
	}
	return o.trialSettling()
}

// writeUnit sends a unit's packets as those of trialNamespace.
func (c *client) writeUnit(t *trial) {
	o := &c.sender
	t.size = 0
	t.watch = o.watch + 1
	add := func(data []byte, binary bool) {
		o.enc.Watched(data, binary, o.watch+1)
		o.enc.Watch(o.watch + 2)
		o.watch += 2
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
		c.nextUnit(t)
		return
	}
	o.count++
	t.upTo = o.count
	c.enter(t, flying, unitPatience)
}

// trialSettled begins to wait until all that was written has arrived; c.mu is held.
func (c *client) trialSettled() {
	o := &c.sender
	t := o.trial()
	if t == nil || t.phase != settling || o.head < len(o.pending) {
		return
	}
	t.upTo = o.count
	c.enter(t, confirming, confirmPatience)
	if o.confirmed >= t.upTo {
		c.trialArrived(t)
	}
}

// trialConfirmed goes on if what a trial waits for has arrived; c.mu is held.
func (c *client) trialConfirmed() {
	o := &c.sender
	t := o.trial()
	if t == nil || t.phase != confirming && t.phase != flying || o.confirmed < t.upTo {
		return
	}
	if took := time.Since(t.since); t.roundTrip == 0 || took < t.roundTrip {
		t.roundTrip = took
	}
	c.trialArrived(t)
}

// trialArrived goes on after what a trial waited for; c.mu is held.
func (c *client) trialArrived(t *trial) {
	switch {
	case t.phase == confirming && c.sender.head < len(c.sender.pending):
		t.phase = settling // the replies to further CONNECTs are to arrive, too
	case t.phase == flying && t.Hold && t.unit != decoy:
		c.enter(t, holding, takeoverGrace)
	case t.phase == flying:
		c.nextUnit(t)
	case t.Resync:
		c.enter(t, holding, confirmPatience)
		c.closeAfterLocked(0, func() {
			defer c.recoverPanic()
			c.abort(reason.TransportClose)
		})
	case t.onlyWaits() && !c.awaitsSiblings(t):
		c.endTrial(t)
	case c.websocket.Load() && !c.awaitsSiblings(t):
		c.pauseTrial(t)
	case t.onlyWaits():
		c.enter(t, upgrading, upgradeGrace/10)
	default:
		c.enter(t, upgrading, upgradeGrace)
	}
}

// nextUnit goes on to the next unit, or ends the trial.
func (c *client) nextUnit(t *trial) {
	if t.unit++; t.unit < len(t.Units) {
		c.pauseTrial(t)
		return
	}
	t.cur.Decoded(t.Trial)
	c.endTrial(t)
}

// pauseTrial waits a little, if units are to be sent at random times.
func (c *client) pauseTrial(t *trial) {
	if t.Vary {
		c.enter(t, pausing, rand.N(maxVariation))
		return
	}
	t.phase = sending
}

// enter begins a phase that lasts for d at most.
func (c *client) enter(t *trial, p trialPhase, d time.Duration) {
	t.stop()
	t.phase, t.since = p, time.Now()
	t.timer = time.AfterFunc(d, func() { c.trialTimeout(t, p) }) // stopped by the next phase, or markClosed
}

func (t *trial) stop() {
	if t.timer != nil {
		t.timer.Stop()
	}
}

func (c *client) trialTimeout(t *trial, p trialPhase) {
	defer c.recoverPanic()
	if p == upgrading && c.awaitUpgrade(t, c.sock.Probing()) {
		return
	}
	c.mu.Lock()
	switch {
	case c.closed || t.phase != p:
	case p == upgrading && t.onlyWaits():
		c.endTrial(t)
	case p == upgrading && (c.sender.head < len(c.sender.pending) || c.sender.confirmed < c.sender.count):
		t.phase = settling // the replies to further CONNECTs are to arrive, too
		c.trialSettled()
	case p == upgrading:
		if !c.websocket.Load() {
			t.unit = decoy
		}
		c.pauseTrial(t)
	case p == pausing:
		t.phase = sending
	case p == holding && !t.Resync:
		c.nextUnit(t)
	default:
		c.endTrial(t)
	}
	c.mu.Unlock()
	c.sock.Wake()
}

// awaitsSiblings reports whether the client has other sessions to resume; c.mu is held.
func (c *client) awaitsSiblings(t *trial) bool {
	return len(c.sessions.all()) < t.sessions && time.Since(t.started) < upgradePatience
}

// awaitUpgrade waits on for an upgrade that has begun, or for further CONNECTs, if that may take longer.
func (c *client) awaitUpgrade(t *trial, probing bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed || t.phase != upgrading || time.Since(t.since) > upgradePatience:
		return false
	case !c.awaitsSiblings(t) && (t.onlyWaits() || !probing || c.websocket.Load()):
		return false
	}
	t.timer.Reset(upgradeGrace / 10)
	return true
}

// endTrial ends a trial, and lets all sessions go on if it was the last.
func (c *client) endTrial(t *trial) {
	t.stop()
	t.phase = over
	if c.sender.trial() == nil {
		c.endTrials()
		return
	}
	c.trialSettled()
}

// endTrials ends all trials, and lets the sessions go on.
func (c *client) endTrials() {
	o := &c.sender
	o.stopTrials()
	held := o.held
	o.trials, o.held = nil, nil
	for _, it := range held {
		o.push(it.cur, it.n)
	}
}

// dropTrial forgets the trial of a session that the client leaves; c.mu is held.
func (c *client) dropTrial(cur *session.Cursor) {
	o := &c.sender
	for i, t := range o.trials {
		if t.cur == cur {
			o.trials = slices.Delete(o.trials, i, i+1)
			c.endTrial(t)
			return
		}
	}
}

func (o *sender) stopTrials() {
	for _, t := range o.trials {
		t.stop()
	}
}

// judgeTrial tells the session on trial if it was a unit that ended the client's connection. The client is closed.
func (c *client) judgeTrial(ending session.Ending) {
	c.mu.Lock()
	t := c.sender.trial()
	c.mu.Unlock()
	if t == nil {
		return
	}
	switch proof := c.proof(t, ending); {
	case proof > 0:
		t.cur.Choked(t.current(), proof)
	case ending != session.Lost:
		t.cur.Unproven()
	}
}

// proof is how well it is proven that the client ended its connection over a unit: 0 if it is not.
//
// Over WebSocket it answered the WebSocket ping in front of the last byte of a message, and not the one behind it. A browser
// answers both before it hands the message to the page: there it answered all, and not Engine.IO's ping. Over polling it closed a round trip after the unit was sent, without another poll.
// A client that leaves its connection open confirmed the unit, and came back over another.
func (c *client) proof(t *trial, ending session.Ending) int {
	took := time.Since(t.since)
	switch {
	case ending == session.Overtaken && t.phase == holding && !t.Resync:
		return session.GoodProof
	case ending != session.ClosedByClient, t.phase != flying, t.unit == decoy:
		return 0
	case c.websocket.Load():
		c.mu.Lock()
		last := c.sender.watch
		c.mu.Unlock()
		switch reached := c.sock.Reached(); {
		case reached < t.watch:
			return 0
		case reached == last, (reached-t.watch)%2 == 0:
			return session.GoodProof
		}
		return session.WeakProof // it may have closed for another reason, while the rest was on its way
	case took < t.roundTrip/2-roundTripSlack: // before the unit can have arrived
		return 0
	case t.size > smallUnitBytes:
		return session.WeakProof
	case took > 2*t.roundTrip+reactionTime: // why should it have waited?
		return 0
	case took < t.roundTrip*9/10-roundTripSlack: // perhaps before
		return session.FairProof
	}
	return session.GoodProof
}
