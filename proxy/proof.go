package proxy

import (
	"time"

	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/session"
)

const (
	// Over polling, a client that closes because of a unit does so a round trip after it, give or
	// take roundTripSlack, or reactionTime later.
	roundTripSlack = 5 * time.Millisecond
	reactionTime   = time.Second
	// smallUnitBytes is what arrives in one piece. Nothing tells when a larger answer to a poll has
	// arrived.
	smallUnitBytes = 4 << 10
)

// judge tells the session on trial whether a unit ended the client's connection. The client is
// closed. Nil trials are none.
func (ts *trials) judge(ending session.Ending) {
	if ts == nil {
		return
	}
	t, last := ts.last()
	if t == nil {
		return
	}
	switch proof := t.proof(ts.s.conn, last, ending); {
	case proof > 0:
		t.cur.Choked(t.current(), proof)
	case ending != session.Lost:
		t.cur.Unproven()
	}
}

// last returns the trial that was under way when the client was closed, and the number of the last
// Watch.
func (ts *trials) last() (t *trial, watch uint64) {
	ts.s.mu.Lock()
	defer ts.s.mu.Unlock()
	if ts.s.trials != ts {
		return nil, 0
	}
	return ts.currentLocked(), ts.s.watch
}

// proof returns how well it is proven that the client ended its connection because of a unit. It
// returns 0 if it is not.
//
// Over WebSocket the client answered the WebSocket ping in front of the last byte of a message, and
// not the one behind it. A browser answers both before it hands the message to the page: there it
// answered all, and not Engine.IO's ping. Over polling it closed a round trip after the unit was
// sent, without another poll. A client that leaves its connection open confirmed the unit, and came
// back over another. watch is the number of the last Watch.
func (t *trial) proof(c *clientConn, watch uint64, ending session.Ending) int {
	switch {
	case ending == session.Overtaken && t.phase == lingering && !t.Resync:
		return session.GoodProof
	case ending != session.ClosedByClient, t.phase != inFlight, t.unit == decoy:
		return 0
	case c.websocket.Load():
		return t.proofOfPongs(c.sock.Reached(), watch)
	}
	return t.proofOfTime(instant.Since(t.since))
}

// proofOfPongs is proof over WebSocket. The client has answered the pings up to a number.
func (t *trial) proofOfPongs(reached, last uint64) int {
	switch {
	case reached < t.watch:
		return 0
	case reached == last, (reached-t.watch)%2 == 0:
		return session.GoodProof
	}
	return session.WeakProof // it may have closed for another reason, while the rest was on its way
}

// proofOfTime is proof over polling. The unit was sent so long ago.
func (t *trial) proofOfTime(took time.Duration) int {
	switch {
	case took < t.roundTrip/2-roundTripSlack: // before the unit can have arrived
		return 0
	case t.size > smallUnitBytes:
		return session.WeakProof
	case took > 2*t.roundTrip+reactionTime: // there was no reason to wait
		return 0
	case took < t.roundTrip*9/10-roundTripSlack: // perhaps before it arrived
		return session.FairProof
	}
	return session.GoodProof
}
