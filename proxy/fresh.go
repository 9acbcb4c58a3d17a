package proxy

import (
	"math"
	"slices"
	"time"

	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/session"
)

// A client that calls disconnect() before its CONNECT is answered sends no DISCONNECT: it only closes its connection, in
// order. No client can resume its session, because none has read the pid, and the server's socket is a ghost. A client that
// calls engine.close(), and recovers, looks the same. The difference is whether it had the reply when it closed.
//
// Over WebSocket a WebSocket ping in front of the reply tells: an endpoint answers pings until it closes. Over polling the
// next poll tells, unless the client is about to upgrade: a client that is told to close then finishes its upgrade first,
// polls meanwhile, and closes right behind its UPGRADE packet. A WebSocket ping behind the upgrade tells which client that
// was. Without an answer only time tells: a client that closes long after the reply was written had it.

const (
	// doubtfulParking is how long a session stays if its client closed in order when the reply may have been on its way.
	// A client that recovers from engine.close() may be back by then.
	doubtfulParking = 750 * time.Millisecond
	// minReplyTime and maxReplyTime bound how long a reply may have been on its way to the client.
	minReplyTime = 100 * time.Millisecond
	maxReplyTime = time.Second
)

// freshReply is a CONNECT reply with a new pid, until the client is known to have it.
type freshReply struct {
	cur      *session.Cursor
	written  time.Time // zero while it waits
	count    uint64    // outgoing.count with it
	watch    uint64    // the number of the WebSocket ping in front of it; 0 over polling
	arrived  bool      // confirmed
	upgraded uint64    // the number of the WebSocket ping behind the client's upgrade, if that came after it; 0 before
}

// writeReply writes the first reply that waits; c.mu is held.
func (c *client) writeReply(it *item) {
	o := &c.sender
	var watch uint64
	if c.websocket.Load() {
		o.watch++
		watch = o.watch
		o.enc.Watch(watch)
	}
	o.writeRaw(it)
	for i := range c.fresh {
		if f := &c.fresh[i]; f.written.IsZero() {
			o.count++ // so that a ping ahead of the reply does not confirm it
			f.written, f.count, f.watch = time.Now(), o.count, watch
			return
		}
	}
}

// replyTime is how long a reply may be on its way to this client: twice the time from its handshake to its first CONNECT,
// which is about a round trip, and a little more.
func (c *client) replyTime() time.Duration {
	return min(2*time.Duration(c.connectDelay.Load())+minReplyTime, maxReplyTime)
}

// repliesConfirmed notes which replies have arrived, and forgets those beyond doubt; c.mu is held.
func (c *client) repliesConfirmed(mark uint64) {
	kept := c.fresh[:0]
	for _, f := range c.fresh {
		f.arrived = f.arrived || !f.written.IsZero() && f.count <= mark
		if !f.arrived || time.Since(f.written) < maxReplyTime {
			kept = append(kept, f)
		}
	}
	clear(c.fresh[len(kept):])
	if c.fresh = kept; len(kept) == 0 {
		c.fresh = nil
	}
}

// repliesUpgraded notes the client's change to WebSocket, and asks for a WebSocket ping if a reply is in doubt.
func (c *client) repliesUpgraded() {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := &c.sender
	o.upgraded = true
	for i := range c.fresh {
		if c.fresh[i].watch == 0 {
			c.fresh[i].upgraded = o.watch + 1
			o.watchNext = true
		}
	}
}

// inOrder reports whether a client closed its connection by itself, rather than lost it.
func inOrder(why engineio.Reason) bool {
	return why == engineio.CloseFrame || why == engineio.ClientClose
}

// parkFor is how long the session of a fresh reply waits for this client, which has gone: 0 if no client can have the pid,
// and d if nothing speaks against it. inOrder says that the client closed its connection itself.
func (f *freshReply) parkFor(c *client, d time.Duration, inOrder bool) time.Duration {
	switch {
	case f.written.IsZero():
		return 0
	case !inOrder, f.cur.Session().Heard(), f.watch > 0 && c.sock.Reached() >= f.watch:
		return d
	case f.arrived && (f.upgraded == 0 || c.sock.Reached() >= f.upgraded):
		return d
	case time.Since(f.written) < c.replyTime():
		return min(d, doubtfulParking)
	case f.arrived:
		return d
	}
	return min(d, c.srv.settings().Recovery.GoingAwayDuration)
}

// parkFresh parks, or ends, those of the client's sessions whose pid it may not have. The others are left for the caller.
//
// disconnect() closes the connection only with the last namespace, and sends a DISCONNECT for those that are connected. So
// a client that leaves any session behind that it surely has did not call disconnect(), and the others wait as long.
func (c *client) parkFresh(cursors []*session.Cursor, fresh []freshReply, d time.Duration, why reason.Reason, ending session.Ending) {
	var doubtful []*session.Cursor
	var longest time.Duration
	sure := 0
	for _, cur := range cursors {
		if cur.Attached() && !slices.ContainsFunc(fresh, func(f freshReply) bool { return f.cur == cur }) {
			sure++
		}
	}
	for i := range fresh {
		f := &fresh[i]
		left := f.parkFor(c, d, ending == session.ClosedByClient)
		if left > 0 && f.cur.Suspicious(math.MaxUint64) {
			left = d // it may have closed because it cannot decode what followed
		}
		switch left {
		case d:
			sure++
		case 0:
			c.srv.registry.Abort(f.cur, reason.ClientDisconnect)
		default:
			doubtful, longest = append(doubtful, f.cur), max(longest, left)
		}
	}
	if sure == 0 {
		c.srv.registry.ParkEnded(doubtful, longest, why, ending)
	}
}
