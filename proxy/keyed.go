package proxy

import (
	"log/slog"
	"math"
	"math/big"
	"slices"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/internal/keys"
	"github.com/holdfast/holdfast/internal/peerwire"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

// Keyed recovery is for clients that do not know of pids and offsets. Such a client has a key in its
// URL (recovery.keyed.query) that stays the same over its reconnections. Its sessions are found by
// the key: keyring has them. Its CONNECT replies and its events are exactly what the server sent.
// See docs/adr/0011-keyed-recovery.md.
//
// The key alone does not tell a second client from one that returns. So before a client takes over
// the sessions of a connected one, holdfast asks that one for a sign of life. If it gives one, the
// newcomer is another client, and is served without recovery.

// keyedClient is what a client with a key has in addition.
type keyedClient struct {
	key    string                         // a digest of it
	counts map[string]peerwire.EventCount // events that it has handled, by namespace; nil if it does not count
	v3     bool                           // it speaks Engine.IO 3; immutable
	since  *big.Int                       // the time of its handshake, if earlier requests may have its sid; immutable
	// foreign says that another client has the key, or that the client may not use it.
	foreign atomic.Bool

	// Guarded by the Socket's input lock.
	owner    bool // it has the key
	looked   bool // no other replica has the key
	tookOver bool // from a client that was connected
}

// isKeyed reports whether the client's sessions are found by a key.
func (c *clientConn) isKeyed() bool { return c.keyed != nil && !c.keyed.foreign.Load() }

// sessionKey returns the key of the client's sessions.
func (c *clientConn) sessionKey() session.Key {
	return session.Key{Digest: c.keyed.key, Handshake: c.bindingDigest()}
}

// resumable reports whether a session that the client opens in a namespace can be resumed.
func (c *clientConn) resumable(namespace string) bool {
	return c.recoverable && (c.keyed == nil || c.isKeyed()) && c.deps.settings().recoverable(namespace)
}

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
		owner, ok := ring.Claim(c.sessionKey(), c, namespace, binding)
		other := clientOf(owner)
		switch {
		case !ok:
			r.loseKey(namespace, reason.Binding)
		case other == nil:
			k.owner = true
			r.adoptLink(linkOfKey(ring, k.key))
		case other.seq > c.seq:
			c.deps.notRecovered(c, namespace, reason.Stale)
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
	switch {
	case why != "":
		c.deps.notRecovered(c, namespace, why)
		return false
	case pid == "" || !r.resumeAllowed(namespace):
		return false
	}
	claim := r.claim(namespace, rest, socketio.Recovery{PID: pid})
	count, counted := k.counts[namespace]
	claim.Handled, claim.HandledBy, claim.Counted = count.N, count.ID, counted
	delete(k.counts, namespace) // it is what the client had when it connected
	return r.resume(claim, start) || r.parser == parserClosed
}

// loseKey makes the client continue without its key: another client has it, or this one may not use
// it.
func (r keyedReceiver) loseKey(namespace string, why reason.Reason) {
	r.c.keyed.foreign.Store(true)
	r.c.deps.notRecovered(r.c, namespace, why)
}

// keyInUseText is what the log says about key_in_use.
const keyInUseText = "a key is used by two clients at a time: the later one is served without recovery"

// aliveTimeout is how long a client has to show that it is alive. python-socketio waits one
// second for the reply to its CONNECT. Tests shorten it.
var aliveTimeout = 300 * time.Millisecond

const askInterval = 5 * time.Millisecond

// askOther asks the client that has the key for a sign of life, and then handles the CONNECT again.
// Reading is paused meanwhile.
func (r keyedReceiver) askOther(other *client, namespace string, connect []byte) {
	connect = slices.Clone(connect)
	r.awaitLink(func() { // ends with answersWithin, or awaitSign
		alive := !mayHaveChoked(other) && answersWithin(other, aliveTimeout)
		if !alive {
			awaitSign(other)
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

// mayHaveChoked reports whether a client was sent packets that it may be unable to decode, and has
// not confirmed them. It has probably left its connection then, which still answers: socket.io-client
// before 4.8 leaves it open.
func mayHaveChoked(c *client) bool {
	c.sender.mu.Lock()
	tried := c.sender.trials != nil
	c.sender.mu.Unlock()
	for e := c.sessions.first.Load(); e != nil; e = e.next {
		tried = tried || e.value.Suspicious(math.MaxUint64)
	}
	return tried
}

// answersWithin reports whether a client shows a sign of life within d. It polls, because clients are
// rarely asked: a channel for the answer would take memory in every Socket.
func answersWithin(c *client, d time.Duration) bool {
	c.sock.Ask()
	tick := time.NewTicker(askInterval)
	defer tick.Stop()
	answered := false
	for late := time.After(d); ; {
		select {
		case <-c.done.Done():
			return false
		case <-late:
			return answered
		case <-tick.C:
			if answered {
				return true
			}
			answered = c.sock.Answered() // the end of its connection may come right behind
		}
	}
}

// adoptLink makes the link of the key's sessions the client's primary link, so that all of them stay
// on one link. It does nothing if there is none.
func (r keyedReceiver) adoptLink(l *link) {
	if l == nil {
		return
	}
	r.detachUnused()
	r.c.primary.adopt(l, r.c)
}

// linkOfKey returns a link that has sessions of a key, or nil.
func linkOfKey(ring *keys.Ring, key string) *link {
	if s := ring.AnySession(key); s != nil {
		return linkOf(s)
	}
	return nil
}

// upstreamEvent returns an event that asks for an acknowledgement as the server gets it from a
// client with a key: with an id of its own.
func upstreamEvent(cur *session.Cursor, p *packet) (data []byte, ok bool) {
	id, ok := cur.UpstreamAckID(p.h.AckID)
	if !ok || id == p.h.AckID {
		return p.data, ok
	}
	return socketio.AppendWithAckID(nil, p.data, &p.h, id), true
}

// clientAnswer returns an answer as a client with a key gets it: with its own id.
func clientAnswer(p *buffer.Entry) []byte {
	data, id := p.Data(), session.ClientAckID(p.AckID())
	if id == p.AckID() {
		return data
	}
	h, err := socketio.ParseHeader(data)
	if err != nil {
		return data // it parsed before
	}
	return socketio.AppendWithAckID(nil, data, &h, id)
}
