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
	sock *engineio.Socket // immutable
	mu   sync.Mutex       // guards the fields below, up to goodbyes, but for those that say otherwise
	out  outgoing

	srv      *Server                   // immutable
	sessions snapshot[*session.Cursor] // changed with mu held

	closed   bool
	fresh    []freshReply          // whose arrival is not known yet; nil for most
	closing  *time.Timer           // nil for most
	home     *link                 // of its own handshake; nil while none is needed
	goodbyes byNamespace[*goodbye] // to sessions that it left
	stopDial context.CancelFunc    // of a further home; nil unless one is dialled

	in incoming // owned by the Socket's input

	partialBytes atomic.Int64 // of in.partial, as counted in Server.incomplete
	websocket    atomic.Bool
	pauses       pauses       // of its input
	connectDelay atomic.Int64 // from its handshake to its first CONNECT, in nanoseconds; 0 before that
	failed       atomic.Bool  // by a panic
	detached     sync.Once
	done         ending // the client is gone and its sessions are parked

	// Immutable.
	byWebSocket bool         // the handshake was
	recoverable bool         // sessions of its are, in namespaces that have recovery
	parks       bool         // its sessions are parked when it says goodbye to them
	order       uint64       // of its handshake
	opened      time.Time    // when its handshake was answered
	address     netip.Addr   // where it comes from
	request     savedRequest // its handshake, to be repeated if a further home is needed
	later       http.Header  // for its polling responses
	bound       string       // digest of what its handshake has of recovery.bind
}

func newClient(s *Server, order uint64, req engineio.Request, sid string, opts engineio.Options, recoverable bool) *client {
	c := &client{
		srv: s, order: order, request: saveRequest(req), byWebSocket: req.WebSocket, recoverable: recoverable,
		bound: s.binder.handshake(req), opened: time.Now(),
	}
	c.parks = recoverable && s.settings().Recovery.OnClientDisconnect == config.ParkSession
	opts.TooLarge = c.tooLarge
	opts.Incomplete, opts.ConfirmByPong = c.takeIncomplete, c.parks
	c.sock = engineio.NewSocket(sid, opts, c)
	c.out.init(s.settings().Recovery.Buffer.Window.Int(), opts.PingTimeout)
	c.in.limits = incomingLimits(opts.MaxPayload, int64(s.settings().EngineIO.MaxPayload))
	return c
}

// Handshake implements session.Owner.
func (c *client) Handshake() uint64 { return c.order }

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
	defer c.contain()
	c.srv.removeClient(c)
	if why == engineio.PingTimeout {
		c.srv.metrics.HeartbeatTimeouts.Client.Inc()
	}
	c.srv.log.Debug("client closed", "client", c.order, "reason", why.String())
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
	c.detach(func(cursors []*session.Cursor, fresh []freshReply, home *link) {
		if home != nil { // first, for a link whose sessions all end now is to be closed, not only disconnected
			home.release(c, true)
		}
		if c.failed.Load() { // its end was heard of before fail was called
			c.failSessions(cursors, home)
			return
		}
		c.judgeTrial(ending)
		c.settleLagged(ending)
		c.parkFresh(fresh, d, why, ending)
		c.srv.registry.ParkEnded(cursors, d, why, ending) // but for those whose place was found above
		c.srv.flushNotified(cursors)
	})
}

// detach takes the client off its sessions and its home, and leaves what becomes of them to the function. Only the first
// call does anything; the others wait for it.
func (c *client) detach(leave func(cursors []*session.Cursor, fresh []freshReply, home *link)) {
	c.detached.Do(func() {
		defer func() {
			c.done.happen()
			c.freePartial()
		}()
		cursors, fresh, home := c.letGo()
		defer func() {
			if v := recover(); v != nil {
				c.srv.panicked(v)
				c.failSessions(cursors, home)
			}
		}()
		leave(cursors, fresh, home)
	})
}

