package proxy

import (
	"net/http"
	"runtime/debug"

	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/session"
)

// A panic while one connection is handled is a defect, and ends that connection with its sessions: not the process, with
// everybody else's. So every way into this package leads past a contain, or past engineio's, and locks are given up by defer
// wherever something could go wrong under them.

// contain is deferred by the client's methods that others call, but for Message: whoever reads a connection contains what its
// messages do.
func (c *client) recoverPanic() {
	if v := recover(); v != nil {
		c.Panicked(v)
	}
}

// Panicked implements engineio.Handler.
func (c *client) Panicked(v any) {
	c.panicked.Store(true)
	c.srv.reportPanic(v)
	go c.abortPanicked() // not from here: the caller may hold the Socket's lock, or ours
}

// fail ends the client and its sessions, as far as that still goes.
func (c *client) abortPanicked() {
	for _, step := range []func(){
		func() { c.srv.removeClient(c) },
		func() {
			c.detach(func(cursors []*session.Cursor, _ []freshReply, primary *link) { c.failSessions(cursors, primary) })
		},
		c.sock.ShowBroken, c.sock.Abort,
	} {
		c.srv.safely(step)
	}
}

// failSessions ends the sessions with these cursors, and the client's primary link with whatever else is on it.
func (c *client) failSessions(cursors []*session.Cursor, primary *link) {
	if primary != nil {
		primary.release(c, true)
		primary.Abort()
	}
	for _, cur := range cursors { // one by one: there may be something wrong with any
		c.srv.safely(func() { c.srv.registry.Abort(cur, reason.Internal) })
	}
}

// contain is deferred by the link's methods that others call, but for Message.
func (l *link) recoverPanic() {
	if v := recover(); v != nil {
		l.Panicked(v)
	}
}

// Panicked implements engineio.ConnHandler.
func (l *link) Panicked(v any) {
	l.srv.reportPanic(v)
	go l.Abort() // not from here: the caller may hold our lock
}

// Fail ends the link with its sessions.
func (l *link) Abort() { l.srv.safely(l.conn.Close) }

// guard runs fn, and only tells of its panic: there is nothing left to end.
func (s *Server) safely(fn func()) {
	defer func() {
		if v := recover(); v != nil {
			s.reportPanic(v)
		}
	}()
	fn()
}

// recoverRequest is deferred by ServeHTTP: a request whose handling panics is not answered, and its connection ends.
func (s *Server) recoverRequest() {
	if v := recover(); v != nil {
		if v != http.ErrAbortHandler { //nolint:errorlint // else it is meant so; net/http compares it so, too
			s.reportPanic(v)
		}
		panic(http.ErrAbortHandler)
	}
}

// recoverRequest is deferred where a request of this client's is handled.
func (c *client) recoverRequest() {
	if v := recover(); v != nil {
		if v != http.ErrAbortHandler { //nolint:errorlint // as above
			c.Panicked(v)
		}
		panic(http.ErrAbortHandler)
	}
}

// panicked counts and logs a contained panic.
func (s *Server) reportPanic(v any) {
	s.metrics.Panics.Inc()
	s.log.Error("panic confined to one connection: please report it", "panic", v, "stack", string(debug.Stack()))
}
