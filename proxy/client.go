package proxy

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/session"
)

// client is one Engine.IO connection from outside. It implements engineio.Handler and
// session.Owner. Fields that every message needs come first, so that they share cache lines, as in
// engineio.Socket.
type client struct {
	sock   *engineio.Socket // immutable
	mu     sync.Mutex       // guards the fields below up to stopDial, unless they say otherwise, and closed
	sender sender

	srv      *Server                   // immutable
	sessions snapshot[*session.Cursor] // read without a lock; written with mu held

	fresh       []freshReply                   // CONNECT replies that may not have arrived; usually nil
	closing     *time.Timer                    // set by closeAfterLocked; usually nil
	primary     *link                          // nil while it needs none
	disconnects byNamespace[*clientDisconnect] // the DISCONNECTs that parked a session
	stopDial    context.CancelFunc             // cancels the dial of a new primary link; usually nil

	receiver receiver // guarded by the Socket's input lock

	partialBytes atomic.Int64 // bytes of receiver.partial that Server.incomplete counts
	connectDelay atomic.Int64 // nanoseconds from its handshake to its first CONNECT; 0 before that
	done         event        // fires when the client is gone and its sessions are parked
	pauses       pauses       // why its input is not read
	websocket    atomic.Bool
	panicked     atomic.Bool // a panic ended it
	detached     sync.Once
	closed       bool // guarded by mu

	// Immutable.
	byWebSocket      bool         // its handshake came over WebSocket
	recoverable      bool         // it can resume sessions, in namespaces that have recovery
	parkOnDisconnect bool         // its DISCONNECT parks a session (recovery.on_client_disconnect)
	seq              uint64       // number of its handshake
	opened           time.Time    // about when its handshake was answered
	address          netip.Addr   // behind trusted proxies, the one they report
	request          savedRequest // its handshake, to dial another primary link with
	pollHeaders      http.Header  // added to its polling responses
	bindingDigest    string       // digest of the recovery.bind values in its handshake
}

func newClient(s *Server, seq uint64, req engineio.Request, sid string, opts engineio.Options, recoverable bool) *client {
	c := &client{
		srv: s, seq: seq, request: saveRequest(req), byWebSocket: req.WebSocket, recoverable: recoverable,
		bindingDigest: s.binder.handshake(req), opened: time.Now(),
	}
	c.parkOnDisconnect = recoverable && s.settings().Recovery.OnClientDisconnect == config.ParkSession
	opts.TooLarge = c.tooLarge
	opts.Incomplete, opts.ConfirmByPong = c.takeIncomplete, c.parkOnDisconnect
	c.sock = engineio.NewSocket(sid, opts, c)
	c.sender.init(s.settings().Recovery.Buffer.Window.Int(), opts.PingTimeout)
	c.receiver.limits = receiverLimits(opts.MaxPayload, int64(s.settings().EngineIO.MaxPayload))
	return c
}

// Handshake implements session.Owner.
func (c *client) Handshake() uint64 { return c.seq }

// Upgraded implements engineio.Handler.
func (c *client) Upgraded() {
	c.websocket.Store(true)
	c.repliesUpgraded()
}

// attached returns the client's cursor on its live session of a namespace, or nil.
func (c *client) attached(namespace string) *session.Cursor {
	cur := c.sessions.get(namespace)
	if cur == nil || !cur.Attached() {
		return nil
	}
	return cur
}

// parkingReasons maps how a transport ended to the reason that metrics and logs report.
var parkingReasons = map[engineio.Reason]reason.Reason{
	engineio.TransportClose: reason.TransportClose,
	engineio.TransportError: reason.TransportError,
	engineio.PingTimeout:    reason.PingTimeout,
	engineio.ClientClose:    reason.EngineClose,
	engineio.GoingAway:      reason.GoingAway,
	engineio.ParseError:     reason.ParseError,
	engineio.ForcedClose:    reason.TransportClose,
	engineio.PollError:      reason.PollError,
	engineio.CloseFrame:     reason.TransportClose,
}

// Closed implements engineio.Handler.
func (c *client) Closed(why engineio.Reason) {
	defer c.recoverPanic()
	c.srv.removeClient(c)
	if why == engineio.PingTimeout {
		c.srv.metrics.HeartbeatTimeouts.Client.Inc()
	}
	c.srv.log.Debug("client closed", "client", c.seq, "reason", why.String())
	parkedFor, ending := parkingReasons[why], endingOf(why)
	if c.srv.leaving.Load() && why != engineio.GoingAway { // the end of a connection that Leave has cut
		parkedFor, ending = reason.Handover, session.Lost
	}
	c.parkAs(parkedFor, c.parkFor(why == engineio.GoingAway), ending)
}

// endingOf returns how a client's connection ended, in the terms of package session.
func endingOf(why engineio.Reason) session.Ending {
	if inOrder(why) {
		return session.ClosedByClient
	}
	return session.Lost
}

// park parks the client's sessions. When it returns they can be resumed, even if another goroutine
// called it first.
func (c *client) park(why reason.Reason) {
	ending := session.Lost
	if why == reason.Takeover {
		ending = session.Overtaken
	}
	c.parkAs(why, c.parkFor(false), ending)
}

// parkAs parks the client's sessions for at most d. ending says how its connection ended.
func (c *client) parkAs(why reason.Reason, d time.Duration, ending session.Ending) {
	c.detach(func(cursors []*session.Cursor, fresh []freshReply, primary *link) {
		if primary != nil { // first: if all its sessions end now, the link closes without DISCONNECTs
			primary.release(c, true)
		}
		if c.panicked.Load() { // Closed ran before abortPanicked
			c.failSessions(cursors, primary)
			return
		}
		c.judgeTrial(ending)
		c.settleLagged(ending)
		c.parkFresh(cursors, fresh, d, why, ending)
		c.srv.registry.ParkEnded(cursors, d, why, ending) // no effect on what parkFresh parked or ended
		c.srv.flushNotified(cursors)
	})
}

