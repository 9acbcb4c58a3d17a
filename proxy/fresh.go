package proxy

import (
	"math"
	"time"

	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/session"
)

// A client that calls disconnect() before the reply to its CONNECT has come sends no DISCONNECT: it only closes its connection,
// in order. Its session has a pid that it never read, so no client can resume it, and the server's socket is a ghost. But
// engine.close(), which a client recovers from, looks the same. They differ in whether the client had the reply.

const (
	// doubtfulParking is how long a session stays whose client closed in order just when the reply reached it, or did not. A
	// client that recovers from engine.close() may be back by then.
	doubtfulParking = 750 * time.Millisecond
	// replyTime is how long a reply may take to reach a client, and be handled, without being doubtful.
	replyTime = time.Second
	// upgradeClose is how soon after its UPGRADE packet a client closes that was told to close before: it finishes the upgrade
	// first, and polls on meanwhile. That it fetched the reply then does not mean that it has handled it.
	upgradeClose = 100 * time.Millisecond
)

// freshReply is a CONNECT reply with a new pid, until the client is known to have it.
type freshReply struct {
	cur      *session.Cursor
	written  time.Time // zero while it waits
	count    uint64    // outgoing.count with it
	arrived  bool      // confirmed
	upgraded time.Time // the client's change to WebSocket after it was written
}

// replyWritten notes that the first reply that waits was written; c.mu is held.
func (c *client) replyWritten() {
	for i := range c.fresh {
		if f := &c.fresh[i]; f.written.IsZero() {
			c.out.count++ // so that a ping ahead of the reply does not confirm it
			f.written, f.count = time.Now(), c.out.count
			return
		}
	}
}

// repliesConfirmed notes which replies have arrived, and forgets those beyond doubt; c.mu is held.
func (c *client) repliesConfirmed(mark uint64) {
	kept := c.fresh[:0]
	for _, f := range c.fresh {
		f.arrived = f.arrived || !f.written.IsZero() && f.count <= mark
		if !f.arrived || time.Since(f.written) < replyTime {
			kept = append(kept, f)
		}
	}
	clear(c.fresh[len(kept):])
	if c.fresh = kept; len(kept) == 0 {
		c.fresh = nil
	}
}

// repliesUpgraded notes the client's change to WebSocket.
func (c *client) repliesUpgraded() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.fresh {
		c.fresh[i].upgraded = time.Now()
	}
}

// inOrder reports whether a client closed its connection by itself, rather than lost it.
func inOrder(why engineio.Reason) bool {
	return why == engineio.CloseFrame || why == engineio.ClientClose
}

// parkFor is how long the session of a fresh reply waits for a client that ended for this reason. It is 0 if no client can
// have the pid, and d if nothing speaks against it.
func (f *freshReply) parkFor(d, goingAway time.Duration, inOrder bool) time.Duration {
	switch {
	case f.written.IsZero():
		return 0
	case !inOrder, f.cur.Session().Heard():
		return d
	case f.arrived && (f.upgraded.IsZero() || time.Since(f.upgraded) >= upgradeClose):
		return d
	case time.Since(f.written) < replyTime:
		return min(d, doubtfulParking)
	case f.arrived:
		return d
	}
	return min(d, goingAway)
}

// parkFresh parks, or ends, those of the client's sessions whose pid it may not have. The others are left for the caller.
func (c *client) parkFresh(fresh []freshReply, d time.Duration, why reason.Reason, ending session.Ending) {
	goingAway := c.srv.settings().Recovery.GoingAwayDuration
	for i := range fresh {
		f := &fresh[i]
		left := f.parkFor(d, goingAway, ending == session.ClosedByClient)
		if left > 0 && f.cur.Suspicious(math.MaxUint64) {
			left = d // it may have closed because it cannot decode what followed
		}
		switch left {
		case d:
		case 0:
			c.srv.registry.Abort(f.cur, reason.ClientDisconnect)
		default:
			c.srv.registry.ParkEnded([]*session.Cursor{f.cur}, left, why, ending)
		}
	}
}
