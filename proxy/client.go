package proxy

import (
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/metrics"
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

// clientConn is a client's connection: what the client, its sender and its receiver share.
type clientConn struct {
	sock     *engineio.Socket          // immutable
	deps     *deps                     // immutable
	sessions snapshot[*session.Cursor] // read without a lock; written with client.mu held

	websocket atomic.Bool
	state     clientState // read with client.mu or sender.mu held

	// Immutable.
	byWebSocket bool // its handshake came over WebSocket
	recoverable bool // it can resume sessions, in namespaces that have recovery

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

// client is one Engine.IO connection from outside. It implements engineio.Handler and
// session.Owner. Fields that every message needs come first, so that they share cache lines, as in
// engineio.Socket.
type client struct {
	clientConn
	sender   sender
	receiver receiver

	mu       sync.Mutex  // guards closing, writes to sessions, and state
	closing  *time.Timer // set by closeAfter; usually nil
	primary  primary
	done     event       // fires when the client is gone and its sessions are parked
	pauses   pauses      // why its input is not read
	panicked atomic.Bool // a panic ended it
}

func newClient(d *deps, seq uint64, req engineio.Request, sid string, opts engineio.Options, recoverable bool, keyed *keyedClient) *client {
	c := &client{clientConn: clientConn{
		deps: d, seq: seq, request: saveRequest(req), byWebSocket: req.WebSocket, recoverable: recoverable,
		opened: instant.Now(), keyed: keyed,
	}}
	if digest := d.binder.Handshake(req); digest != "" {
		c.presented = &digest
	}
	if recoverable && keyed == nil && d.settings().Recovery.OnClientDisconnect == config.ParkSession {
		c.disconnects = new(disconnects)
	}
	opts.ConfirmByPong = c.confirmsByPong()
	c.sock = engineio.NewSocket(sid, opts, c)
	c.sender.init(&c.clientConn, d.settings().Recovery.Buffer.Window.Int(), opts.PingTimeout)
	c.receiver.init(c, opts.MaxPayload)
	return c
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

// Handshake implements session.Owner.
func (c *client) Handshake() uint64 { return c.seq }

// Message implements engineio.Handler.
func (c *client) Message(data []byte, binary bool) { c.receiver.message(data, binary) }

// Flush implements engineio.Handler.
func (c *client) Flush() { c.receiver.flush() }

// Fill implements engineio.Handler.
func (c *client) Fill(e *engineio.Encoder, maxBytes int) engineio.FillResult {
	return c.sender.fill(e, maxBytes)
}

// Pending implements engineio.Handler.
func (c *client) Pending() bool { return c.sender.wanted() }

// Mark implements engineio.Handler.
func (c *client) Mark() uint64 { return c.sender.newMark() }

// ConfirmPing implements engineio.Handler.
func (c *client) ConfirmPing() { c.deps.metrics.ConfirmPings.Inc() }

// Confirm implements engineio.Handler.
func (c *client) Confirm(mark uint64) { c.sender.confirm(mark) }

// Unconfirmed implements engineio.Handler.
func (c *client) Unconfirmed() (pending, overdue bool) { return c.sender.unconfirmed() }

// Incomplete implements engineio.Handler.
func (c *client) Incomplete(bytes int) bool {
	if c.deps.incomplete.take(bytes) {
		return true
	}
	c.deps.refused(metrics.IncompleteBytes, c.address)
	return false
}

// TooLarge implements engineio.Handler.
func (c *client) TooLarge() {
	c.deps.limitedLog.Log(slog.LevelWarn, "", "a client's message is too large", "client", c.seq, "key", "engineio.max_payload")
}

// Upgraded implements engineio.Handler.
func (c *client) Upgraded() {
	c.websocket.Store(true)
	c.sender.upgrade()
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

// connected attaches the client to a fresh session, whose CONNECT reply has arrived. It returns
// false if the client is gone, or has a session in this namespace already.
func (c *client) connected(l *link, namespace string, reply connectReply, binding session.Binding, resumable bool) (ok bool) {
	defer c.recoverPanic()
	if !c.attach(l, namespace, reply, binding, resumable) {
		return false
	}
	c.deps.metrics.SessionsCreated.Inc()
	c.deps.log.Debug("session opened", "client", c.seq, "namespace", namespace, "resumable", resumable)
	return true
}

func (c *client) attach(l *link, namespace string, reply connectReply, binding session.Binding, resumable bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == clientClosed || c.attached(namespace) != nil {
		return false
	}
	cur := c.deps.registry.New(l, namespace, c, resumable)
	s := cur.Session()
	s.Bind(binding)
	if resumable && c.keyed != nil {
		s.SetKey(c.sessionKey())
		c.deps.keyring.Add(s)
	}
	l.add(s) // with mu held: a client that ends now must not see the link unused
	c.setSessionLocked(namespace, cur)
	c.sender.connected(cur, reply.withPID(s), l)
	return true
}

// reattach asks the registry for the session of a claim. If the client gets it, reattach queues the
// reply and the missed packets. closed says that the client is gone.
func (c *client) reattach(claim session.Claim, start instant.Instant) (r session.Resumption, closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == clientClosed {
		return r, true
	}
	r = c.sender.resume(start, c, func() (session.Resumption, source) {
		r := c.deps.registry.Resume(claim, c)
		if r.Cursor == nil {
			return r, nil
		}
		c.setSessionLocked(claim.Namespace, r.Cursor)
		c.disconnects.take(claim.Namespace)
		return r, linkOf(r.Cursor.Session())
	})
	return r, false
}

// setSessionLocked adds a session. It forgets sessions and DISCONNECTs of namespaces that have
// ended, the oldest first, but only once the client has had more namespaces than it may have at a
// time. If the client still sends packets for them, the upstream decides what to do with them.
func (c *client) setSessionLocked(namespace string, cur *session.Cursor) {
	c.sessions.set(namespace, cur)
	most := c.deps.settings().Limits.MaxNamespacesPerConnection
	c.sessions.trim(most, func(cur *session.Cursor) bool { return !cur.Attached() })
	c.disconnects.trim(most)
}

// removeSession removes a session that the client disconnected from.
func (c *client) removeSession(s *session.Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sessions.remove(s.Namespace())
	if !c.attachedAnywhere() {
		c.disconnects.lastSession()
	}
}

// deliver queues n packets of a session's log for the client. The link wakes the Socket later, once
// for a whole batch.
func (c *client) deliver(cur *session.Cursor, n int) {
	defer c.recoverPanic()
	c.sender.deliver(cur, n)
}

// relay queues a copy of a message that belongs to no session.
func (c *client) relay(data []byte, binary bool, l *link) {
	defer c.recoverPanic()
	c.sender.relay(data, binary, l)
}

var _ engineio.Handler = (*client)(nil)
