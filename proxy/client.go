package proxy

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/metrics"
	"github.com/holdfast/holdfast/session"
)

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
		deps: d, seq: seq, request: saveRequest(req), recoverable: recoverable,
		opened: instant.Now(), keyed: keyed,
	}}
	c.transport.begin(req.WebSocket)
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

// Alive implements engineio.Handler.
func (c *client) Alive() { c.deps.asked.answered(c) }

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
	c.transport.upgrade()
	c.sender.upgrade()
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

// clientOf returns the client behind an Owner, or nil if there is none.
func clientOf(o session.Owner) *client {
	c, _ := o.(*client)
	return c
}

// connectReply is a server's CONNECT reply. A pid can be inserted at place.
type connectReply struct {
	data  []byte
	place int
}

// withPID returns the reply with the session's pid. The session keeps it for clients that resume
// it.
func (r connectReply) withPID(s *session.Session) []byte {
	switch {
	case s.PID() == "":
		return r.data
	case s.Keyed(): // its client finds it by the key
		s.SetReply(r.data)
		return r.data
	}
	reply := socketio.AddPID(r.data, r.place, s.PID())
	s.SetReply(reply)
	return reply
}
