package netpoll

import "slices"

// This file is how a Conn becomes a Stream. New sets the Handler that comes next, and Start hands
// the Stream over to it. The loop may be calling the Conn's own Handler just then. What the Conn
// received but has not passed on becomes the Stream's initial bytes.

// connHandler is the Handler of a Conn's Stream until the Stream is handed over.
type connHandler struct{ c *Conn }

// Read implements Handler.
func (h connHandler) Read(p []byte) {
	c := h.c
	c.mu.Lock()
	switch c.state {
	case handedOver: // just now
		c.mu.Unlock()
		c.s.passOn(p)
		return
	case discarding:
		c.mu.Unlock()
		return
	case connecting, connected:
	}
	c.buf = append(c.buf, p...)
	if len(c.buf) >= connBufferBytes {
		c.s.setFull(true)
	}
	c.changed.Broadcast()
	c.mu.Unlock()
	if c.notify != nil {
		c.notify()
	}
}

// Flush implements Handler.
func (h connHandler) Flush() {
	if h.c.handedOver() { // since it was read
		h.c.next.Flush()
	}
}

// Drained implements Handler.
func (h connHandler) Drained() {
	c := h.c
	c.mu.Lock()
	over := c.state == handedOver
	c.drained = true
	c.mu.Unlock()
	if over {
		c.next.Drained()
	}
}

// Closed implements Handler.
func (h connHandler) Closed(err error) {
	c := h.c
	c.mu.Lock()
	over := c.state == handedOver
	c.err = err
	c.changed.Broadcast()
	c.mu.Unlock()
	switch {
	case over: // just now: the new Handler first reads what the Conn received
		c.s.mu.Lock()
		c.s.reportEndLocked(err)
		c.s.mu.Unlock()
	case c.notify != nil:
		c.notify()
	}
}

func (c *Conn) handedOver() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state == handedOver
}

// connected notes that the kernel has connected the Conn.
func (c *Conn) connected() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.moveLocked(connected)
	c.changed.Broadcast()
}

// become makes h the Handler of the Conn's Stream from its Start on.
func (c *Conn) become(h Handler) Stream {
	c.next = h
	return c.s
}

// handOver starts the Stream for its next Handler.
func (c *Conn) handOver(initial []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deadline != nil {
		c.deadline.Stop()
	}
	initial = append(slices.Clip(initial), c.buf...)
	c.buf = nil
	c.moveLocked(handedOver)
	c.s.handOver(c.next, initial, c.err)
	if c.drained && c.err == nil {
		go safely(c.s, c.next.Drained) // which must not be called with a lock held
	}
}

// handOver gives the Stream its Handler. ended is not nil if the connection has ended.
func (s *loopStream) handOver(h Handler, initial []byte, ended error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.h, s.conn, s.initial = h, nil, initial
	if s.read == readFull {
		s.readOnLocked()
	}
	switch {
	case ended != nil:
		s.reportEndLocked(ended)
	case len(initial) > 0, s.missed:
		s.loop.schedule(s) // no event will come for that
	}
}

// setFull stops reading for a Conn that has enough for now, or resumes it.
func (s *loopStream) setFull(full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !full && s.read == readFull:
		s.readOnLocked()
	case full && s.phase != failed && s.phase != closing: // else the end must be found
		s.read.moveLocked(readFull)
	}
}

// passOn gives p to the Handler that the Stream was handed over to while p was read. What the Conn
// received comes first. It runs in the loop.
func (s *loopStream) passOn(p []byte) {
	s.mu.Lock()
	h, initial := s.h, s.initial
	switch {
	case s.phase == closing:
		s.mu.Unlock()
		return
	case s.read == readPaused:
		s.initial, s.missed = append(initial, p...), true
		s.mu.Unlock()
		return
	}
	s.initial = nil
	s.mu.Unlock()
	if len(initial) > 0 {
		h.Read(initial)
	}
	h.Read(p)
}
