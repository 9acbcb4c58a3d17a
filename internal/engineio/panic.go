package engineio

import "time"

// A panic here or in a handler is a bug. It ends the connection on which it happened; the process
// and all other connections continue. These entry points recover:
//
//   - stream callbacks: package netpoll recovers, closes the stream and calls Panicked
//   - timers: Socket.afterFunc and Conn.afterFunc; AfterFunc for those of a handler
//   - goroutines: Conn.run and Socket.Go
//   - calls from the code of another connection that lead to a handler: Socket.Wake, Input, Close
//     and Abort, and Conn.Start. The panic must not end the caller's connection.
//
// Poll, Post and ServeProbe are called from HTTP handlers, which recover themselves. All other
// exported methods call no handler. Locks are released by defer, so none stays locked after a
// panic. recoverPanic is deferred before a lock is taken, so that the lock is free when it calls
// the handler.

// recoverPanic must be deferred. It reports a panic to the Handler.
func (s *Socket) recoverPanic() {
	if v := recover(); v != nil {
		s.h.Panicked(v)
	}
}

// afterFunc calls fn after d in a goroutine of its own, with mu held.
func (s *Socket) afterFunc(d time.Duration, fn func(*Socket)) *time.Timer {
	return time.AfterFunc(d, func() {
		defer s.recoverPanic()
		s.mu.Lock()
		defer s.unlock()
		fn(s)
	})
}

// AfterFunc calls fn after d in a goroutine of its own, without a lock. A panic in fn is one of the
// Handler's.
func (s *Socket) AfterFunc(d time.Duration, fn func()) *time.Timer {
	return time.AfterFunc(d, func() { s.run(fn) })
}

// Go calls fn in a goroutine of its own. A panic in fn is one of the Handler's.
func (s *Socket) Go(fn func()) { go s.run(fn) }

func (s *Socket) run(fn func()) {
	defer s.recoverPanic()
	fn()
}

// recoverPanic must be deferred. It reports a panic to the handler.
func (c *Conn) recoverPanic() {
	if v := recover(); v != nil {
		c.panicked(v)
	}
}

func (c *Conn) panicked(v any) {
	if h := c.handler(); h != nil {
		h.Panicked(v)
	}
}

// handler returns nil before Start.
func (c *Conn) handler() ConnHandler {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.h
}

// afterFunc calls fn after d in a goroutine of its own, with mu held.
func (c *Conn) afterFunc(d time.Duration, fn func(*Conn)) *time.Timer {
	return time.AfterFunc(d, func() {
		defer c.recoverPanic()
		c.mu.Lock()
		defer c.mu.Unlock()
		fn(c)
	})
}

// AfterFunc calls fn after d in a goroutine of its own, without a lock. A panic in fn is one of the
// handler's.
func (c *Conn) AfterFunc(d time.Duration, fn func()) *time.Timer {
	return time.AfterFunc(d, func() { c.run(func(*Conn) { fn() }) })
}

// run is the entry point of the Conn's goroutines.
func (c *Conn) run(fn func(*Conn)) {
	defer c.recoverPanic()
	fn(c)
}

// withoutLock releases mu, which the caller holds, while fn runs.
func (c *Conn) withoutLock(fn func()) {
	c.mu.Unlock()
	defer c.mu.Lock()
	fn()
}
