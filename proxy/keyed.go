package proxy

import (
	"log/slog"
	"slices"
	"time"

	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/internal/keys"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

// Keyed recovery is for clients that do not know of pids and offsets. Such a client has a key in
// its URL (recovery.keyed.query) that stays the same over its reconnections. Its sessions are found
// by the key: keyring has them. Its CONNECT replies and its events are exactly what the server
// sent. See docs/adr/0011-keyed-recovery.md.
//
// The key alone does not tell a second client from one that returns. So before a client takes over
// the sessions of a connected one, holdfast asks that one for a sign of life. If it gives one, the
// new one is another client, and is served without recovery.

// keyedReceiver is the receiver of a client with a key.
type keyedReceiver struct{ *receiver }

// connectKeyed handles a CONNECT of a client with a key. rest is the packet without pid and offset.
// It returns false if the namespace must be connected at the server.
func (r keyedReceiver) connectKeyed(namespace string, rest []byte, start instant.Instant) (done bool) {
	c, k, ring := r.c, r.c.keyed, &r.c.deps.keyring
	if r.moveKeyed(namespace, rest) {
		return true
	}
	binding := c.deps.binder.Session(c.bindingDigest(), rest)
	if !k.owner && !k.foreign.Load() {
		owner, ok := claimKey(c, namespace, binding)
		other := clientOf(owner)
		switch {
		case other == c:
			r.parser.move(parserClosed)
			return true
		case !ok:
			r.loseKey(namespace, reason.Binding)
		case other == nil:
			r.ownKey()
			r.adoptLink(linkOfKey(ring, k.key))
		case other.seq > c.seq:
			c.notRecovered(namespace, reason.Stale)
			r.abortFor(reason.TransportClose, "a later connection has its key")
			return true
		default:
			r.askOther(other, namespace, rest)
			return true
		}
	}
	if k.foreign.Load() {
		return false
	}
	pid, why := ring.Find(k.key, namespace)
	if pid == "" {
		r.reportEnd(namespace, why)
		return false
	}
	if !r.resumeAllowed(namespace) {
		return false
	}
	claim := r.claim(namespace, rest, socketio.Recovery{PID: pid})
	count, counted := k.counts[namespace]
	claim.Handled, claim.HandledBy, claim.Counted = count.N, count.ID, counted
	delete(k.counts, namespace) // it is what the client had when it connected
	return r.resume(claim, start) || r.parser == parserClosed
}

// claimKey makes the client the owner of its key; see keys.Ring.Claim. If the client has closed
// meanwhile, it returns the client itself: detach has released the key before it was claimed, and
// will not do that again.
func claimKey(c *client, namespace string, binding session.Binding) (owner session.Owner, ok bool) {
	ring := &c.deps.keyring
	owner, ok = ring.Claim(c.sessionKey(), c, namespace, binding)
	if owner == nil && ok && c.isClosed() {
		ring.Release(c.keyed.key, c)
		return c, true
	}
	return owner, ok
}

// ownKey notes that the client has its key.
func (r keyedReceiver) ownKey() {
	k := r.c.keyed
	k.owner = true
	k.lastHolder = r.c.deps.keyring.TakeLastHolder(k.key)
}

// reportEnd reports why there is no session in a namespace any more: why, if this replica had it,
// or what the one says that had the key last.
func (r keyedReceiver) reportEnd(namespace string, why reason.Reason) {
	c, holder := r.c, r.c.keyed.lastHolder
	switch {
	case why != "":
		c.notRecovered(namespace, why)
	case holder != "":
		go keyedReplicas{c.deps.replicas}.reportEnd(c, holder, namespace) // ends within askTimeout
	}
}

// loseKey makes the client continue without its key: another client has it, or this one may not use
// it.
func (r keyedReceiver) loseKey(namespace string, why reason.Reason) {
	r.c.keyed.foreign.Store(true)
	r.c.notRecovered(namespace, why)
}

// askOther asks the client that has the key for a sign of life, and then handles the CONNECT again.
// Reading is paused meanwhile.
func (r keyedReceiver) askOther(other *client, namespace string, connect []byte) {
	connect = slices.Clone(connect)
	r.awaitLink(func() { // ends with answers, or awaitSign
		alive := !mayHaveChoked(other) && answers(other)
		if !alive {
			awaitSign(other, r.c, maxSignTime)
		}
		r.c.sock.Input(func() {
			waiting := r.takeWaiting()
			r.asked(other, alive, namespace)
			r.message(connect, false)
			r.replay(waiting)
		})
	})
}

// asked handles the outcome of askOther.
func (r keyedReceiver) asked(other *client, alive bool, namespace string) {
	switch {
	case r.c.done.HasFired(): // the sessions are for the next one
		r.parser.move(parserClosed)
	case alive:
		r.c.deps.limitedLog.Log(slog.LevelWarn, "", keyInUseText, "client", r.c.seq, "other", other.seq)
		r.loseKey(namespace, reason.KeyInUse)
	default:
		other.abort(reason.Takeover)
		r.c.keyed.tookOver = true
	}
}

// keyAnswerTime limits how long awaitKey waits for signs. The edge waits for keyAskTimeout, and then
// takes this replica for one that cannot be reached: its client would lose the sessions.
const keyAnswerTime = keyAskTimeout - 200*time.Millisecond

// awaitKey is what connectKeyed does about the key, for a client whose connection is not served yet,
// so that it may wait here. It returns why the client does not get the key. It waits for signs of
// other clients for keyAnswerTime at most, and each round closes a client.
func (r keyedReceiver) awaitKey(namespace string, connect []byte) (refused reason.Reason) {
	c := r.c
	binding, start := c.deps.binder.Session(c.bindingDigest(), connect), time.Now()
	for {
		owner, ok := claimKey(c, namespace, binding)
		other := clientOf(owner)
		switch {
		case other == c: // this replica stops, or hands over
			return reason.OwnerUnreachable
		case !ok:
			return reason.Binding
		case other == nil:
			return ""
		case other.seq > c.seq:
			return reason.Stale
		case !mayHaveChoked(other) && answers(other):
			return reason.KeyInUse
		}
		awaitSign(other, c, keyAnswerTime-time.Since(start))
		other.abort(reason.Takeover)
		c.keyed.tookOver = true
	}
}

// adoptLink makes the link of the key's sessions the client's primary link, so that all of them
// stay on one link. It does nothing if there is none.
func (r keyedReceiver) adoptLink(l *link) {
	if l == nil {
		return
	}
	r.detachUnused()
	r.c.primary.adopt(l, func() bool { return l.adopt(r.c) })
}

// linkOfKey returns a link that has sessions of a key, or nil.
func linkOfKey(ring *keys.Ring, key string) *link {
	if s := ring.AnySession(key); s != nil {
		return linkOf(s)
	}
	return nil
}
