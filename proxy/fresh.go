package proxy

import (
	"math"
	"time"

	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/session"
)

// A client that calls disconnect() before its CONNECT is answered sends no DISCONNECT: it only
// closes its connection, in order. No client can resume its session, because none has read the pid,
// and the server's socket is a ghost. A client that calls engine.close(), and recovers, looks the
// same. The difference is whether it had the reply when it closed.
//
// Encoder.Watch with the reply tells: over WebSocket an endpoint answers it until it closes, and
// over polling the next poll shows that the reply has arrived. That is not enough if the client is
// about to upgrade: one that is told to close then finishes its upgrade first, polls meanwhile, and
// closes right behind its UPGRADE packet. A WebSocket ping behind the upgrade tells which client
// that was. Without an answer only time tells: a client that closes long after the reply was
// written had it.

const (
	// doubtfulParking is how long a session stays if its client closed in order when the reply may
	// have been on its way. A client that recovers from engine.close() may be back by then.
	doubtfulParking = 750 * time.Millisecond
)

// freshReply is a CONNECT reply with a new pid, until the client is known to have handled it.
type freshReply struct {
	next     *freshReply
	cur      *session.Cursor
	sent     instant.Instant // zero while it waits
	polled   bool            // it answered a poll
	count    uint64          // sender.count with it
	watch    uint64          // number of its Watch
	upgraded uint64          // number of the Watch behind the client's upgrade, if that came later; or 0
}

// replies are the fresh replies that a client may not have, the oldest first. sender.mu guards them
// until the client is closed.
type replies struct{ first *freshReply }

// add adds a reply that waits to be sent.
func (r *replies) add(cur *session.Cursor) {
	at := &r.first
	for *at != nil {
		at = &(*at).next
	}
	*at = &freshReply{cur: cur}
}

// written notes that the first reply that waits was sent.
func (r *replies) written(count, watch uint64, polled bool) {
	for f := r.first; f != nil; f = f.next {
		if f.sent.IsZero() {
			f.sent, f.count, f.watch, f.polled = instant.Now(), count, watch, polled
			return
		}
	}
}

// confirmed forgets the replies that the client has handled.
func (r *replies) confirmed(mark uint64) {
	for at := &r.first; *at != nil; {
		if f := *at; !f.sent.IsZero() && f.count <= mark {
			*at = f.next
		} else {
			at = &f.next
		}
	}
}

// upgraded notes the client's change to WebSocket. It reports whether a reply is in doubt: then the
// WebSocket ping with this number must follow.
func (r *replies) upgraded(watch uint64) (doubt bool) {
	for f := r.first; f != nil; f = f.next {
		if f.polled {
			f.upgraded, doubt = watch, true
		}
	}
	return doubt
}

// of returns the reply that opened a session, if the client may not have it.
func (r *replies) of(cur *session.Cursor) *freshReply {
	for f := r.first; f != nil; f = f.next {
		if f.cur == cur {
			return f
		}
	}
	return nil
}

// mayLack reports whether a client that is gone may not have the reply that opened a session.
func (r *replies) mayLack(c *client, cur *session.Cursor) bool {
	f := r.of(cur)
	return f != nil && !f.arrived(c)
}

// arrived reports whether the reply has surely reached the client, which may be nil.
func (f *freshReply) arrived(c *client) bool {
	return f.cur.Session().Heard() || c != nil && !f.sent.IsZero() && c.sock.Reached() >= max(f.watch, f.upgraded)
}

// closedOrderly reports whether a client closed its connection by itself, rather than lost it.
func closedOrderly(why engineio.Reason) bool {
	return why == engineio.CloseFrame || why == engineio.ClientClose
}

// parkFor returns how long the session of a fresh reply waits for this client, which is gone: 0 if
// no client can have the pid, and d if there is no reason to end it sooner. orderly says that the
// client closed its connection itself.
func (f *freshReply) parkFor(c *clientConn, d time.Duration, orderly bool) time.Duration {
	if f.sent.IsZero() {
		if c.keyed != nil && !orderly { // it has the key, with or without the reply
			return d
		}
		return 0
	}
	reached := c.sock.Reached()
	switch arrived := reached >= f.watch; {
	case !orderly, f.cur.Session().Heard(), arrived && reached >= f.upgraded:
		return d
	case instant.Since(f.sent) < c.replyTime():
		return min(d, doubtfulParking)
	case arrived:
		return d
	}
	return min(d, c.deps.settings().Recovery.GoingAwayDuration)
}

// park parks, or ends, those of a closed client's sessions whose pid it may not have. It leaves the
// others to the caller.
//
// disconnect() closes the connection only with the last namespace, and sends a DISCONNECT for those
// that are connected. So if the client surely has one of the sessions that are left, it did not
// call disconnect(), and the others wait as long.
func (r *replies) park(c *clientConn, cursors []*session.Cursor, d time.Duration, why reason.Reason, ending session.Ending) {
	var doubtful []*session.Cursor
	var longest time.Duration
	sure := false
	for _, cur := range cursors {
		sure = sure || cur.Attached() && r.of(cur) == nil
	}
	for f := r.first; f != nil; f = f.next {
		left := f.parkFor(c, d, ending == session.ClosedByClient)
		if left > 0 && f.cur.Suspicious(math.MaxUint64) {
			left = d // it may have closed because it cannot decode what followed
		}
		switch left {
		case d:
			sure = true
		case 0:
			c.deps.registry.Abort(f.cur, reason.ClientDisconnect)
		default:
			doubtful, longest = append(doubtful, f.cur), max(longest, left)
		}
	}
	if !sure {
		c.deps.registry.ParkEnded(doubtful, longest, why, ending)
	}
}
