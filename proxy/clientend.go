package proxy

import (
	"net/http"
	"time"

	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/session"
)

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
	engineio.LeaveTimeout:   reason.Handover,
	engineio.PeerLost:       reason.PeerLost,
}

// Closed implements engineio.Handler.
func (c *client) Closed(why engineio.Reason) {
	c.deps.conns.removeClient(c)
	if why == engineio.PingTimeout {
		c.deps.metrics.HeartbeatTimeouts.Client.Inc()
	}
	c.deps.log.Debug("client closed", "client", c.seq, "reason", why.String())
	parkedFor, ending := parkingReasons[why], endingOf(why)
	if c.deps.phase.is(phaseLeaving) && why != engineio.GoingAway { // the end of a connection that Leave has cut
		parkedFor, ending = reason.Handover, session.Lost
		if why == engineio.LeaveTimeout {
			c.deps.conns.overdue.Add(1)
		}
	}
	c.parkAs(parkedFor, c.parkFor(why == engineio.GoingAway), ending)
}

// endingOf returns how a client's connection ended, in the terms of package session.
func endingOf(why engineio.Reason) session.Ending {
	if closedOrderly(why) {
		return session.ClosedByClient
	}
	return session.Lost
}

// park parks the client's sessions. When it returns they can be resumed, even if another goroutine
// called it first.
func (c *client) park(why reason.Reason) {
	ending := session.Lost
	switch {
	case why != reason.Takeover:
	case c.sender.gaveSign():
		ending = session.LeftOpen
	default:
		ending = session.Overtaken
	}
	c.parkAs(why, c.parkFor(false), ending)
}

// parkAs parks the client's sessions for at most d. ending says how its connection ended.
func (c *client) parkAs(why reason.Reason, d time.Duration, ending session.Ending) {
	c.detach(func(from detachedClient) {
		if from.primary != nil { // first: if all its sessions end now, the link closes without DISCONNECTs
			from.primary.clientGone(c)
		}
		if c.panicked.Load() { // Closed ran before abortPanicked
			c.failSessions(from)
			return
		}
		from.trials.judge(ending)
		c.sender.settleLag(from.cursors)
		from.fresh.park(&c.clientConn, from.cursors, d, why, ending)
		c.deps.registry.ParkEnded(from.cursors, d, why, ending) // no effect on what fresh parked or ended
		if c.deps.replicas != nil {
			c.deps.replicas.lost.clientGone(c, &from)
		}
		c.deps.notify.flush(from.cursors)
	})
}

// detachedClient is what a client was attached to when it was closed.
type detachedClient struct {
	cursors []*session.Cursor
	fresh   replies
	trials  *trials // or nil
	primary *link   // or nil
}

// detach takes the client off its sessions and its primary link, and passes them to leave. Only the
// first call does anything. Others wait until it is done.
func (c *client) detach(leave func(from detachedClient)) {
	if !c.move(clientClosed) {
		<-c.done.Done()
		return
	}
	defer func() {
		if c.keyed != nil {
			c.deps.keyring.Release(c.keyed.key, c)
		}
		c.done.Fire()
		c.receiver.assembler.release(&c.deps.incomplete)
		c.deps.replicas.left(c)
	}()
	var from detachedClient
	defer func() {
		if v := recover(); v != nil {
			c.deps.reportPanic(v)
			c.failSessions(from)
		}
	}()
	c.takeAttached(&from)
	leave(from)
}

// takeAttached takes everything off a closed client. Nothing can be attached to it any more.
func (c *client) takeAttached(from *detachedClient) {
	c.mu.Lock()
	defer c.mu.Unlock()
	from.cursors = c.sessions.all()
	c.sessions.clear()
	if c.closing != nil {
		c.closing.Stop()
	}
	from.primary = c.primary.close()
	var queued []*session.Cursor
	queued, from.fresh, from.trials = c.sender.close()
	from.cursors = append(from.cursors, queued...)
}

// move changes the client's state. It returns false if the transition does not exist.
func (c *client) move(to clientState) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sender.mu.Lock()
	defer c.sender.mu.Unlock()
	return c.state.moveLocked(to)
}

// isClosed reports whether the client is taken off its sessions, or is about to be.
func (c *client) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state == clientClosed
}

// closeAfter calls end after d, unless the client is gone by then. It replaces an earlier call.
func (c *client) closeAfter(d time.Duration, end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == clientClosed {
		return
	}
	if c.closing != nil {
		c.closing.Stop()
	}
	c.closing = c.sock.AfterFunc(d, end) // stopped by takeAttached
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

// end closes the client's transport after everything that is queued for it. orderly says that the
// server closed the connection: the client then sees the same. Otherwise it sees a broken
// connection, so that it reconnects.
func (c *client) end(orderly bool) {
	c.move(clientDraining)
	if !orderly {
		c.sock.ShowBroken()
	}
	c.sock.Close()
}

// onPrimaryLost tells the client that its primary link has ended. needed says whether the client
// had anything on it. orderly says whether the server closed it properly.
func (c *client) onPrimaryLost(l *link, needed, orderly bool) {
	defer c.recoverPanic()
	if c.primary.clear(l) && (needed || !c.attachedAnywhere()) {
		c.end(orderly)
	}
}

// closeUnlessConnected closes the client after the timeout if it then has no primary link and has
// resumed no session.
func (c *client) closeUnlessConnected(timeout time.Duration) {
	c.closeAfter(timeout, func() {
		if c.primary.get() == nil && c.sessions.empty() && !c.pauses.has(redialing) {
			c.sock.Close()
		}
	})
}

// leave detaches the client from everything that it has here. Another replica serves its
// connection.
func (c *client) leave() {
	c.deps.conns.removeClient(c)
	c.detach(func(from detachedClient) {
		if from.primary != nil {
			from.primary.detach(c)
		}
	})
}

// recoverPanic is deferred by the methods that a link calls: the panic must not end the link.
func (c *client) recoverPanic() {
	if v := recover(); v != nil {
		c.Panicked(v)
	}
}

// Panicked implements engineio.Handler.
func (c *client) Panicked(v any) {
	c.panicked.Store(true)
	c.deps.reportPanic(v)
	go c.abortPanicked() // in a goroutine: the caller may hold the Socket's lock, or c.mu
}

// abortPanicked ends the client and its sessions. A step that panics does not prevent the next.
func (c *client) abortPanicked() {
	for _, step := range []func(){
		func() { c.deps.conns.removeClient(c) },
		func() { c.detach(c.failSessions) },
		c.sock.ShowBroken, c.sock.Abort,
	} {
		c.deps.safely(step)
	}
}

// failSessions ends what the client was attached to: its sessions, and its primary link with
// everything else on it.
func (c *client) failSessions(from detachedClient) {
	if from.primary != nil {
		from.primary.clientGone(c)
		from.primary.Abort()
	}
	for _, cur := range from.cursors { // each on its own, because any may panic again
		c.deps.safely(func() { c.deps.registry.Abort(cur, reason.Internal) })
	}
}

// recoverRequest is deferred where a request from this client is handled. A panic ends the client
// too.
func (c *client) recoverRequest() {
	if v := recover(); v != nil {
		if v != http.ErrAbortHandler { //nolint:errorlint // as above
			c.Panicked(v)
		}
		panic(http.ErrAbortHandler)
	}
}
