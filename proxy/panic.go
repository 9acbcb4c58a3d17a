package proxy

import (
	"net/http"
	"runtime/debug"

	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/session"
)

// A panic while one connection is handled is a bug. It ends that connection and its sessions, but
// not the process. So every entry point of this package defers recoverPanic, or its caller in
// engineio recovers. Locks are released by defer wherever code under them could panic.

// recoverPanic is deferred by the client's methods that other code calls. Message does not need it:
// the reader of a connection recovers panics of its messages.
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

// recoverPanic is deferred by the link's methods that other code calls, except Message.
func (l *link) recoverPanic() {
	if v := recover(); v != nil {
		l.Panicked(v)
	}
}

// Panicked implements engineio.ConnHandler.
func (l *link) Panicked(v any) {
	l.deps.reportPanic(v)
	go l.Abort() // in a goroutine: the caller may hold l.mu
}

// Abort ends the link with its sessions.
func (l *link) Abort() { l.deps.safely(l.conn.Close) }

// safely runs fn and reports its panic. It ends nothing, because its callers already do.
func (r *reporter) safely(fn func()) {
	defer func() {
		if v := recover(); v != nil {
			r.reportPanic(v)
		}
	}()
	fn()
}

// recoverRequest is deferred by ServeHTTP. A request whose handler panics gets no answer, and its
// connection ends.
func (r *reporter) recoverRequest() {
	if v := recover(); v != nil {
		if v != http.ErrAbortHandler { //nolint:errorlint // no bug; net/http compares it the same way
			r.reportPanic(v)
		}
		panic(http.ErrAbortHandler)
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

// reportPanic counts and logs a recovered panic.
func (r *reporter) reportPanic(v any) {
	r.metrics.Panics.Inc()
	r.log.Error("panic confined to one connection: please report it", "panic", v, "stack", string(debug.Stack()))
}

// observer is the session.Observer: a reporter that also ends the links of a panic.
type observer struct {
	*reporter
	keyring *keyring
}

// Closed implements session.Observer.
func (o observer) Closed(s *session.Session, why reason.Reason, was session.State, buffered int) {
	o.keyring.closed(s, why)
	o.reporter.Closed(s, why, was, buffered)
}

// Panicked implements session.Observer.
func (o observer) Panicked(v any, sessions []*session.Session) {
	o.reportPanic(v)
	for _, s := range sessions {
		linkOf(s).Abort()
	}
}