// detach takes the client off its sessions and its primary link, and passes them to leave. Only the
// first call does anything. Others wait until it is done.
func (c *client) detach(leave func(cursors []*session.Cursor, fresh []freshReply, primary *link)) {
	c.detached.Do(func() {
		defer func() {
			c.done.Fire()
			c.freePartial()
		}()
		cursors, fresh, primary := c.markClosed()
		defer func() {
			if v := recover(); v != nil {
				c.srv.reportPanic(v)
				c.failSessions(cursors, primary)
			}
		}()
		leave(cursors, fresh, primary)
	})
}

// markClosed marks the client as closed, and returns what it was attached to. Nothing can be
// attached to it afterwards.
func (c *client) markClosed() (cursors []*session.Cursor, fresh []freshReply, primary *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	cursors = c.sessions.all()
	primary = c.primary
	c.primary = nil
	fresh, c.fresh = c.fresh, nil
	c.sessions.clear()
	if c.closing != nil {
		c.closing.Stop()
	}
	if c.stopDial != nil {
		c.stopDial()
	}
	c.srv.safely(func() { cursors = append(cursors, c.sender.cursors()...) })
	c.srv.safely(c.sender.close)
	c.sender.stopTrials()
	if c.sender.lagTimer != nil {
		c.sender.lagTimer.Stop()
	}
	return cursors, fresh, primary
}

// closeAfterLocked calls end after d, unless the client is gone by then. It replaces an earlier
// call.
func (c *client) closeAfterLocked(d time.Duration, end func()) {
	if c.closing != nil {
		c.closing.Stop()
	}
	c.closing = time.AfterFunc(d, end) // stopped by markClosed
}

func (c *client) parkFor(goingAway bool) time.Duration {
	r := c.srv.settings().Recovery
	if goingAway {
		return min(r.GoingAwayDuration, r.MaxDisconnectionDuration)
	}
	return r.MaxDisconnectionDuration
}

// abort closes the client immediately, for example because another client takes over its sessions.
// They are parked when it returns.
func (c *client) abort(why reason.Reason) {
	c.park(why)
	switch why {
	case reason.ParseError, reason.Limit: // the client is at fault: close properly, as the server would
	default:
		c.sock.ShowBroken()
	}
	c.sock.Abort()
}

// setPrimary makes l the client's primary link. It returns false if the client is gone.
func (c *client) setPrimary(l *link) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.primary = l
	return true
}

// onPrimaryLost tells the client that its primary link has ended. needed says whether the client
// had anything on it. orderly says whether the server closed it properly.
func (c *client) onPrimaryLost(l *link, needed, orderly bool) {
	defer c.recoverPanic()
	if c.clearPrimary(l) && (needed || !c.attachedAnywhere()) {
		c.end(orderly)
	}
}

// clearPrimary removes l as the client's primary link. It returns false if l was not its primary
// link.
func (c *client) clearPrimary(l *link) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.primary == l
	if was {
		c.primary = nil
	}
	return was
}

func (c *client) attachedAnywhere() bool {
	return slices.ContainsFunc(c.sessions.all(), (*session.Cursor).Attached)
}

// connected attaches the client to a fresh session, whose CONNECT reply has arrived. It returns
// false if the client is gone, or has a session in this namespace already.
func (c *client) connected(l *link, namespace string, reply connectReply, binding session.Binding, resumable bool) (ok bool) {
	defer c.recoverPanic()
	if !c.attach(l, namespace, reply, binding, resumable) {
		return false
	}
	c.srv.metrics.SessionsCreated.Inc()
	c.srv.log.Debug("session opened", "client", c.seq, "namespace", namespace, "resumable", resumable)
	return true
}

func (c *client) attach(l *link, namespace string, reply connectReply, binding session.Binding, resumable bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.sessions.get(namespace); c.closed || old != nil && old.Attached() {
		return false
	}
	cur := c.srv.registry.New(l, namespace, c, resumable)
	s := cur.Session()
	s.Bind(binding)
	l.add(s) // with mu held: a client that ends now must not see the link unused
	c.sessions.set(namespace, cur)
	c.forgetEndedLocked()
	if s.PID() != "" {
		c.fresh = append(c.fresh, freshReply{cur: cur})
	}
	c.sender.pushRaw(reply.withPID(s), false, l)
	c.sender.pending[len(c.sender.pending)-1].fresh = s.PID() != ""
	return true
}

// deliver queues n packets of a session's log for the client. The link wakes the Socket later, once
// for a whole batch.
func (c *client) deliver(cur *session.Cursor, n int) {
	defer c.recoverPanic()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sender.push(cur, n)
}

// relay queues a copy of a message that belongs to no session.
func (c *client) relay(data []byte, binary bool, l *link) {
	defer c.recoverPanic()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.sender.pushRaw(slices.Clone(data), binary, l)
	}
}

// tooLarge logs that a message exceeded Options.MaxPayload.
func (c *client) tooLarge() {
	c.srv.limitedLog.Log(slog.LevelWarn, "", "a client's message is too large", "client", c.seq, "key", "engineio.max_payload")
}

// end closes the client's transport after everything that is queued for it. orderly says that the
// server closed the connection: the client then sees the same. Otherwise it sees a broken
// connection, so that it reconnects.
func (c *client) end(orderly bool) {
	c.mu.Lock()
	c.sender.ending = true
	c.mu.Unlock()
	if !orderly {
		c.sock.ShowBroken()
	}
	c.sock.Close()
}
