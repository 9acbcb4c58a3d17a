package engineio

// A panic while one connection is handled is a defect, and ends that connection. Every way in leads past a contain: the
// exported methods, that others call with locks of their own held (Poll and Post, which are called from HTTP handlers that contain
// panics, have none); timers; goroutines; and what a stream reads. (Package stream
// recovers too, but ends the stream before it tells of it: a Handler would hear of that end first.) It is deferred before a
// lock is taken, so that the lock is free when the Handler is told.

// contain is deferred where a panic of the Socket's, or of its Handler's, is not to go on.
func (s *Socket) contain() {
	if v := recover(); v != nil {
		s.h.Panicked(v)
	}
}

// Panicked implements netpoll.PanicHandler.
func (t *wsTransport) Panicked(v any) { t.socket.h.Panicked(v) }

// contain is deferred where a panic of the Conn's, or of its handler's, is not to go on.
func (c *Conn) contain() {
	if v := recover(); v != nil {
		c.panicked(v)
	}
}

func (c *Conn) panicked(v any) {
	if h := c.handler(); h != nil {
		h.Panicked(v)
	}
}

func (c *Conn) handler() ConnHandler {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.h
}

// Panicked implements netpoll.PanicHandler.
func (l *wsLink) Panicked(v any) { (*Conn)(l).panicked(v) }

// unlocked runs fn without the lock that its caller holds, and goes on to hold.
func (c *Conn) unlocked(fn func()) {
	c.mu.Unlock()
	defer c.mu.Lock()
	fn()
}
