package proxy

import (
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

// clientState is how far a client is:
//
//	open     -> draining  its link ended, or holdfast stops: what is queued is still sent
//	open     -> closed    its connection ended: its sessions are detached
//	draining -> closed    the same; terminal
type clientState uint8

const (
	clientOpen clientState = iota
	clientDraining
	clientClosed
)

// moveLocked is the only place where a client's state changes. It reports whether the transition
// exists. client.mu and sender.mu are held.
func (s *clientState) moveLocked(to clientState) bool {
	if to <= *s {
		return false
	}
	*s = to
	return true
}

// clientTransport is how a client's packets travel. It is read without a lock:
//
//	polling -> upgraded   terminal
//	webSocket             its handshake came over WebSocket; terminal
type clientTransport struct {
	is atomic.Uint32
}

const (
	polling uint32 = iota
	upgraded
	webSocket
)

// begin sets the transport of a client's handshake. Nothing else reads it yet.
func (t *clientTransport) begin(websocket bool) {
	if websocket {
		t.is.Store(webSocket)
	}
}

// upgrade notes that a client uses WebSocket from now on.
func (t *clientTransport) upgrade() { t.is.CompareAndSwap(polling, upgraded) }

// isWebSocket reports whether packets travel over WebSocket now.
func (t *clientTransport) isWebSocket() bool { return t.is.Load() != polling }

// begunByWebSocket reports whether the handshake came over WebSocket.
func (t *clientTransport) begunByWebSocket() bool { return t.is.Load() == webSocket }

// clientConn is a client's connection: what the client, its sender and its receiver share.
type clientConn struct {
	sock     *engineio.Socket          // immutable
	deps     *deps                     // immutable
	sessions snapshot[*session.Cursor] // read without a lock; written with client.mu held

	transport clientTransport
	state     clientState // read with client.mu or sender.mu held

	recoverable bool // it can resume sessions, in namespaces that have recovery; immutable

	connectDelay atomic.Int64    // nanoseconds from its handshake to its first CONNECT; 0 before that
	opened       instant.Instant // about when its handshake was answered; immutable, like the rest
	disconnects  *disconnects    // nil unless its DISCONNECT parks a session (recovery.on_client_disconnect)
	seq          uint64          // number of its handshake
	address      netip.Addr      // behind trusted proxies, the one they report
	request      savedRequest    // its handshake, to dial another primary link with
	pollHeaders  http.Header     // added to its polling responses
	presented    *string         // digest of the recovery.bind values in its handshake; nil without any
	keyed        *keyedClient    // nil without a key
}

// confirmsByPong reports whether polls confirm nothing. A client with a key has no offset to tell
// what it has: what it polled would come twice.
func (c *clientConn) confirmsByPong() bool { return c.recoverable && c.keyed == nil }

// bindingDigest returns the digest of what the client's handshake presents, or "".
func (c *clientConn) bindingDigest() string {
	if c.presented == nil {
		return ""
	}
	return *c.presented
}

// attached returns the client's cursor on its live session of a namespace, or nil.
func (c *clientConn) attached(namespace string) *session.Cursor {
	cur := c.sessions.get(namespace)
	if cur == nil || !cur.Attached() {
		return nil
	}
	return cur
}

func (c *clientConn) attachedAnywhere() bool {
	return slices.ContainsFunc(c.sessions.all(), (*session.Cursor).Attached)
}

// parkFor returns how long the client's sessions are parked at most.
func (c *clientConn) parkFor(goingAway bool) time.Duration {
	r := c.deps.settings().Recovery
	if goingAway {
		return min(r.GoingAwayDuration, r.MaxDisconnectionDuration)
	}
	return r.MaxDisconnectionDuration
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

// isV3 reports whether the client speaks Engine.IO 3.
func (c *clientConn) isV3() bool { return c.keyed != nil && c.keyed.v3 }

// inDialect returns a packet that belongs to no log as the client reads it.
func (c *clientConn) inDialect(packet []byte) []byte {
	if c.isV3() {
		return socketio.ToV4(packet)
	}
	return packet
}

// minReplyTime and maxReplyTime bound how long a reply may have been in flight to the client.
const (
	minReplyTime = 100 * time.Millisecond
	maxReplyTime = time.Second
)

// replyTime returns how long a reply may be in flight to this client: twice the time from its
// handshake to its first CONNECT, which is about a round trip, and a little more.
func (c *clientConn) replyTime() time.Duration {
	return min(2*time.Duration(c.connectDelay.Load())+minReplyTime, maxReplyTime)
}

// notRecovered reports that the client does not get the session that it claims.
func (c *clientConn) notRecovered(namespace string, why reason.Reason) {
	c.deps.notRecovered(c.seq, c.address, namespace, why)
}
