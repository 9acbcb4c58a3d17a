package proxy

import (
	"slices"

	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/metrics"
	"github.com/holdfast/holdfast/session"
)

// connect handles a CONNECT. The client resumes its session, or connects a fresh one on its primary
// link.
func (r *receiver) connect(p *packet) {
	c, start := r.c, instant.Now()
	c.connectDelay.CompareAndSwap(0, int64(start.Sub(c.opened)))
	namespace := string(p.h.Namespace)
	if cur := c.attached(namespace); cur != nil {
		// The client called disconnect() before the reply to its first CONNECT. It sends no
		// DISCONNECT then, and has ignored everything since.
		c.deps.registry.Abort(cur, reason.ClientDisconnect)
		r.protocolError("second CONNECT for a namespace")
		return
	}
	if len(namespace) > maxNamespaceBytes {
		r.protocolError("namespace name too long")
		return
	}
	if r.connecting(namespace) && r.repeats(namespace, p.data) || c.deps.replicas != nil && (mover{r}).postpone(namespace, p) {
		return
	}
	most := c.deps.settings().Limits.MaxNamespacesPerConnection
	if !slices.Contains(r.namespaces, namespace) {
		if surplus := len(r.namespaces) + 1 - most; surplus > 0 {
			r.namespaces = slices.Delete(r.namespaces, 0, surplus)
		}
		r.namespaces = append(r.namespaces, namespace)
	}
	if r.openNamespaces() >= most {
		c.deps.refused(metrics.Namespaces, c.address)
		r.abortFor(reason.Limit, "too many namespaces")
		return
	}
	rest, rec, err := socketio.TakeRecovery(p.data, session.IsPID, session.IsOffset)
	if err != nil {
		r.sendPrimary(p.data, false) // the upstream decides what to do with it
		return
	}
	if r.recoverSession(namespace, p.data, rest, rec, start) || r.parser == parserClosed {
		return
	}
	if r.c.deps.replicas != nil && rec.PID != "" && r.c.recoverable && r.c.keyed == nil {
		mover{r}.connectInstead(namespace, rest, nil)
		return
	}
	r.takeHeldAcks(namespace) // drop them: they answer events of the session that was not resumed
	r.forgetDisconnect(namespace)
	r.connectPrimary(namespace, rest)
}

// recoverSession looks for a session that the client comes back to. It returns false if the client
// must get a fresh one. connect is its CONNECT, and rest the same without pid and offset.
func (r *receiver) recoverSession(namespace string, connect, rest []byte, rec socketio.Recovery, start instant.Instant) bool {
	switch {
	case r.c.keyed != nil:
		return keyedReceiver{r}.connectKeyed(namespace, rest, start)
	case rec.PID == "" || !r.resumeAllowed(namespace):
		return false
	}
	if owner := r.c.deps.replicas.ownerOf(rec.PID); owner != "" {
		return mover{r}.moveTo(owner, namespace, connect, rest)
	}
	claim := r.claim(namespace, rest, rec)
	return postponeForSign(r, claim, connect) || r.resume(claim, start)
}

// resumeAllowed reports whether the client's pid may be looked up at all.
func (r *receiver) resumeAllowed(namespace string) bool {
	c := r.c
	switch {
	case !c.recoverable, !c.deps.settings().recoverable(namespace):
		c.notRecovered(namespace, reason.Excluded)
		return false
	case c.deps.settings().failedResumeRate.Exhausted(c.address):
		c.notRecovered(namespace, reason.Limit)
		return false
	}
	return true
}

// claim returns what the client presents to resume a session. connect is its CONNECT packet without
// pid and offset.
func (r *receiver) claim(namespace string, connect []byte, rec socketio.Recovery) session.Claim {
	return session.Claim{
		PID: rec.PID, Namespace: namespace, Offset: rec.Offset, ForeignOffset: rec.ForeignOffset,
		Binding: r.c.deps.binder.Session(r.c.bindingDigest(), connect), DisconnectedRecently: r.disconnectedRecently(namespace),
	}
}

