package proxy

import (
	"slices"
	"time"

	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/metrics"
	"github.com/holdfast/holdfast/session"
)

// connect handles a CONNECT. The client resumes its session, or connects a fresh one on its primary
// link.
func (c *client) connect(p *packet) {
	start := time.Now()
	c.connectDelay.CompareAndSwap(0, int64(start.Sub(c.opened)))
	in := &c.receiver
	namespace := string(p.h.Namespace)
	if cur := c.attached(namespace); cur != nil {
		// The client called disconnect() before the reply to its first CONNECT. It sends no
		// DISCONNECT then, and has ignored everything since.
		c.srv.registry.Abort(cur, reason.ClientDisconnect)
		c.protocolError("second CONNECT for a namespace")
		return
	}
	if len(namespace) > maxNamespaceBytes {
		c.protocolError("namespace name too long")
		return
	}
	if c.connecting(namespace) && c.repeats(namespace, p.data) {
		return
	}
	most := c.srv.settings().Limits.MaxNamespacesPerConnection
	if !slices.Contains(in.namespaces, namespace) {
		if surplus := len(in.namespaces) + 1 - most; surplus > 0 {
			in.namespaces = slices.Delete(in.namespaces, 0, surplus)
		}
		in.namespaces = append(in.namespaces, namespace)
	}
	if c.openNamespaces() >= most {
		c.srv.refused(metrics.Namespaces, c.address)
		c.abortFor(reason.Limit, "too many namespaces")
		return
	}
	rest, rec, err := socketio.TakeRecovery(p.data, session.IsPID, session.IsOffset)
	if err != nil {
		c.sendPrimary(p.data, false) // the upstream decides what to do with it
		return
	}
	if rec.PID != "" {
		if c.resumeAllowed(namespace) && c.resume(c.claim(namespace, rest, rec), start) || c.receiver.dropped {
			return
		}
	}
	c.takeHeldAcks(namespace) // drop them: they answer events of the session that was not resumed
	c.forgetDisconnect(namespace)
	c.connectPrimary(namespace, rest)
}

// resumeAllowed reports whether the client's pid may be looked up at all.
func (c *client) resumeAllowed(namespace string) bool {
	switch {
	case !c.recoverable, !c.srv.settings().recoverable(namespace):
		c.srv.notRecovered(c, namespace, reason.Excluded)
		return false
	case c.srv.settings().failedResumeRate.Exhausted(c.address):
		c.srv.notRecovered(c, namespace, reason.Limit)
		return false
	}
	return true
}

// claim returns what the client presents to resume a session. connect is its CONNECT packet without
// pid and offset.
func (c *client) claim(namespace string, connect []byte, rec socketio.Recovery) session.Claim {
	return session.Claim{
		PID: rec.PID, Namespace: namespace, Offset: rec.Offset, ForeignOffset: rec.ForeignOffset,
		Binding: c.srv.binder.session(c.bindingDigest, connect), DisconnectedRecently: c.disconnectedRecently(namespace),
	}
}

// resume attaches the client to the session that it claims. It returns false if the client does not
// get it.
func (c *client) resume(claim session.Claim, start time.Time) bool {
	s, namespace := c.srv, claim.Namespace
	how := reason.Resumed
	for {
		r, closed := c.reattach(claim, start)
		switch {
		case closed:
			c.receiver.dropped = true
			return false
		case r.Takeover != nil:
			how = reason.Takeover
			clientOf(r.Takeover).abort(reason.Takeover)
			continue
		case r.Cursor == nil:
			s.notRecovered(c, namespace, r.Refused)
			switch r.Refused { //nolint:exhaustive // the others need nothing more
			case reason.Stale:
				c.abortFor(reason.TransportClose, "a later connection has the session")
			case reason.Limit:
				s.refused(metrics.TakeoversPerSession, c.address)
				c.abortLater("its session was taken over too often")
			case reason.UnknownPID, reason.WrongNamespace, reason.Binding: // it may be guessing pids
				s.settings().failedResumeRate.Allow(c.address)
			case reason.BadOffset, reason.ClientDisconnect:
				s.registry.AbortParked(claim.PID, namespace, r.Refused)
			}
			return false
		}
		s.recovered(c, namespace, how, r)
		c.receiver.wakeSocket = true
		c.markForFlush(linkOf(r.Cursor.Session())) // SessionResumed may have queued a notification
		for _, p := range c.takeHeldAcks(namespace) {
			c.forward(r.Cursor, &p)
		}
		c.receiver.resumed = true
		return true
	}
}

// reattach asks the registry for the session. If the client gets it, reattach queues the reply and
// the missed packets. closed says that the client is gone.
func (c *client) reattach(claim session.Claim, start time.Time) (r session.Resumption, closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return r, true
	}
	r = c.srv.registry.Resume(claim, c)
	if r.Cursor == nil {
		return r, false
	}
	c.sessions.set(claim.Namespace, r.Cursor)
	c.forgetEndedLocked()
	c.disconnects.remove(claim.Namespace)
	c.sender.pushRaw(r.Reply, false, linkOf(r.Cursor.Session()))
	if r.Trial != nil {
		c.startTrial(r.Cursor, r.Trial)
	}
	if r.ToRead > 0 {
		c.sender.push(r.Cursor, r.ToRead)
		c.sender.resumed(r.Cursor, start)
	} else {
		c.srv.metrics.RecoveryDuration.Observe(time.Since(start).Seconds())
	}
	return r, false
}
