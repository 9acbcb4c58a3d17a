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

// client is one Engine.IO connection from outside. It implements engineio.Handler and session.Owner. What each message needs
// stands first, as in an engineio.Socket.
type client struct {
	sock   *engineio.Socket // immutable
	mu     sync.Mutex       // guards the fields below, up to disconnects, but for those that say otherwise
	sender sender

	srv      *Server                   // immutable
	sessions snapshot[*session.Cursor] // changed with mu held

	closed      bool
	fresh       []freshReply                   // whose arrival is not known yet; nil for most
	closing     *time.Timer                    // nil for most
	primary     *link                          // of its own handshake; nil while none is needed
	disconnects byNamespace[*clientDisconnect] // to sessions that it left
	stopDial    context.CancelFunc             // of a further primary link; nil unless one is dialled

	receiver receiver // owned by the Socket's input

	partialBytes atomic.Int64 // of in.partial, as counted in Server.incomplete
	websocket    atomic.Bool
	pauses       pauses       // of its input
	connectDelay atomic.Int64 // from its handshake to its first CONNECT, in nanoseconds; 0 before that
	panicked     atomic.Bool  // by a panic
	detached     sync.Once
	done         event // the client is gone and its sessions are parked

	// Immutable.
	byWebSocket      bool         // the handshake was
	recoverable      bool         // sessions of its are, in namespaces that have recovery
	parkOnDisconnect bool         // its sessions are parked when it says goodbye to them
	seq              uint64       // of its handshake
	opened           time.Time    // when its handshake was answered
	address          netip.Addr   // where it comes from
	request          savedRequest // its handshake, to be repeated if a further primary link is needed
	pollHeaders      http.Header  // for its polling responses
	bindingDigest    string       // digest of what its handshake has of recovery.bind
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

// attached is the client's cursor on the open session of a namespace, or nil.
func (c *client) attached(namespace string) *session.Cursor {
	cur := c.sessions.get(namespace)
	if cur == nil || !cur.Attached() {
		return nil
	}
	return cur
}

// parkingReasons are the metric's words for how a transport ended.
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
	c.parkAs(parkingReasons[why], c.parkFor(why == engineio.GoingAway), endingOf(why))
}

// endingOf is how a client's connection ended, for its sessions.
func endingOf(why engineio.Reason) session.Ending {
	if inOrder(why) {
		return session.ClosedByClient
	}
	return session.Lost
}

// park parks the client's sessions. When it returns they can be resumed, whoever called it first.
func (c *client) park(why reason.Reason) {
	ending := session.Lost
	if why == reason.Takeover {
		ending = session.Overtaken
	}
	c.parkAs(why, c.parkFor(false), ending)
}

// parkAs is park for at most d. ending says how its connection ended.
func (c *client) parkAs(why reason.Reason, d time.Duration, ending session.Ending) {
	c.detach(func(cursors []*session.Cursor, fresh []freshReply, primary *link) {
		if primary != nil { // first, for a link whose sessions all end now is to be closed, not only disconnected
			primary.release(c, true)
		}
		if c.panicked.Load() { // its end was heard of before fail was called
			c.failSessions(cursors, primary)
			return
		}
		c.judgeTrial(ending)
		c.settleLagged(ending)
		c.parkFresh(cursors, fresh, d, why, ending)
		c.srv.registry.ParkEnded(cursors, d, why, ending) // but for those whose place was found above
		c.srv.flushNotified(cursors)
	})
}

// detach takes the client off its sessions and its primary link, and leaves what becomes of them to the function. Only the first
// call does anything; the others wait for it.
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

// markClosed closes the client for anything further, and returns what it was attached to.
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

// closeAfterLocked calls end after a while, unless the client is gone by then.
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

// abort closes the client at once, because another takes its sessions over, say. They are parked when it returns.
func (c *client) abort(why reason.Reason) {
	c.park(why)
	switch why {
	case reason.ParseError, reason.Limit: // for what it sent: it is closed in order, as the server would do it
	default:
		c.sock.ShowBroken()
	}
	c.sock.Abort()
}

// setPrimary makes l the client's primary link, unless the client has gone.
func (c *client) setPrimary(l *link) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.primary = l
	return true
}

// onPrimaryLost says that a link which is this client's primary link has ended, in which way, and whether anything of the client's was on
// it.
func (c *client) onPrimaryLost(l *link, needed, orderly bool) {
	defer c.recoverPanic()
	if c.clearPrimary(l) && (needed || !c.attachedAnywhere()) {
		c.end(orderly)
	}
}

// clearPrimary makes l the client's primary link no longer, and reports whether it was.
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

// connected attaches the client to a fresh session, whose CONNECT reply has come. It returns false if the client has gone.
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
	l.add(s) // before the client's end, which waits for mu, can find the link without sessions
	c.sessions.set(namespace, cur)
	c.forgetEndedLocked()
	if s.PID() != "" {
		c.fresh = append(c.fresh, freshReply{cur: cur})
	}
	c.sender.pushRaw(reply.withPID(s), false, l)
	c.sender.pending[len(c.sender.pending)-1].fresh = s.PID() != ""
	return true
}

// deliver says that a session's log has n packets for the client; the Socket is woken later, by its link.
func (c *client) deliver(cur *session.Cursor, n int) {
	defer c.recoverPanic()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sender.push(cur, n)
}

// relay sends the client a message that belongs to no session.
func (c *client) relay(data []byte, binary bool, l *link) {
	defer c.recoverPanic()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.sender.pushRaw(slices.Clone(data), binary, l)
	}
}

// tooLarge tells of a message that Options.MaxPayload forbids.
func (c *client) tooLarge() {
	c.srv.limitedLog.Log(slog.LevelWarn, "", "a client's message is too large", "client", c.seq, "key", "engineio.max_payload")
}

// end closes the client's transport after all that is still to be sent. orderly says that the server did so: the client sees
// what it would have seen of that. Otherwise it sees a broken connection, which makes it come back.
func (c *client) end(orderly bool) {
	c.mu.Lock()
	c.sender.ending = true
	c.mu.Unlock()
	if !orderly {
		c.sock.ShowBroken()
	}
	c.sock.Close()
}
