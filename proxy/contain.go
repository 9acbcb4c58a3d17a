package proxy

import (
	"runtime/debug"

	"github.com/holdfast/holdfast/metrics"
)

// A panic while one connection's packets are handled is a defect, and ends that connection: not the process, with
// everybody else's.

// contain is deferred by the client's methods that others call.
func (c *client) contain() {
	if v := recover(); v != nil {
		c.srv.panicked(v)
		go c.giveUp(metrics.Internal) // not from here: the caller may hold the Socket's lock
	}
}

// contain is deferred by the link's methods that others call.
func (l *link) contain() {
	if v := recover(); v != nil {
		l.srv.panicked(v)
		l.conn.Close() // ends its sessions
	}
}

// panicked counts and logs a contained panic.
func (s *Server) panicked(v any) {
	s.metrics.Panics.Inc()
	s.log.Error("panic confined to one connection: please report it", "panic", v, "stack", string(debug.Stack()))
}