// resume attaches the client to the session that it claims. It returns false if the client does not
// get it.
func (r *receiver) resume(claim session.Claim, start instant.Instant) bool {
	refused, closed := r.tryResume(claim, start)
	switch {
	case closed:
		r.parser.move(parserClosed)
	case refused != "":
		r.notResumed(claim.Namespace, refused)
	}
	return !closed && refused == ""
}

// notResumed reports why the client did not get its session, and does what follows from that.
func (r *receiver) notResumed(namespace string, why reason.Reason) {
	s, address := r.c.deps, r.c.address
	if why == reason.Handover { // the next process has it in a moment
		r.abortFor(why, "its session is being handed to another process")
		return
	}
	r.c.notRecovered(namespace, why)
	switch why { //nolint:exhaustive // the others need nothing more
	case reason.Stale:
		r.abortFor(reason.TransportClose, "a later connection has the session")
	case reason.Limit:
		s.refused(metrics.TakeoversPerSession, address)
		r.abortLater("its session was taken over too often")
	case reason.UnknownPID, reason.WrongNamespace, reason.Binding: // it may be guessing pids
		s.settings().failedResumeRate.Allow(address)
	}
}

// tryResume attaches the client to the session that it claims, and returns why it does not get it.
// closed says that the client is gone.
func (r *receiver) tryResume(claim session.Claim, start instant.Instant) (refused reason.Reason, closed bool) {
	c, s, namespace := r.c, r.c.deps, claim.Namespace
	how := reason.Resumed
	if c.keyed != nil && c.keyed.tookOver {
		how = reason.Takeover
	}
	for {
		got, closed := c.reattach(claim, start)
		switch {
		case closed:
			return "", true
		case got.Takeover != nil:
			how = reason.Takeover
			clientOf(got.Takeover).abort(reason.Takeover)
			continue
		case got.Cursor == nil:
			if got.Refused == reason.BadOffset || got.Refused == reason.ClientDisconnect {
				s.registry.AbortParked(claim.PID, namespace, got.Refused)
			}
			return got.Refused, false
		}
		s.recovered(c.seq, namespace, how, got)
		if s.replicas != nil {
			s.replicas.lost.resumed(claim.PID, c)
		}
		r.after = max(r.after, afterWake)
		if l := linkOf(got.Cursor.Session()); l.translator != nil {
			c.primary.adopt(l, func() bool { return l.adopt(c) })
		}
		r.markForFlush(linkOf(got.Cursor.Session())) // SessionResumed may have queued a notification
		for _, p := range r.takeHeldAcks(namespace) {
			r.forward(got.Cursor, &p)
		}
		r.after = afterDetach
		return "", false
	}
}

// connecting reports whether a CONNECT for the namespace awaits its reply on the primary link.
func (r *receiver) connecting(namespace string) bool {
	l := r.c.primary.get()
	return l != nil && l.connecting(namespace)
}

// repeats handles a CONNECT for a namespace whose previous CONNECT has no reply yet. The client
// called disconnect(), which sends no packet before the reply, and then connect() again. repeats
// returns false if the new CONNECT must go to the server too.
func (r *receiver) repeats(namespace string, connect []byte) bool {
	rest, _, err := socketio.TakeRecovery(connect, session.IsPID, session.IsOffset)
	if err != nil {
		r.protocolError("second CONNECT for a namespace")
		return true
	}
	l := r.c.primary.get()
	return l != nil && l.repeated(r.c, namespace, rest)
}

// openNamespaces returns how many namespaces the client has sessions in, or awaits a CONNECT reply
// for.
func (r *receiver) openNamespaces() (n int) {
	if l := r.c.primary.get(); l != nil {
		n = l.connectingFor(r.c)
	}
	for e := r.c.sessions.first.Load(); e != nil; e = e.next {
		if e.value.Attached() {
			n++
		}
	}
	return n
}