// letGo closes the client for anything further, and returns what it was attached to.
func (c *client) letGo() (cursors []*session.Cursor, fresh []freshReply, home *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	cursors = c.sessions.all()
	home = c.home
	c.home = nil
	fresh, c.fresh = c.fresh, nil
	c.sessions.clear()
	if c.closing != nil {
		c.closing.Stop()
	}
	if c.stopDial != nil {
		c.stopDial()
	}
	c.srv.guard(func() { cursors = append(cursors, c.out.cursors()...) })
	c.srv.guard(c.out.close)
	c.out.stopTrials()
	if c.out.lagTimer != nil {
		c.out.lagTimer.Stop()
	}
	return cursors, fresh, home
}

// closeAfterLocked calls end after a while, unless the client is gone by then.
func (c *client) closeAfterLocked(d time.Duration, end func()) {
	if c.closing != nil {
		c.closing.Stop()
	}
	c.closing = time.AfterFunc(d, end) // stopped by letGo
}

func (c *client) parkFor(goingAway bool) time.Duration {
	r := c.srv.settings().Recovery
	if goingAway {
		return min(r.GoingAwayDuration, r.MaxDisconnectionDuration)
	}
	return r.MaxDisconnectionDuration
}

// giveUp closes the client at once, because another takes its sessions over, say. They are parked when it returns.
func (c *client) giveUp(why reason.Reason) {
	c.park(why)
	switch why { //nolint:exhaustive // all others want the client back
	case reason.ParseError, reason.Limit: // for what it sent: it is closed in order, as the server would do it
	default:
		c.sock.ShowBroken()
	}
	c.sock.Abort()
}

// takeHome makes l the client's home, unless the client has gone.
func (c *client) takeHome(l *link) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.home = l
	return true
}

// homeLost says that a link which is this client's home has ended, in which way, and whether anything of the client's was on
// it.
func (c *client) homeLost(l *link, needed, orderly bool) {
	defer c.contain()
	if c.dropHome(l) && (needed || !c.attachedAnywhere()) {
		c.end(orderly)
	}
}

// dropHome makes l the client's home no longer, and reports whether it was.
func (c *client) dropHome(l *link) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.home == l
	if was {
		c.home = nil
	}
	return was
}

func (c *client) attachedAnywhere() bool {
	return slices.ContainsFunc(c.sessions.all(), (*session.Cursor).Attached)
}

// connected attaches the client to a fresh session, whose CONNECT reply has come. It returns false if the client has gone.
func (c *client) connected(l *link, namespace string, reply connectReply, binding session.Binding, resumable bool) (ok bool) {
	defer c.contain()
	if !c.attach(l, namespace, reply, binding, resumable) {
		return false
	}
	c.srv.metrics.SessionsCreated.Inc()
	c.srv.log.Debug("session opened", "client", c.order, "namespace", namespace, "resumable", resumable)
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
	c.out.pushRaw(reply.withPID(s), false, l)
	c.out.pending[len(c.out.pending)-1].fresh = s.PID() != ""
	return true
}

// deliver says that a session's log has n packets for the client; the Socket is woken later, by its link.
func (c *client) deliver(cur *session.Cursor, n int) {
	defer c.contain()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.push(cur, n)
}

// relay sends the client a message that belongs to no session.
func (c *client) relay(data []byte, binary bool, l *link) {
	defer c.contain()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.out.pushRaw(slices.Clone(data), binary, l)
	}
}

// tooLarge tells of a message that Options.MaxPayload forbids.
func (c *client) tooLarge() {
	c.srv.limitedLog.Log(slog.LevelWarn, "", "a client's message is too large", "client", c.order, "key", "engineio.max_payload")
}

// end closes the client's transport after all that is still to be sent. orderly says that the server did so: the client sees
// what it would have seen of that. Otherwise it sees a broken connection, which makes it come back.
func (c *client) end(orderly bool) {
	c.mu.Lock()
	c.out.ending = true
	c.mu.Unlock()
	if !orderly {
		c.sock.ShowBroken()
	}
	c.sock.Close()
}
